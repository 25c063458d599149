"""Windows of `T` frames of an episode, and the batches made of them. NumPy only.

    episode        0  1  2  3  4  5  6          L = 7 steps
    stride 3       .  .  .  .  .  .  .          windows end at 6, 3, 0 (from the episode's end backwards)
      end 6                 3  4  5  6          T = 4
      end 3        0  1  2  3
      end 0     -  -  -  0                      a window that begins before the episode is padded with zeros
                0  -  -  -                      padding 'back': in its last slots, and never in the loss

A stride equal to T uses every frame exactly once; stride 1 makes one window per step, as RT-1 trains. A policy that
fills its slots from the first one on, as the official one, sees early frames where padding 'back' puts them; the mask
of the transformer then hides the later slots.
"""
import dataclasses
from typing import Any, Literal, get_args

import numpy as np

Batch = dict[str, np.ndarray]

Padding = Literal['front', 'back']

_DEVICE = ('images', 'embeddings', 'actions', 'mask', 'frames', 'proprioception', 'waypoints')


@dataclasses.dataclass(frozen=True)
class WindowConfig:
  """How windows are cut from an episode.

  Attributes:
    length: T, frames of a window.
    stride: steps between the ends of neighbouring windows.
    horizon: F, how many actions each frame predicts: its own and those of the next F - 1 steps.
    padding_in_loss: whether the zero actions of padded frames are targets too, as in RT-1-X's training; only where
      padding is in front.
    padding: which slots stay empty while an episode is shorter than a window: those in front of its frames, as in
      RT-1-X, or those behind them.
  """
  length: int = 6
  stride: int = 1
  horizon: int = 1
  padding_in_loss: bool = False
  padding: Padding = 'front'

  def __post_init__(self) -> None:
    for name in ('length', 'stride', 'horizon'):
      if getattr(self, name) < 1:
        raise ValueError(f'WindowConfig: {name} is {getattr(self, name)}, it must be at least 1.')
    if self.padding not in get_args(Padding):
      raise ValueError(f"WindowConfig: padding is {self.padding!r}, expected 'front' or 'back'.")
    if self.padding == 'back' and self.padding_in_loss:
      raise ValueError("WindowConfig: padding_in_loss is on and padding is 'back', where slots behind the newest frame "
                       'have no action to learn. Turn padding_in_loss off, or pad in front.')


def window_ends(episode_length: int, config: WindowConfig) -> np.ndarray:
  """The last step of each window of an episode, ascending, int [number of windows]; none for an empty episode."""
  return np.arange(episode_length - 1, -1, -config.stride)[::-1]


def window_slots(end: int, config: WindowConfig) -> tuple[slice, slice]:
  """Which slots of a window show frames, and which steps of the episode these are; the other slots are padding."""
  count = min(config.length, end + 1)
  first = config.length - count if config.padding == 'front' else 0
  return slice(first, first + count), slice(end + 1 - count, end + 1)


def window_targets(end: int, episode_length: int, config: WindowConfig) -> tuple[np.ndarray, np.ndarray]:
  """Which actions a window predicts, and which of them count.

  Returns:
    steps: int [T, F], the steps whose actions they are; -1 for a zero action (padded frame, or after the end).
    mask: bool [T, F], True where the target counts in the loss.
  """
  slots, shown = window_slots(end, config)
  steps = np.full((config.length, config.horizon), -1)
  steps[slots] = np.arange(shown.start, shown.stop)[:, None] + np.arange(config.horizon)
  steps[steps >= episode_length] = -1
  mask = steps >= 0
  if config.padding_in_loss:
    mask[:slots.start] = True
  return steps, mask


def take(array: np.ndarray, steps: np.ndarray) -> np.ndarray:
  """`array[steps]`, zero where a step is negative: [L, ...] and int [*S] to [*S, ...]."""
  out = np.zeros(steps.shape + array.shape[1:], array.dtype)
  out[steps >= 0] = array[steps[steps >= 0]]
  return out


def next_changes(commands: np.ndarray) -> np.ndarray:
  """For each step the next one whose command is another than its own; the last step where none is. int [L] to [L]."""
  steps = np.arange(len(commands))
  changes = np.flatnonzero(commands[1:] != commands[:-1]) + 1
  return np.append(changes, len(commands) - 1)[np.searchsorted(changes, steps, side='right')]


def device_part(batch: dict[str, Any]) -> Batch:
  """The numeric arrays of a batch, those that the train step takes; instructions and numbers stay on the host."""
  return {name: batch[name] for name in _DEVICE if name in batch}
