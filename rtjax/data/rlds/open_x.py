"""Adapters of further datasets of Open X-Embodiment, of DROID, LIBERO and Language-Table.

Together with those of RT-1-X they are what Octo and OpenVLA train on. An action becomes arm7d's: changes of position
(m) and orientation (rad) in one step and the gripper's opening, and from these RT-1's fields by `arm_action`. Two
datasets record target poses instead, which become pose7d's fields. An episode terminates in its last step.
docs/guides/datasets.md names the sources of each map.
"""
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from rtjax.data.rlds.adapter import (
    Action,
    ActionMap,
    Adapter,
    LimitedAction,
    Steps,
    arm_action,
    feature,
    flat_arm,
    unless_unusable,
)

# DROID's actions are shares of the largest step of its controller (droid/robot_ik/robot_ik_solver.py), robosuite's of
# its OSC_POSE (controllers/config/osc_pose.json).
_DROID = np.array([0.075] * 3 + [0.15] * 3)
_ROBOSUITE = np.array([0.05] * 3 + [0.5] * 3)


def _opens(number: np.ndarray) -> np.ndarray:
  """Opening of a gripper that 1 opens, and 0 or -1 closes."""
  return unless_unusable(number, np.clip(number, 0, 1))


def _closes(number: np.ndarray) -> np.ndarray:
  """Opening of a gripper that 1 closes, and 0 or -1 opens."""
  return unless_unusable(number, 1 - np.clip(number, 0, 1))


def _arm(opening: Callable[[np.ndarray], np.ndarray], scale: Any = 1.0, first: int = 0) -> ActionMap:
  """Action map of datasets that record changes in `action`.

  Args:
    opening: opening of the gripper, from the number after the six changes.
    scale: metres and radians of the recorded units, one number or six.
    first: index of the first of the seven numbers.
  """
  def action(steps: Steps) -> Action:
    numbers = feature(steps, 'action')[:, first:]
    return _joined(steps, numbers[:, :6] * np.float32(scale), opening(numbers[:, 6]))
  return action


def _joined(steps: Steps, change: np.ndarray, opening: np.ndarray) -> Action:
  return arm_action(np.column_stack([change, opening]), feature(steps, 'is_last'))


def _libero(steps: Steps) -> Action:
  """Action map of LIBERO, with its controller's numbers as well."""
  numbers = np.asarray(feature(steps, 'action'), np.float32)
  own = {'osc_position': numbers[:, :3], 'osc_rotation': numbers[:, 3:6], 'gripper_effort': numbers[:, 6:]}
  fields = _arm(_closes, _ROBOSUITE)(steps)
  assert isinstance(fields, LimitedAction)  # as `arm_action` gives
  return LimitedAction(fields | own, fields.limited)


def _droid(steps: Steps) -> Action:
  return _joined(steps, feature(steps, 'action_dict/cartesian_velocity') * _DROID,
                 _closes(feature(steps, 'action_dict/gripper_position')))


def _bc_z(steps: Steps) -> Action:
  """Action map of bc_z, whose first of ten steps is this one's."""
  change = [feature(steps, f'action/future/{part}_residual')[:, :3] for part in ('xyz', 'axis_angle')]
  return _joined(steps, np.concatenate(change, 1), _closes(feature(steps, 'action/future/target_close')[:, 0]))


def _language_table(steps: Steps) -> Action:
  """Action map of a stick that moves in x and y."""
  planar = feature(steps, 'action')
  action = _joined(steps, np.pad(planar, ((0, 0), (0, 4))), np.ones(len(planar)))
  return action | {'gripper_closedness_action': np.zeros((len(planar), 1), np.float32),
                   'planar_translation': np.asarray(planar, np.float32)}


def _quaternion_angles(quaternion: np.ndarray) -> np.ndarray:
  """Roll, pitch, yaw of quaternions x y z w; zero for padding."""
  from scipy.spatial.transform import Rotation  # imported here, since most datasets need none
  padded = ~quaternion.any(1, keepdims=True)
  return Rotation.from_quat(np.where(padded, [0, 0, 0, 1], quaternion)).as_euler('xyz')


def _furniture_bench(steps: Steps) -> Action:
  numbers = feature(steps, 'action')
  return _joined(steps, np.concatenate([numbers[:, :3], _quaternion_angles(numbers[:, 3:7])], 1),
                 _closes(numbers[:, 7]))


def _dlr_edan(steps: Steps) -> Action:
  """Action map of angles about z, x and y, in this order."""
  numbers = feature(steps, 'action')
  return _joined(steps, numbers[:, [0, 1, 2, 4, 5, 3]], _closes(numbers[:, 6]))


