"""Generated RLDS datasets with the feature structures of the TFDS catalog."""
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

_VECTORS = {'world_vector': (3,), 'rotation_delta': (3,)}
_FLOAT_END = {'terminate_episode': ()}
_RT1_ACTION = _VECTORS | {
    'gripper_closedness_action': (1,), 'base_displacement_vertical_rotation': (1,), 'base_displacement_vector': (2,),
    'terminate_episode': (3, np.int32)}
_GRIPPER = {'gripper_closedness_action': (1,)}

# {dataset: (action, observation)}: a tuple is a float32 tensor's shape, or shape and dtype; images are 'image'.
# Cameras are small; features that no adapter reads are kept, so that names are as similar as in the real datasets.
STRUCTURES: dict[str, tuple[Any, dict[str, Any]]] = {
    'fractal20220817_data': (_RT1_ACTION, {
        'image': 'image', 'base_pose_tool_reached': (7,), 'gripper_closed': (1,), 'workspace_bounds': (3, 3)}),
    'kuka': (_RT1_ACTION, {'image': 'image', 'gripper_closed': (1,), 'task_id': (1,)}),
    'bridge': (_VECTORS | _FLOAT_END | {'open_gripper': bool}, {'image': 'image', 'state': (7,)}),
    'taco_play': (
        {'actions': (7,), 'rel_actions_gripper': (7,), 'rel_actions_world': (7,)} | _FLOAT_END,
        {'rgb_static': 'image', 'rgb_gripper': 'image', 'robot_obs': (15,), 'structured_language_instruction': str}),
    'jaco_play': (
        {'world_vector': (3,), 'terminate_episode': (3, np.int32)} | _GRIPPER,
        {'image': 'image', 'image_wrist': 'image', 'end_effector_cartesian_pos': (7,), 'joint_pos': (8,)}),
    'berkeley_cable_routing': (_VECTORS | _FLOAT_END, {
        'image': 'image', 'top_image': 'image', 'wrist45_image': 'image', 'robot_state': (7,)}),
    'roboturk': (_VECTORS | _FLOAT_END | _GRIPPER, {'front_rgb': 'image'}),
    'nyu_door_opening_surprising_effectiveness': (_VECTORS | _FLOAT_END | _GRIPPER, {'image': 'image'}),
    'viola': (
        _VECTORS | _FLOAT_END | {'gripper_closedness_action': ()},
        {'agentview_rgb': 'image', 'eye_in_hand_rgb': 'image', 'joint_states': (7,), 'gripper_states': (1,)}),
    'berkeley_autolab_ur5': (
        _VECTORS | _FLOAT_END | {'gripper_closedness_action': ()},
        {'image': 'image', 'hand_image': 'image', 'robot_state': (15,)}),
    'toto': (_VECTORS | _FLOAT_END | {'open_gripper': bool}, {'image': 'image', 'state': (7,)}),
    'bridge_dataset': ((7,), {f'image_{i}': 'image' for i in range(4)} | {'state': (7,)}),
}
_FLAT = ('bridge_dataset',)


def features(name: str, image_shape: tuple[int, int, int] = (16, 20, 3)) -> tfds.features.FeaturesDict:
  """Return the features of the dataset `name`."""
  action, observation = STRUCTURES[name]
  language = {'language_instruction': str, 'language_embedding': (512,)} if name in _FLAT else {}
  if name not in _FLAT:
    observation = observation | {'natural_language_instruction': str, 'natural_language_embedding': (512,)}
  step = {'action': action, 'observation': observation, 'reward': (), 'is_first': bool, 'is_last': bool,
          'is_terminal': bool} | language
  return tfds.features.FeaturesDict({'steps': tfds.features.Dataset(_connector(step, image_shape))})


def episode(name: str, length: int, seed: int = 0, **given: Any) -> dict[str, Any]:
  """Return an episode of random steps.

  `given` sets actions by name ('action' a flat one), each [length, ...].
  """
  draw = np.random.default_rng(seed)
  steps = []
  for t in range(length):
    step = _random(features(name)['steps'].feature, draw)
    step |= {'is_first': t == 0, 'is_last': t == length - 1, 'is_terminal': t == length - 1}
    for key, value in given.items():
      if key == 'action':
        step['action'] = value[t]
      else:
        step['action'][key] = value[t]
    steps.append(step)
  return {'steps': steps}


def write(folder: pathlib.Path, name: str, splits: Mapping[str, list[dict[str, Any]]]) -> pathlib.Path:
  """Write episodes as TFDS does, and return the dataset's folder."""
  builder = tfds.dataset_builders.store_as_tfds_dataset(
      name, '1.0.0', features(name),
      {split: list(enumerate(episodes)) for split, episodes in splits.items()}, data_dir=folder)
  return pathlib.Path(builder.data_dir)


def read(folder: pathlib.Path, split: str = 'train') -> list[dict[str, Any]]:
  """Return the episodes of a split as adapters get them."""
  dataset = tfds.builder_from_directory(folder).as_dataset(
      split=split, decoders={'steps': tfds.decode.SkipDecoding()})
  return [e['steps'] for e in tfds.as_numpy(dataset)]


def _connector(spec: Any, image_shape: tuple[int, int, int]) -> Any:
  if isinstance(spec, dict):
    return tfds.features.FeaturesDict({key: _connector(value, image_shape) for key, value in spec.items()})
  if spec == 'image':
    return tfds.features.Image(shape=image_shape, encoding_format='jpeg')
  if spec is str:
    return tfds.features.Text()
  if spec is bool:
    return tfds.features.Scalar(np.bool_)
  shape, dtype = (spec[0:1], spec[1]) if spec and spec[-1] is np.int32 else (spec, np.float32)
  return tfds.features.Tensor(shape=shape, dtype=dtype)


def _random(feature: Any, draw: np.random.Generator) -> Any:
  if isinstance(feature, tfds.features.FeaturesDict):
    return {key: _random(value, draw) for key, value in feature.items()}
  if isinstance(feature, tfds.features.Text):
    return 'pick the red cube'
  if isinstance(feature, tfds.features.Image):
    return draw.integers(0, 256, feature.shape, np.uint8)
  return draw.uniform(0, 2, feature.shape).astype(feature.np_dtype)
