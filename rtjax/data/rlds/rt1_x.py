"""Adapters of the datasets that RT-1-X was trained on.

They carry the action maps and sampling weights of RT-1-X (google-deepmind/open_x_embodiment,
colabs/Minimal_Training_Example.ipynb), where a gripper number of 1 closes and -1 opens, parts that a robot lacks are
zero, and `terminate_episode` is [1, 0, 0] at an episode's end, else [0, 1, 0]. Two maps correct that notebook:

- taco_play: it rescales by Taco Play's own measured ranges; the notebook defines these and then calls Bridge's. An open
  gripper, recorded as 1, is -1 as in every other dataset. So do the data's authors describe it (ErickRosete/tacorl,
  dataset/README.md: close -1, open 1), and so do Octo's and OpenVLA's transforms map it. TFDS's catalogue states the
  reverse, and the notebook passes the number on. In the data itself `robot_obs[6]`, the gripper's width, grows after a
  command that opens.
- toto: an open gripper is -1 as in every other dataset; the notebook passes `open_gripper` on, so 1 there.

`DataConfig.rt1_x_grippers` takes the notebook's sign for these two, which RT-1-X's released weights have seen.

Names of wrist and top cameras are those of octo-models/octo's oxe_dataset_configs.py. The notebook's weights also list
kuka (20), whose features are RT-1's own, and language_table (30), both commented out.
"""
import numpy as np

from rtjax.data.rlds.adapter import (
    Action,
    ActionMap,
    Adapter,
    LimitedAction,
    Steps,
    arm_action,
    beyond,
    feature,
    rescale,
    rt1_action,
)


def _rt1(steps: Steps) -> Action:
  names = ('terminate_episode', 'world_vector', 'rotation_delta', 'gripper_closedness_action',
           'base_displacement_vertical_rotation', 'base_displacement_vector')
  return {name: feature(steps, f'action/{name}').astype(np.float32) for name in names}


def _bridge(steps: Steps) -> Action:
  parts = (feature(steps, 'action/world_vector'), feature(steps, 'action/rotation_delta'),
           feature(steps, 'action/open_gripper')[:, None])
  return arm_action(np.concatenate(parts, -1), feature(steps, 'action/terminate_episode'))


def _taco_play(sign: int) -> ActionMap:
  """Action map of taco_play.

  Args:
    sign: -1 as recorded with 1 open, 1 as in RT-1-X's notebook.
  """
  def action(steps: Steps) -> Action:
    pose = feature(steps, 'action/actions')  # absolute: x y z, three angles, gripper (1 open)
    position = pose[:, :3], (0, -0.5, 0), (0.8, 0.7, 0.6)
    angles = pose[:, 3:6], (-3.2, -0.8, -1.8), (3.2, 0.2, 2.5)
    mapped = rt1_action(rescale(*position, 1), rescale(*angles, 1), sign * pose[:, 6],
                        feature(steps, 'action/terminate_episode'))
    return LimitedAction(mapped, {'world_vector': beyond(*position), 'rotation_delta': beyond(*angles)})
  return action


def _jaco_play(steps: Steps) -> Action:
  mean = np.array([0.00096585, -0.00580069, -0.00395066], np.float32)
  std = np.array([0.12234575, 0.09676983, 0.11155209], np.float32)
  return rt1_action((feature(steps, 'action/world_vector') - mean) / std, None,
                    feature(steps, 'action/gripper_closedness_action'), feature(steps, 'action/terminate_episode'))


def _scaled(world_vector: float = 1, rotation_delta: float = 1,
            gripper: str | None = 'gripper_closedness_action') -> ActionMap:
  """Action map that scales world_vector and rotation_delta, for datasets with RT-1's names."""
  def action(steps: Steps) -> Action:
    return rt1_action(feature(steps, 'action/world_vector') * np.float32(world_vector),
                      feature(steps, 'action/rotation_delta') * np.float32(rotation_delta),
                      None if gripper is None else feature(steps, f'action/{gripper}'),
                      feature(steps, 'action/terminate_episode'))
  return action


_toto_rt1_x = _scaled(world_vector=2, gripper='open_gripper')


def _toto(steps: Steps) -> Action:
  action = _toto_rt1_x(steps)
  return action | {'gripper_closedness_action': 1 - 2 * action['gripper_closedness_action']}


ADAPTERS = (
    Adapter('fractal20220817_data', _rt1, proprioception='observation/base_pose_tool_reached', weight=150),
    Adapter('kuka', _rt1, weight=20),
    Adapter('bridge', _bridge, proprioception='observation/state', weight=50),
    Adapter('taco_play', _taco_play(-1), image='observation/rgb_static', proprioception='observation/robot_obs',
            weight=5, views={'wrist': 'observation/rgb_gripper'}, rt1_x_action=_taco_play(1)),
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
    Adapter('toto', _toto, proprioception='observation/state', weight=5, rt1_x_action=_toto_rt1_x),
)