def _fanuc(steps: Steps) -> Action:
  """Action map of changes, with the gripper's state for its command."""
  return _joined(steps, feature(steps, 'action'), _closes(feature(steps, 'observation/state')[:, 6]))


def _pose(position: np.ndarray, orientation: np.ndarray, opening: np.ndarray) -> Action:
  is_open = opening > 0.5
  gripper = unless_unusable(opening[:, None], np.stack([~is_open, is_open], 1))
  fields = {'position': position, 'orientation': orientation, 'gripper': gripper}
  return {name: np.asarray(part, np.float32) for name, part in fields.items()}


def _ucsd_kitchen(steps: Steps) -> Action:
  numbers = feature(steps, 'action')  # millimetres and degrees, as xArm's controller takes them
  return _pose(numbers[:, :3] / 1000, np.deg2rad(numbers[:, 3:6]), numbers[:, 6])


def _iamlab(steps: Steps) -> Action:
  numbers = feature(steps, 'action')
  return _pose(numbers[:, :3], _quaternion_angles(numbers[:, 3:7]), numbers[:, 7])


# Datasets in the layout of kpertsch/rlds_dataset_builder, and those of it that store no sentence embedding.
_flat = functools.partial(Adapter, instruction='language_instruction', embedding='language_embedding',
                          proprioception='observation/state')
_text_only = functools.partial(_flat, embedding=None)
_WRIST = {'wrist': 'observation/wrist_image'}


def _droid_adapter(name: str) -> Adapter:
  return _text_only(name, _droid, image='observation/exterior_image_1_left',
                    proprioception='observation/cartesian_position',
                    views={'wrist': 'observation/wrist_image_left', 'exterior_2': 'observation/exterior_image_2_left'})


def _fmb_adapter(name: str) -> Adapter:
  return _flat(name, _arm(_opens), image='observation/image_side_1', proprioception='observation/eef_pose',
               views={'side_2': 'observation/image_side_2', 'wrist': 'observation/image_wrist_1',
                      'wrist_2': 'observation/image_wrist_2'})


ADAPTERS = (
    # The name in the files is droid_101, and r2d2_faceblur in those of droid_100.
    *map(_droid_adapter, ('droid', 'droid_100', 'droid_101', 'r2d2_faceblur')),
    _text_only('libero_*', _libero, views=_WRIST),  # openvla/modified_libero_rlds
    Adapter('language_table*', _language_table, image='observation/rgb', instruction='observation/instruction',
            embedding=None, proprioception='observation/effector_translation', waypoint='waypoint'),
    # Bridge V2 in its authors' own layout, by the name that OpenVLA gives the folder.
    _flat('bridge_orig', flat_arm, image='observation/image_0',
          views={f'image_{i}': f'observation/image_{i}' for i in (1, 2, 3)}),
    Adapter('bc_z', _bc_z, embedding_id='universal-sentence-encoder/4', proprioception='observation/present/xyz'),
    _flat('stanford_hydra_dataset_converted_externally_to_rlds', _arm(_closes), views=_WRIST),
    # Austin's controllers are robosuite's, or take the same units; RT-1-X's map of viola agrees with them.
    _flat('austin_buds_dataset_converted_externally_to_rlds', _arm(_closes, _ROBOSUITE), views=_WRIST),
    _flat('austin_sailor_dataset_converted_externally_to_rlds', _arm(_closes, _ROBOSUITE), views=_WRIST),
    _flat('austin_sirius_dataset_converted_externally_to_rlds', _arm(_closes, _ROBOSUITE), views=_WRIST),
    _flat('utaustin_mutex', _arm(_closes, _ROBOSUITE), views=_WRIST),
    # Seven joint velocities come first.
    _flat('nyu_franka_play_dataset_converted_externally_to_rlds', _arm(_opens, first=7),
          views={'additional': 'observation/image_additional_view'}),
    _flat('maniskill_dataset_converted_externally_to_rlds', _arm(_opens, 0.1), views=_WRIST),
    _flat('furniture_bench_dataset_converted_externally_to_rlds', _furniture_bench, views=_WRIST),
    _flat('ucsd_kitchen_dataset_converted_externally_to_rlds', _ucsd_kitchen),
    _flat('dlr_edan_shared_control_converted_externally_to_rlds', _dlr_edan),
    _flat('iamlab_cmu_pickup_insert_converted_externally_to_rlds', _iamlab, views=_WRIST),
    _flat('berkeley_fanuc_manipulation', _fanuc, views=_WRIST),
    _flat('cmu_stretch', _arm(_opens)),
    _flat('dobbe', _arm(_opens), image='observation/wrist_image'),
    *map(_fmb_adapter, ('fmb', 'fmb_dataset')),
)
