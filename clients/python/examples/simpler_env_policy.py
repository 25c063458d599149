"""Policy for SimplerEnv that runs on an rtjax policy server.

This file runs in SimplerEnv's environment, with any NumPy.

In SimplerEnv's main_inference.py, beside the other policies:

    from simpler_env_policy import SimplerPolicy     # this file
    model = SimplerPolicy('widowx_bridge', RemotePolicy('127.0.0.1', 8000))

and the evaluators call model.reset(instruction) and model.step(image, instruction, ...).

The simulator takes (simpler_env/policies/rt1/rt1_model.py) a translation in metres, a rotation vector, and a gripper:
for 'google_robot' the change to close (1) or open (-1), for 'widowx_bridge' open (1) or closed (-1).
"""
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np

from rtjax_client import RemotePolicy

Action = Dict[str, np.ndarray]

# Bounds of Bridge's actions by field: in RT-1-X's training data, and the robot's.
_BRIDGE = {'world_vector': (1.75, 0.05), 'rotation_delta': (1.4, 0.25)}
# The Google robot's gripper command is a change, so that small numbers add up.
_MIN_CHANGE = 0.01


class SimplerPolicy:
  """Policy with the interface of SimplerEnv's evaluators.

  Args:
    robot: 'google_robot' or 'widowx_bridge'.
    policy: the server's policy, with the actions of RT-1, or for the WidowX those of a table-top arm (arm7d).
    embed: computes the embedding (float32 [512]) of an instruction, where the server lacks the policy's encoder:
      released RT-1 weights need Universal Sentence Encoder large 5, which SimplerEnv loads.
  """

  def __init__(self, robot: str, policy: RemotePolicy, embed: Optional[Callable[[str], np.ndarray]] = None):
    if robot not in ('google_robot', 'widowx_bridge'):
      raise ValueError(f"robot is {robot!r}, expected 'google_robot' or 'widowx_bridge'.")
    self._robot, self._policy, self._embed = robot, policy, embed
    self._instruction: Optional[str] = None

  def reset(self, instruction: str) -> None:
    self._instruction = instruction
    if self._embed is None:
      self._policy.reset(instruction)
    else:
      self._policy.reset(embedding=self._embed(instruction))

  def step(self, image: np.ndarray, instruction: Optional[str] = None, *_: Any) -> Tuple[Action, Action]:
    """Return both actions, the policy's and the simulator's.

    A new instruction begins an episode.

    Args:
      image: uint8 [H, W, 3].
      _: the robot's state, which is not used.

    Returns:
      The fields of the policy, and 'world_vector' [3], 'rot_axangle' [3], 'gripper' [1], 'terminate_episode' [1].
    """
    if instruction is not None and instruction != self._instruction:
      self.reset(instruction)
    raw = self._policy.step(image).action
    return raw, self._convert(raw)

  def act(self, image: np.ndarray) -> np.ndarray:
    """Return the seven numbers that the simulator's `env.step` takes."""
    action = self.step(image)[1]
    return np.concatenate([action['world_vector'], action['rot_axangle'], action['gripper']])

  def _convert(self, raw: Action) -> Action:
    if 'translation' in raw and self._robot == 'widowx_bridge':
      return _action(raw['translation'], rotation_vector(raw['rotation']), _binary(raw['gripper'] > 0.5), False)
    if 'world_vector' not in raw:
      raise ValueError(f'the policy has the actions {sorted(raw)}, which {self._robot} does not take.')
    terminate = raw['terminate_episode'].argmax() == 0
    closing = raw['gripper_closedness_action']
    if self._robot == 'google_robot':
      closing = np.where(np.abs(closing) < _MIN_CHANGE, 0, closing)
      return _action(raw['world_vector'], raw['rotation_delta'], closing, terminate)
    translation, rotation = (np.clip(raw[name] * (robot / data), -robot, robot)
                             for name, (data, robot) in _BRIDGE.items())
    return _action(translation, rotation_vector(rotation), _binary(closing < 0), terminate)


def rotation_vector(angles: np.ndarray) -> np.ndarray:
  """Convert roll, pitch, yaw about fixed axes (rad) to axis times angle."""
  (cr, cp, cy), (sr, sp, sy) = np.cos(np.asarray(angles, float) / 2), np.sin(np.asarray(angles, float) / 2)
  w = cr * cp * cy + sr * sp * sy
  axis = np.array([sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy])
  sine = np.linalg.norm(axis)
  return axis * (2 * np.arctan2(sine, w) / sine if sine > 1e-9 else 2)


def _binary(opened: np.ndarray) -> np.ndarray:
  return 2.0 * opened - 1.0


def _action(translation: np.ndarray, rotation: np.ndarray, gripper: np.ndarray, terminate: bool) -> Action:
  parts = {'world_vector': translation, 'rot_axangle': rotation, 'gripper': gripper, 'terminate_episode': [terminate]}
  return {name: np.asarray(part, np.float64) for name, part in parts.items()}
