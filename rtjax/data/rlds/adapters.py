"""Adapters map each dataset's features to the fields of an ActionSpec.

The Open X-Embodiment datasets carry the action maps and sampling weights of RT-1-X (google-deepmind/open_x_embodiment,
colabs/Minimal_Training_Example.ipynb), where a gripper number of 1 closes and -1 opens, parts that a robot lacks are
zero, and `terminate_episode` is [1, 0, 0] at an episode's end, else [0, 1, 0]. Two maps correct that notebook:

- taco_play: it rescales by Taco Play's own measured ranges; the notebook defines these and then calls Bridge's.
- toto: an open gripper is -1 as in every other dataset; the notebook passes `open_gripper` on, so 1 there.

Names of wrist and top cameras are those of octo-models/octo's oxe_dataset_configs.py.

The notebook's weights also list kuka (20), whose features are RT-1's own, and language_table (30), both commented out.
kuka has an adapter, with that weight. language_table has none: it stores no sentence embedding, and no map of its two
numbers is published.
"""
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.runtime.suggest import did_you_mean

Steps = Mapping[str, Any]
"""One episode: nested dicts of arrays [steps, ...] under their TFDS names; images may be encoded (object [steps])."""

Action = dict[str, np.ndarray]

STANDARD_LAYOUT = 'rtjax/1'
"""Layout that rtjax.data.convert writes; the number rises with each incompatible change."""


@dataclasses.dataclass(frozen=True)
class Adapter:
  """Feature paths and action map of one dataset.

  Paths are '/'-separated and start inside a step.

  Attributes:
    name: TFDS name of the dataset.
    action: maps an episode to {field: float32 [steps, size]}, in the units of the ActionSpec's fields. It may return
      more fields than one spec needs (both RT-1's and arm7d's, say): the pipeline takes those of the spec.
    image: main camera; its name as a view is 'image'.
    instruction: text of the task.
    embedding: float32 [E], sentence embedding of the instruction.
    embedding_id: id of the encoder that made the embedding; stored in checkpoints.
    proprioception: robot state, if recorded.
    views: further cameras, by their names in `DataConfig.views`.
    weight: sampling weight in a mixture.
  """
  name: str
  action: Callable[[Steps], Action]
  image: str = 'observation/image'
  instruction: str = 'observation/natural_language_instruction'
  embedding: str = 'observation/natural_language_embedding'
  embedding_id: str = 'universal-sentence-encoder-large/5'
  proprioception: str | None = None
  views: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
  weight: float = 1.0

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


def arm_action(motion: np.ndarray, is_last: np.ndarray) -> Action:
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
      _rescale(translation, -0.05, 0.05, 1.75), _rescale(rotation, -0.25, 0.25, 1.4),
      np.where(gripper > 0.5, -1, 1), is_last)
  return {'translation': translation, 'rotation': rotation, 'gripper': gripper} | rt1


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


def _rescale(value: np.ndarray, low: Any, high: Any, limit: float) -> np.ndarray:
  """Map [low, high] to [-limit, limit], clipped 0.01 inside."""
  low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
  scaled = (value - low) / (high - low) * (2 * limit) - limit
  return np.clip(scaled, -limit + 0.01, limit - 0.01)


def _paths(steps: Steps, prefix: str = '') -> list[str]:
  return [path for key, value in steps.items() for path in
          (_paths(value, f'{prefix}{key}/') if isinstance(value, Mapping) else [prefix + key])]


def _rt1(steps: Steps) -> Action:
  names = ('terminate_episode', 'world_vector', 'rotation_delta', 'gripper_closedness_action',
           'base_displacement_vertical_rotation', 'base_displacement_vector')
  return {name: feature(steps, f'action/{name}').astype(np.float32) for name in names}


def _bridge(steps: Steps) -> Action:
  parts = (feature(steps, 'action/world_vector'), feature(steps, 'action/rotation_delta'),
           feature(steps, 'action/open_gripper')[:, None])
  return arm_action(np.concatenate(parts, -1), feature(steps, 'action/terminate_episode'))


def _taco_play(steps: Steps) -> Action:
  pose = feature(steps, 'action/actions')  # absolute: x y z, three angles, gripper (1 closed)
  return rt1_action(_rescale(pose[:, :3], (0, -0.5, 0), (0.8, 0.7, 0.6), 1),
                    _rescale(pose[:, 3:6], (-3.2, -0.8, -1.8), (3.2, 0.2, 2.5), 1),
                    pose[:, 6], feature(steps, 'action/terminate_episode'))


def _jaco_play(steps: Steps) -> Action:
  mean = np.array([0.00096585, -0.00580069, -0.00395066], np.float32)
  std = np.array([0.12234575, 0.09676983, 0.11155209], np.float32)
  return rt1_action((feature(steps, 'action/world_vector') - mean) / std, None,
                    feature(steps, 'action/gripper_closedness_action'), feature(steps, 'action/terminate_episode'))


