"""Windows of `T` frames of an episode, and the batches made of them. NumPy only.

    episode        0  1  2  3  4  5  6          L = 7 steps
    stride 3       .  .  .  .  .  .  .          windows end at 6, 3, 0 (from the episode's end backwards)
      end 6                 3  4  5  6          T = 4
      end 3        0  1  2  3
      end 0     -  -  -  0                      frames before the episode are zero: padding

A stride equal to T uses every frame exactly once; stride 1 makes one window per step, as RT-1 trains.
"""
import dataclasses
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]

_DEVICE = ('images', 'embeddings', 'actions', 'mask', 'frames', 'proprioception')


@dataclasses.dataclass(frozen=True)
class WindowConfig:
  """How windows are cut from an episode.

  Attributes:
    length: T, frames of a window.
    stride: steps between the ends of neighbouring windows.
    horizon: F, how many actions each frame predicts: its own and those of the next F - 1 steps.
    padding_in_loss: whether the zero actions of padded frames are targets too, as in RT-1-X's training.
  """
  length: int = 6
  stride: int = 1
  horizon: int = 1
  padding_in_loss: bool = False

  def __post_init__(self) -> None:
    for name in ('length', 'stride', 'horizon'):
      if getattr(self, name) < 1:
        raise ValueError(f'WindowConfig: {name} is {getattr(self, name)}, it must be at least 1.')


def window_ends(episode_length: int, config: WindowConfig) -> np.ndarray:
  """The last step of each window of an episode, ascending, int [number of windows]; none for an empty episode."""
  return np.arange(episode_length - 1, -1, -config.stride)[::-1]


def window_targets(end: int, episode_length: int, config: WindowConfig) -> tuple[np.ndarray, np.ndarray]:
  """Which actions a window predicts, and which of them count.

  Returns:
    steps: int [T, F], the steps whose actions they are; -1 for a zero action (padded frame, or after the end).
    mask: bool [T, F], True where the target counts in the loss.
  """
  frames = np.arange(end - config.length + 1, end + 1)[:, None]  # [T, 1], negative where padded
  steps = frames + np.arange(config.horizon)
  inside = (frames >= 0) & (steps < episode_length)
  return np.where(inside, steps, -1), inside | (frames < 0) if config.padding_in_loss else inside


def take(array: np.ndarray, steps: np.ndarray) -> np.ndarray:
  """`array[steps]`, zero where a step is negative: [L, ...] and int [*S] to [*S, ...]."""
  out = np.zeros(steps.shape + array.shape[1:], array.dtype)
  out[steps >= 0] = array[steps[steps >= 0]]
  return out


def device_part(batch: dict[str, Any]) -> Batch:
  """The numeric arrays of a batch, those that the train step takes; instructions and numbers stay on the host."""
  return {name: batch[name] for name in _DEVICE if name in batch}
