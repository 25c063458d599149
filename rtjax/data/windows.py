"""Windows of T frames of an episode, and batches of them.

    episode        0  1  2  3  4  5  6          7 steps
    stride 3       .  .  .  .  .  .  .          windows end at 6, 3, 0 (from the episode's end backwards)
      end 6                 3  4  5  6          T = 4
      end 3        0  1  2  3
      end 0     -  -  -  0                      zeros pad a window that begins before the episode
                0  -  -  -                      padding 'back': the last slots are empty, and never in the loss

A stride of T uses every frame exactly once; stride 1 makes one window per step, as RT-1 trains. A policy that fills its
slots from the first one on, as the official one does, sees early frames where padding 'back' puts them; the mask of the
transformer then hides the later slots.
"""
import dataclasses
from typing import Any, Literal, get_args

import numpy as np

from rtjax.observation import Batch, Observation

Padding = Literal['front', 'back']


@dataclasses.dataclass(frozen=True)
class WindowConfig:
  """Shape and spacing of the windows of an episode.

  Attributes:
    length: T, frames of a window.
    stride: steps between the ends of neighbouring windows.
    horizon: F, actions that each frame predicts: its own and those of the next F - 1 steps.
    padding_in_loss: whether the zero actions of padded frames are targets too, as in RT-1-X's training; needs padding
      'front'.
    padding: slots that stay empty while an episode is shorter than a window: those in front of its frames, as in
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
                       "have no action to learn. Turn padding_in_loss off, or set padding to 'front'.")


def window_ends(num_steps: int, config: WindowConfig) -> np.ndarray:
  """Return the last step of each window of an episode, ascending."""
  return np.arange(num_steps - 1, -1, -config.stride)[::-1]


def window_slots(end: int, config: WindowConfig) -> tuple[slice, slice]:
  """Return the slots that hold frames, and their steps."""
  count = min(config.length, end + 1)
  first = config.length - count if config.padding == 'front' else 0
  return slice(first, first + count), slice(end + 1 - count, end + 1)


def window_targets(end: int, num_steps: int, config: WindowConfig) -> tuple[np.ndarray, np.ndarray]:
  """Return the steps of a window's target actions, and the loss mask.

  Returns:
    steps: int [T, F]; -1 for a zero action (padded frame, or after the episode's end).
    mask: bool [T, F], True where the target counts in the loss.
  """
  slots, shown = window_slots(end, config)
  steps = np.full((config.length, config.horizon), -1)
  steps[slots] = np.arange(shown.start, shown.stop)[:, None] + np.arange(config.horizon)
  steps[steps >= num_steps] = -1
  mask = steps >= 0
  if config.padding_in_loss:
    mask[:slots.start] = True
  return steps, mask


def take_steps(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
  """Return `array[indices]`, zero where an index is negative."""
  out = np.zeros(indices.shape + array.shape[1:], array.dtype)
  out[indices >= 0] = array[indices[indices >= 0]]
  return out


def next_changes(commands: np.ndarray) -> np.ndarray:
  """Return for each step the next one with another command.

  Steps after the last change get the last step: [steps] to int [steps].
  """
  steps = np.arange(len(commands))
  changes = np.flatnonzero(commands[1:] != commands[:-1]) + 1
  return np.append(changes, len(commands) - 1)[np.searchsorted(changes, steps, side='right')]


def to_batch(arrays: dict[str, Any], prompt: Any = None) -> Batch:
  """Return the typed batch of a stream's arrays.

  Args:
    arrays: a batch of windows; `rtjax.data` lists those that stay on the host.
    prompt: int32 [B, L], token ids that replace the instruction embeddings, for language models.
  """
  observation = Observation(
      images=arrays['images'], frame_mask=arrays['frame_mask'],
      instruction=arrays['instruction'] if prompt is None else None, prompt=prompt,
      proprioception=arrays.get('proprioception'))
  return Batch(observation=observation, actions=arrays['actions'], action_mask=arrays['action_mask'],
               waypoints=arrays.get('waypoints'))
