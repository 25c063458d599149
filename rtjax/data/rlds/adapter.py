"""Adapter of one dataset, and the action maps that several share."""
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rtjax.runtime.numbers import unusable
from rtjax.runtime.suggest import did_you_mean

Steps = Mapping[str, Any]
"""One episode: nested dicts of arrays [steps, ...] under their TFDS names; images may be encoded (object [steps])."""

Action = dict[str, np.ndarray]


class LimitedAction(Action):
  """Fields of an action, some of whose numbers the map limited.

  Attributes:
    limited: {field: bool [steps, size]}.
  """

  def __init__(self, fields: Action, limited: dict[str, np.ndarray]):
    super().__init__(fields)
    self.limited = limited


ActionMap = Callable[[Steps], Action]


@dataclasses.dataclass(frozen=True)
class Adapter:
  """Feature paths and action map of one dataset.

  Paths are '/'-separated and start inside a step.

  Attributes:
    name: TFDS name of the dataset; with * at its end, the beginning of the names of a family.
    action: maps an episode to {field: float32 [steps, size]}, in the units of the ActionSpec's fields. It may return
      more fields than one spec needs (both RT-1's and arm7d's, say): the pipeline takes those of the spec. It gets
      features of at most 4096 numbers a step.
    image: main camera; its name as a view is 'image'.
    instruction: text of the task, or the numbers of its UTF-8 bytes, padded with 0.
    embedding: float32 [E], sentence embedding of the instruction; None if the dataset stores none.
    embedding_id: id of the encoder that made the embedding; stored in checkpoints.
    proprioception: robot state, if recorded.
    views: further cameras, by their names in `DataConfig.views`.
    waypoint: float32 [2] or [3], x y (z) of each step's hindsight waypoint, for datasets that record it; others get
      it from proprioception.
    weight: sampling weight in a mixture.
    rt1_x_action: action map of RT-1-X's notebook, where `action` corrects it; for `DataConfig.rt1_x_grippers`.
  """
  name: str
  action: ActionMap
  image: str = 'observation/image'
  instruction: str = 'observation/natural_language_instruction'
  embedding: str | None = 'observation/natural_language_embedding'
  embedding_id: str = 'universal-sentence-encoder-large/5'
  proprioception: str | None = None
  views: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
  waypoint: str | None = None
  weight: float = 1.0
  rt1_x_action: ActionMap | None = None

  def __post_init__(self) -> None:
    if 'image' in self.views:
      raise ValueError(f"Adapter {self.name!r}: a view is called 'image', the main camera's name. Give it another.")

  def camera(self, view: str) -> str:
    """Return the path of the camera with the name `view`."""
    cameras = {**self.views, 'image': self.image}
    if view not in cameras:
      raise ValueError(f'the adapter {self.name!r} has no view {view!r}, it has {sorted(cameras)}.'
                       f'{did_you_mean(view, cameras)} Name further cameras in its views: docs/guides/your_robot.md.')
    return cameras[view]


def feature(steps: Steps, path: str) -> np.ndarray:
  """Return the array [steps, ...] at `path`, such as 'observation/state'.

  Raises:
    ValueError: there is no such feature; the message lists those that exist.
  """
  value: Any = steps
  for key in path.split('/'):
    if not isinstance(value, Mapping) or key not in value:
      known = sorted(_paths(steps))
      raise ValueError(f'the episode has no feature {path!r}, it has {known}.{did_you_mean(path, known)}'
                       ' Choose the adapter written for this dataset, or write one: docs/guides/your_robot.md.')
    value = value[key]
  return np.asarray(value)


def arm_action(motion: np.ndarray, is_last: np.ndarray) -> LimitedAction:
  """Return the action fields of arm7d and of RT-1.

  RT-1's fields follow RT-1-X's map of Bridge. Its gripper is open above one half: Bridge's recordings hold a few
  numbers between 0 and 1.

  Args:
    motion: float [steps, 7], deltas x y z (m) and roll pitch yaw (rad) of the gripper, and its opening (1 open).
    is_last: bool [steps], true where the episode ends.
  """
  motion = np.asarray(motion, np.float32)
  if motion.ndim != 2 or motion.shape[1] != 7:
    raise ValueError(f'motion has shape {motion.shape}, expected [steps, 7]: x y z, roll pitch yaw, gripper opening.')
  translation, rotation, gripper = motion[:, :3], motion[:, 3:6], motion[:, 6:]
  rt1 = rt1_action(
      rescale(translation, -0.05, 0.05, 1.75), rescale(rotation, -0.25, 0.25, 1.4),
      unless_unusable(gripper, np.where(gripper > 0.5, -1, 1)), is_last)
  return LimitedAction({'translation': translation, 'rotation': rotation, 'gripper': gripper} | rt1, {
      'world_vector': beyond(translation, -0.05, 0.05), 'rotation_delta': beyond(rotation, -0.25, 0.25)})


def flat_arm(steps: Steps) -> Action:
  """Action map of datasets whose feature `action` holds `arm_action`'s seven numbers."""
  return arm_action(feature(steps, 'action'), feature(steps, 'is_last'))


def rt1_action(world_vector: np.ndarray, rotation_delta: np.ndarray | None, gripper: np.ndarray | None,
               terminate: np.ndarray) -> Action:
  """Return RT-1's fields; the base, and parts that are None, are zero.

  Args:
    world_vector, rotation_delta: [steps, 3].
    gripper: [steps] or [steps, 1], 1 closes and -1 opens.
    terminate: [steps], true or 1 at the episode's end, or the three flags [steps, 3] themselves.
  """
  steps = len(world_vector)
  terminate = np.asarray(terminate)
  if terminate.ndim == 1:
    terminate = np.where((terminate == 1)[:, None], [1, 0, 0], [0, 1, 0])
  action = {
      'terminate_episode': terminate,
      'world_vector': world_vector,
      'rotation_delta': np.zeros((steps, 3)) if rotation_delta is None else rotation_delta,
      'gripper_closedness_action': np.zeros((steps, 1)) if gripper is None else np.reshape(gripper, (steps, 1)),
      'base_displacement_vertical_rotation': np.zeros((steps, 1)),
      'base_displacement_vector': np.zeros((steps, 2)),
  }
  return {name: np.asarray(part, np.float32) for name, part in action.items()}


def rescale(value: np.ndarray, low: Any, high: Any, limit: float) -> np.ndarray:
  """Map [low, high] to [-limit, limit], clipped 0.01 inside."""
  low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
  scaled = (value - low) / (high - low) * (2 * limit) - limit
  return unless_unusable(value, np.clip(scaled, -limit + 0.01, limit - 0.01))


def beyond(value: np.ndarray, low: Any, high: Any) -> np.ndarray:
  """Return which numbers `rescale` limits."""
  return (value < np.asarray(low, np.float32)) | (value > np.asarray(high, np.float32))


def unless_unusable(value: np.ndarray, mapped: np.ndarray) -> np.ndarray:
  """Keep NaN and absurd numbers, which the reader then reports."""
  return np.where(unusable(value), value, mapped)


def _paths(steps: Steps, prefix: str = '') -> list[str]:
  return [path for key, value in steps.items() for path in
          (_paths(value, f'{prefix}{key}/') if isinstance(value, Mapping) else [prefix + key])]