def _scaled(world_vector: float = 1, rotation_delta: float = 1,
            gripper: str | None = 'gripper_closedness_action') -> Callable[[Steps], Action]:
  """Action map that scales world_vector and rotation_delta, for datasets with RT-1's names."""
  def action(steps: Steps) -> Action:
    return rt1_action(feature(steps, 'action/world_vector') * np.float32(world_vector),
                      feature(steps, 'action/rotation_delta') * np.float32(rotation_delta),
                      None if gripper is None else feature(steps, f'action/{gripper}'),
                      feature(steps, 'action/terminate_episode'))
  return action


def _toto(steps: Steps) -> Action:
  action = _scaled(world_vector=2, gripper='open_gripper')(steps)
  return action | {'gripper_closedness_action': 1 - 2 * action['gripper_closedness_action']}


# Most Open X-Embodiment datasets have Adapter's default paths; most others have these.
_FLAT: dict[str, Any] = {
    'instruction': 'language_instruction', 'embedding': 'language_embedding', 'proprioception': 'observation/state'}

# `generate.py --multiview` writes those beyond the wrist.
_TABLETOP_VIEWS = {view: f'observation/{view}_image' for view in ('wrist', 'left', 'right', 'top', 'shoulder')}

ADAPTERS: dict[str, Adapter] = {adapter.name: adapter for adapter in (
    # Bridge V2 in its authors' own RLDS layout.
    Adapter('bridge_dataset', flat_arm, image='observation/image_0', weight=50,
            views={f'image_{i}': f'observation/image_{i}' for i in (1, 2, 3)}, **_FLAT),
    # Generated by data/reach.
    Adapter('reach', flat_arm, embedding_id='hashed-ngrams/1', **_FLAT),
    # Recorded in the embedded simulator by data/tabletop; failed episodes are a separate dataset.
    Adapter('tabletop', flat_arm, embedding_id='hashed-ngrams/1', views=_TABLETOP_VIEWS, **_FLAT),
    Adapter('tabletop_failures', flat_arm, embedding_id='hashed-ngrams/1', views=_TABLETOP_VIEWS, weight=0.1, **_FLAT),
    # Open X-Embodiment.
    Adapter('fractal20220817_data', _rt1, proprioception='observation/base_pose_tool_reached', weight=150),
    Adapter('kuka', _rt1, weight=20),
    Adapter('bridge', _bridge, proprioception='observation/state', weight=50),
    Adapter('taco_play', _taco_play, image='observation/rgb_static', proprioception='observation/robot_obs', weight=5,
            views={'wrist': 'observation/rgb_gripper'}),
    Adapter('jaco_play', _jaco_play, proprioception='observation/end_effector_cartesian_pos', weight=20,
            views={'wrist': 'observation/image_wrist'}),
    Adapter('berkeley_cable_routing', _scaled(gripper=None), proprioception='observation/robot_state', weight=20,
            views={'wrist': 'observation/wrist45_image', 'top': 'observation/top_image'}),
    Adapter('roboturk', _scaled(), image='observation/front_rgb', weight=10),
    Adapter('nyu_door_opening_surprising_effectiveness', _scaled(20, 15), weight=5),
    Adapter('viola', _scaled(1.75, 3), image='observation/agentview_rgb', proprioception='observation/joint_states',
            weight=3, views={'wrist': 'observation/eye_in_hand_rgb'}),
    Adapter('berkeley_autolab_ur5', _scaled(100, 15), proprioception='observation/robot_state', weight=5,
            views={'wrist': 'observation/hand_image'}),
    Adapter('toto', _toto, proprioception='observation/state', weight=5),
)}


def register(adapter: Adapter) -> None:
  """Use `adapter` for datasets of its name, replacing an earlier one."""
  ADAPTERS[adapter.name] = adapter


def standard_metadata(spec: ActionSpec, embedding_id: str) -> dict[str, Any]:
  """Return the metadata of a dataset in the standard layout.

  Such a dataset needs no adapter. data/README.md lists the layout; `action` holds the spec's fields in order.
  """
  sizes = {f.name: f.size for f in spec.fields}
  return {'layout': STANDARD_LAYOUT, 'action_fields': sizes, 'embedding_id': embedding_id}


def _standard(name: str, metadata: Mapping[str, Any]) -> Adapter:
  sizes = metadata['action_fields']

  def fields(steps: Steps) -> Action:
    parts = np.split(feature(steps, 'action'), np.cumsum(list(sizes.values()))[:-1], -1)
    return dict(zip(sizes, parts, strict=True))

  action = flat_arm if sizes == {'translation': 3, 'rotation': 3, 'gripper': 1} else fields
  return Adapter(name, action, embedding_id=metadata['embedding_id'], **_FLAT)


def get(name: str, metadata: Mapping[str, Any] | None = None) -> Adapter:
  """Return the adapter of a dataset.

  Args:
    name: TFDS name of the dataset.
    metadata: its metadata; a standard layout in it serves where no adapter is registered.

  Raises:
    ValueError: there is neither.
  """
  if name not in ADAPTERS and metadata and metadata.get('layout') == STANDARD_LAYOUT:
    return _standard(name, metadata)
  if name not in ADAPTERS:
    raise ValueError(f'no adapter for the dataset {name!r}, there are {sorted(ADAPTERS)}.'
                     f'{did_you_mean(name, ADAPTERS)} Adding your own takes one small dataclass: '
                     'docs/guides/your_robot.md.')
  return ADAPTERS[name]
