"""Experts that knock objects over and stand them up."""
import math

import numpy as np

from rtjax.envs.tabletop.arm import rotation_matrix, rotation_vector
from rtjax.envs.tabletop.experts.motion import act, angle, clearance, funnel, kind, rise, travel, yaw
from rtjax.envs.tabletop.tasks import Task
from rtjax.envs.tabletop.world import TABLE, State

_DOWN = np.array([0, 0, -1.0])
_LEFT_TILTED = 0.12  # that an object is let go with, rad: it rocks onto its base, and the hand stays off the table
_TURN_HEIGHT = 0.15
_MIDDLE_TURN = 0.75  # of the hand's yaw, within the last joint's range; rad
_SIDE = math.pi / 2  # where a hand that points sideways points to: the arm cannot point forward so low


def knock(task: Task, state: State) -> np.ndarray:
  """Pushes against the upper part, sideways, with closed fingers."""
  assert task.target is not None
  name, shape = task.target.name, task.target.shape
  pose = state.poses[name]
  if pose.tilt > math.radians(65):
    return rise(state, is_open=False)
  way = _push_direction(state, name)
  height = max(0.6 * shape.half_height, 0.015) + shape.half_height
  offset = state.position[:2] - pose.position[:2]
  along, aside = float(offset @ way), float(abs(offset[0] * way[1] - offset[1] * way[0]))
  if aside < 0.018 and along < 0.03 and abs(state.position[2] - height) < 0.02:
    goal = np.append(pose.position[:2] + 0.06 * way, height)
    return act(state, goal, np.eye(3), is_open=False)
  start = np.append(pose.position[:2] - (shape.radius + 0.045) * way, height)
  return funnel(state, start, np.eye(3), travel(state), is_open=False, tolerance=0.012)


def upright(task: Task, state: State) -> np.ndarray:
  """Grasps across the axis, lifts, turns the hand sideways until the object stands, and sets it down."""
  assert task.target is not None
  name = task.target.name
  pose = state.poses[name]
  if state.held == name:
    return _set_upright(state, name)
  if pose.tilt < 0.25:
    return _withdraw(state, name)
  axis = pose.rotation[:2, 2]
  turn = (math.atan2(axis[1], axis[0]) - _MIDDLE_TURN + math.pi) % (2 * math.pi) - math.pi + _MIDDLE_TURN
  point = pose.position + 0.012 * pose.rotation[:, 2]
  point[2] = max(point[2], 0.018)
  rotation = yaw(turn)
  slack = 1.0 if state.opening > 0.9 else 2.0
  close = (np.linalg.norm(point - state.position) < 0.012 * slack and angle(rotation, state.rotation) < 0.15 * slack)
  return funnel(state, point, rotation, point[2] if close else travel(state), is_open=not close)


def _set_upright(state: State, name: str) -> np.ndarray:
  pose, shape = state.poses[name], kind(name)
  rotation = _standing_rotation(state, pose.rotation[:, 2])
  turn = angle(rotation, state.rotation)
  low = pose.position[2] - shape.half_height * math.cos(pose.tilt) - shape.width / 2 * math.sin(pose.tilt)
  if turn < 0.15 or pose.tilt < 0.25:
    if low < 0.004 or (TABLE in state.supports[name] and pose.tilt < 0.3):
      return act(state, state.position, state.rotation, is_open=True)
    return act(state, state.position - np.array([0, 0, max(low, 0.004)]), rotation, is_open=False)
  risen = np.clip((state.position[2] - 0.08) / 0.04, 0, 1)
  goal = np.array([min(state.position[0], 0.52), state.position[1], _TURN_HEIGHT])
  turned = rotation_matrix(risen * rotation_vector(rotation @ state.rotation.T)) @ state.rotation
  return act(state, goal, turned, is_open=False)


def _standing_rotation(state: State, axis: np.ndarray) -> np.ndarray:
  """The gripper's rotation with which the held object, whose axis is `axis`, stands, and the hand points left."""
  tilt = math.acos(float(np.clip(axis[2], -1, 1)))
  across = np.cross(axis, [0, 0, 1.0])
  across = across / max(np.linalg.norm(across), 1e-9)
  raised = rotation_matrix(max(tilt - _LEFT_TILTED, 0) * across) @ state.rotation
  ahead = raised @ _DOWN
  return yaw(_SIDE - math.atan2(ahead[1], ahead[0])) @ raised if np.linalg.norm(ahead[:2]) > 0.3 else raised


def _withdraw(state: State, name: str) -> np.ndarray:
  """Backwards out of the object, then up."""
  ahead = state.rotation @ _DOWN
  apart = float(np.linalg.norm(state.position[:2] - state.poses[name].position[:2]))
  if np.linalg.norm(ahead[:2]) > 0.5 and apart < 0.10:
    return act(state, state.position - 0.04 * ahead, state.rotation, is_open=True)
  return rise(state, is_open=True)


def _push_direction(state: State, name: str) -> np.ndarray:
  """Where there is room to come from and to fall, [2]; once beside the object, away from the gripper."""
  pose, shape = state.poses[name], kind(name)
  offset = pose.position[:2] - state.position[:2]
  distance = float(np.linalg.norm(offset))
  beside = distance < shape.radius + 0.075 and state.position[2] < 2 * shape.half_height + 0.02

  def cost(way: np.ndarray) -> float:
    ahead = clearance(state, pose.position[:2] + way * (shape.half_height + 0.02), (name,))
    behind = clearance(state, pose.position[:2] - way * (shape.radius + 0.045), (name,))
    crowded = max(0.05 - ahead, 0) + 2 * max(0.03 - behind, 0)
    return crowded - (1.0 * float(way @ offset) / max(distance, 1e-9) if beside else 0.005 * float(way @ offset))

  angles = np.arange(16) * (2 * math.pi / 16)
  return min((np.array([math.cos(a), math.sin(a)]) for a in angles), key=cost)
