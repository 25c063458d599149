"""Experts that knock objects over and stand them up."""
import math

import numpy as np

from rtjax.envs.tabletop.arm import rotation_matrix, rotation_vector
from rtjax.envs.tabletop.experts.motion import act, angle, approach, clearance, kind, retreat, travel_height, yaw
from rtjax.envs.tabletop.tasks import Task
from rtjax.envs.tabletop.world import TABLE, State

_DOWN = np.array([0, 0, -1.0])
_RELEASE_TILT = 0.12  # tilt of an object at its release, rad: it rocks onto its base, and the hand avoids the table
_TURN_HEIGHT = 0.15
_MIDDLE_YAW = 0.75  # middle of the hand's yaw range, which the last joint limits; rad
_SIDE = math.pi / 2  # yaw of a hand that points sideways: the arm cannot point forward so low


def knock(task: Task, state: State) -> np.ndarray:
  """Push sideways against the upper part with closed fingers."""
  assert task.target is not None
  name, shape = task.target.name, task.target.shape
  pose = state.poses[name]
  if pose.tilt > math.radians(65):
    return retreat(state, is_open=False)
  direction = _push_direction(state, name)
  height = max(0.6 * shape.half_height, 0.015) + shape.half_height
  offset = state.position[:2] - pose.position[:2]
  along = float(offset @ direction)
  across = float(abs(offset[0] * direction[1] - offset[1] * direction[0]))
  if across < 0.018 and along < 0.03 and abs(state.position[2] - height) < 0.02:
    goal = np.append(pose.position[:2] + 0.06 * direction, height)
    return act(state, goal, np.eye(3), is_open=False)
  start = np.append(pose.position[:2] - (shape.radius + 0.045) * direction, height)
  return approach(state, start, np.eye(3), travel_height(state), is_open=False, tolerance=0.012)


def upright(task: Task, state: State) -> np.ndarray:
  """Grasp across the axis, lift, turn until it stands, set it down."""
  assert task.target is not None
  name = task.target.name
  pose = state.poses[name]
  if state.held == name:
    return _set_upright(state, name)
  if pose.tilt < 0.25:
    return _withdraw(state, name)
  axis = pose.rotation[:2, 2]
  turn = (math.atan2(axis[1], axis[0]) - _MIDDLE_YAW + math.pi) % (2 * math.pi) - math.pi + _MIDDLE_YAW
  point = pose.position + 0.012 * pose.rotation[:, 2]
  point[2] = max(point[2], 0.018)
  rotation = yaw(turn)
  slack = 1.0 if state.opening > 0.9 else 2.0
  close = (np.linalg.norm(point - state.position) < 0.012 * slack and angle(rotation, state.rotation) < 0.15 * slack)
  return approach(state, point, rotation, point[2] if close else travel_height(state), is_open=not close)


def _set_upright(state: State, name: str) -> np.ndarray:
  pose, shape = state.poses[name], kind(name)
  rotation = _standing_rotation(state, pose.rotation[:, 2])
  turn = angle(rotation, state.rotation)
  low = pose.position[2] - shape.half_height * math.cos(pose.tilt) - shape.width / 2 * math.sin(pose.tilt)
  if turn < 0.15 or pose.tilt < 0.25:
    if low < 0.004 or (TABLE in state.supports[name] and pose.tilt < 0.3):
      return act(state, state.position, state.rotation, is_open=True)
    return act(state, state.position - np.array([0, 0, max(low, 0.004)]), rotation, is_open=False)
  share = np.clip((state.position[2] - 0.08) / 0.04, 0, 1)
  goal = np.array([min(state.position[0], 0.52), state.position[1], _TURN_HEIGHT])
  goal_rotation = rotation_matrix(share * rotation_vector(rotation @ state.rotation.T)) @ state.rotation
  return act(state, goal, goal_rotation, is_open=False)


def _standing_rotation(state: State, axis: np.ndarray) -> np.ndarray:
  """Compute the gripper's rotation at which the held object stands.

  The hand then points to the left. `axis` is the object's own axis.
  """
  tilt = math.acos(float(np.clip(axis[2], -1, 1)))
  across = np.cross(axis, [0, 0, 1.0])
  across = across / max(np.linalg.norm(across), 1e-9)
  raised = rotation_matrix(max(tilt - _RELEASE_TILT, 0) * across) @ state.rotation
  ahead = raised @ _DOWN
  return yaw(_SIDE - math.atan2(ahead[1], ahead[0])) @ raised if np.linalg.norm(ahead[:2]) > 0.3 else raised


def _withdraw(state: State, name: str) -> np.ndarray:
  """Return the action backwards away from the object, then up."""
  ahead = state.rotation @ _DOWN
  distance = float(np.linalg.norm(state.position[:2] - state.poses[name].position[:2]))
  if np.linalg.norm(ahead[:2]) > 0.5 and distance < 0.10:
    return act(state, state.position - 0.04 * ahead, state.rotation, is_open=True)
  return retreat(state, is_open=True)


def _push_direction(state: State, name: str) -> np.ndarray:
  """Choose a direction [2] with space behind and ahead of the object.

  Beside the object, a direction away from the gripper.
  """
  pose, shape = state.poses[name], kind(name)
  offset = pose.position[:2] - state.position[:2]
  distance = float(np.linalg.norm(offset))
  beside = distance < shape.radius + 0.075 and state.position[2] < 2 * shape.half_height + 0.02

  def cost(direction: np.ndarray) -> float:
    ahead = clearance(state, pose.position[:2] + direction * (shape.half_height + 0.02), (name,))
    behind = clearance(state, pose.position[:2] - direction * (shape.radius + 0.045), (name,))
    crowded = max(0.05 - ahead, 0) + 2 * max(0.03 - behind, 0)
    along = float(direction @ offset)
    return crowded - (along / max(distance, 1e-9) if beside else 0.005 * along)

  angles = np.arange(16) * (2 * math.pi / 16)
  return min((np.array([math.cos(a), math.sin(a)]) for a in angles), key=cost)
