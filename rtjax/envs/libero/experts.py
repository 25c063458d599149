"""Scripted experts of LIBERO, functions of the simulation's state alone.

An expert fulfils the first predicate of the goal that does not hold. It has no memory: what it does follows from where
things are, so that it recovers from any disturbance.
"""
import math
from collections.abc import Callable, Mapping

import numpy as np

from rtjax.envs.libero.env import Pose, State
from rtjax.envs.libero.geometry import Shape
from rtjax.envs.tabletop.arm import rotation_vector

Shapes = Mapping[str, Shape]

_SHARE, _TURN_SHARE = np.float32(0.05), np.float32(0.5)  # an action of 1: m, rad
_GAIN, _TURN_GAIN = 2.5, 0.8  # of the distance in one step; the arm does not follow small actions
_CLOSE, _OPEN = 1.0, -1.0
_PALM = 0.035  # height of a grasp below the object's top, m: the palm stays above it
_TIP = 0.012  # from the grasp's point down to the fingertips, m
_HALF_HAND = 0.10  # half of the hand's width along the direction in which the fingers close, m
_WIDEST = 0.072  # object between the fingers, m
_DEPTHS = (0.02, 0.01)  # of a grasp below the rim of a hollow object, m
_HALF = 0.45  # opening of half-open fingers
_OVER = 0.03  # clearance of what the gripper passes over, m
_HOME = np.array([0.0, 1.0])  # direction in which the fingers close at the start


def get(shapes: Shapes) -> Callable[[State], np.ndarray]:
  """Return the expert of an episode: `state` to action float32 [7]."""
  return lambda state: act(state, shapes)


def act(state: State, shapes: Shapes) -> np.ndarray:
  """Return the action towards the goal."""
  if not state.unmet:
    return _idle(state)
  name, *arguments = state.unmet[0]
  if name in ('in', 'on') and len(arguments) == 2:
    return _put(state, shapes, arguments[0], arguments[1])
  raise ValueError(f'no expert for the goal {state.unmet[0]}.')


def _put(state: State, shapes: Shapes, name: str, goal: str) -> np.ndarray:
  """Grasp an object and put it into or onto the goal."""
  point, floor = _destination(state, shapes, goal)
  low, high = _extent(state, shapes, name)
  away = float(np.linalg.norm(((low + high) / 2)[:2] - point))
  if away < 0.025 and low[2] < floor + 0.014 and (state.opening < 0.85 or state.speeds[name] > 0.02):
    rise = 0.0 if state.held == name else 0.03 * float(np.clip((state.opening - 0.5) / 0.4, 0, 1))
    return _move(state, state.position + np.array([0, 0, rise]), state.rotation, _OPEN)
  if state.held == name:
    return _carry(state, shapes, name, point, floor)
  return _grasp(state, shapes, name)


def _grasp(state: State, shapes: Shapes, name: str) -> np.ndarray:
  """Return the action towards holding an object: move over it, descend, close."""
  point, rotation, opening = grasp_pose(state, shapes, name)
  distance = float(np.linalg.norm(point[:2] - state.position[:2]))
  slack = 1.0 if state.opening > opening - 0.15 else 2.0  # closing fingers push a little
  if (distance < 0.012 * slack and abs(point[2] - state.position[2]) < 0.012 * slack
      and _angle(rotation, state.rotation) < 0.15 * slack):
    return _move(state, point, rotation, _CLOSE)
  height = _travel(state, shapes, point[:2], _TIP)
  return _approach(state, point, rotation, height, _opened(state, opening))


def grasp_pose(state: State, shapes: Shapes, name: str) -> tuple[np.ndarray, np.ndarray, float]:
  """Compute position [3], rotation [3, 3] and opening of the gripper for grasping an object.

  Half-open fingers approach the wall of a hollow object if something is in the way, as in a drawer.
  """
  openings = (1.0, _HALF) if shapes[name].is_hollow else (1.0,)
  candidates = [(*grasp, opening) for opening in openings for grasp in _grasps(state, shapes, name)]
  costs = [_cost(state, shapes, name, *candidate) + 1e-6 * rank for rank, candidate in enumerate(candidates)]
  point, axis, opening = candidates[int(np.argmin(costs))]
  return point, _down(axis), opening


def _grasps(state: State, shapes: Shapes, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
  """Return points of grasps, and directions [2] of closing."""
  pose, shape = state.poses[name], shapes[name]
  low, high = _extent(state, shapes, name)
  centre = (low + high) / 2
  if shape.is_hollow:
    return [(np.maximum(point, [-np.inf, -np.inf, low[2] + _TIP]), axis) for point, axis in _rim(pose, shape)]
  z = max(centre[2], high[2] - _PALM, low[2] + _TIP)
  turn = _yaw(pose.rotation)
  axes = [np.array([math.cos(turn + a), math.sin(turn + a)]) for a in np.arange(4) * (math.pi / 4)]
  narrow = [axis for axis in axes if shape.width(pose.rotation, np.append(axis, 0)) < _WIDEST] or axes
  least = min(shape.width(pose.rotation, np.append(axis, 0)) for axis in narrow)
  return [(np.append(centre[:2], z), axis) for axis in narrow
          if shape.width(pose.rotation, np.append(axis, 0)) < least + 0.012]


def _rim(pose: Pose, shape: Shape) -> list[tuple[np.ndarray, np.ndarray]]:
  """Return points on the wall of a hollow object, and directions outwards."""
  centres = shape.boxes.mean(1)
  points = shape.boxes.reshape(-1, 3)[:, :2]
  middle = (points.min(0) + points.max(0)) / 2
  radius = float(np.linalg.norm(centres[:, :2] - middle, axis=1).max())
  top, found = float(shape.boxes[..., 2].max()), []
  for depth in _DEPTHS:
    for turn in np.arange(12) * (math.pi / 6):
      axis = np.array([math.cos(turn), math.sin(turn), 0.0])
      outwards = (pose.rotation @ axis)[:2]
      point = pose.position + pose.rotation @ [*(middle + radius * axis[:2]), top - depth]
      found.append((point, outwards / np.linalg.norm(outwards)))
  return found


def _cost(state: State, shapes: Shapes, name: str, point: np.ndarray, axis: np.ndarray, opening: float
          ) -> float:
  """Compute the cost of a grasp: turn of the hand, and obstacles."""
  turn = math.acos(min(1.0, abs(float(axis @ _HOME))))
  blocked = 0.0
  for other in state.poses:
    if other == name:
      continue
    low, high = _boxes(state, shapes, other)
    for reach, height in ((0.04 * opening + 0.01, -_TIP), (_HALF_HAND, 0.05)):
      for side in (-1, 1):
        place = point[:2] + side * reach * axis
        near = (place > low[:, :2] - 0.015).all(1) & (place < high[:, :2] + 0.015).all(1)
        blocked += float(np.clip(high[near, 2] - (point[2] + height), 0, 0.03).max(initial=0))
  return 0.02 * turn + blocked + 0.02 * (1 - opening)


def _carry(state: State, shapes: Shapes, name: str, goal: np.ndarray, floor: float) -> np.ndarray:
  """Return the action that carries the held object to `goal` [2].

  `floor` is the height at which its bottom is put down, m.
  """
  low, high = _extent(state, shapes, name)
  shift = goal - ((low + high) / 2)[:2]
  bottom = low[2]
  point = np.append(state.position[:2] + shift, state.position[2] - (bottom - floor - 0.004))
  overhang = max(float(state.position[2] - bottom), _TIP)
  height = _travel(state, shapes, point[:2], overhang)
  return _approach(state, point, _down(_nearest_axis(state)), height, _CLOSE, tolerance=0.015)


def _destination(state: State, shapes: Shapes, goal: str) -> tuple[np.ndarray, float]:
  """Return point [2] and height of the object's bottom when put down."""
  if goal in state.poses:
    low, high = _extent(state, shapes, goal)
    return ((low + high) / 2)[:2], float(high[2] if not shapes[goal].is_hollow else low[2] + 0.01)
  owner = next((name for name in state.poses if goal.startswith(name)), None)
  if owner is None:
    return state.sites[goal].position[:2], float(state.sites[goal].position[2])
  low, high = _extent(state, shapes, owner)
  if shapes[owner].is_hollow:  # dropped from above the rim: the hand does not fit in
    return ((low + high) / 2)[:2], float(high[2] + 0.02)
  return state.sites[goal].position[:2], float(state.sites[goal].position[2])


def _approach(state: State, point: np.ndarray, rotation: np.ndarray, height: float, effort: float,
              tolerance: float = 0.008) -> np.ndarray:
  """Return the action towards a pose from above.

  The height grows with the remaining horizontal distance and turn, from the pose's within `tolerance` (m) to `height`
  two centimetres away. Below that height the gripper rises before it moves sideways.
  """
  distance = float(np.linalg.norm(point[:2] - state.position[:2]))
  share = np.clip(max((distance - tolerance) / 0.02, (_angle(rotation, state.rotation) - 0.1) / 0.2), 0, 1)
  z = point[2] + share * max(height - point[2], 0)
  free = 1 - np.clip((z - state.position[2] - 0.015) / 0.05, 0, 1)
  goal = np.append(state.position[:2] + free * (point[:2] - state.position[:2]), z)
  return _move(state, goal, rotation, effort)


def _move(state: State, point: np.ndarray, rotation: np.ndarray, effort: float) -> np.ndarray:
  """Return the action straight towards a pose."""
  shift = _GAIN * (point - state.position) / _SHARE
  turn = _TURN_GAIN * rotation_vector(rotation @ state.rotation.T) / _TURN_SHARE
  shift, turn = (part / max(1.0, float(np.abs(part).max())) for part in (shift, turn))
  return np.concatenate([shift, turn, [effort]]).astype(np.float32)


def _opened(state: State, opening: float) -> float:
  """Return the effort that opens the fingers this far; 0 holds them."""
  if opening == 1:
    return _OPEN
  return 0.0 if abs(state.opening - opening) < 0.1 else _CLOSE if state.opening > opening else _OPEN


def _idle(state: State) -> np.ndarray:
  return np.array([0] * 6 + [_OPEN if state.opening > 0.5 else _CLOSE], np.float32)


def _travel(state: State, shapes: Shapes, goal: np.ndarray, overhang: float) -> float:
  """Return a height to pass over what is on the way."""
  path = state.position[:2] + np.linspace(0, 1, 9)[:, None] * (goal - state.position[:2])
  tops = [0.0]
  for name in state.poses:
    if name == state.held:
      continue
    low, high = _boxes(state, shapes, name)
    near = ((path[:, None] > low[:, :2] - 0.05) & (path[:, None] < high[:, :2] + 0.05)).all(2).any(0)
    tops += high[near, 2].tolist()
  return max(tops) + _OVER + overhang


def _boxes(state: State, shapes: Shapes, name: str) -> tuple[np.ndarray, np.ndarray]:
  """Return lowest and highest corners [n, 3] of an object's boxes in the world."""
  pose = state.poses[name]
  points = shapes[name].boxes @ pose.rotation.T + pose.position
  return points.min(1), points.max(1)


def _extent(state: State, shapes: Shapes, name: str) -> tuple[np.ndarray, np.ndarray]:
  """Return lowest and highest corner [3] of an object in the world."""
  pose: Pose = state.poses[name]
  low, high = shapes[name].extent(pose.rotation)
  return low + pose.position, high + pose.position


def _down(axis: np.ndarray) -> np.ndarray:
  """Return the rotation of pointing down and closing along `axis` [2]."""
  x = np.append(axis if axis @ _HOME >= 0 else -axis, 0)
  z = np.array([0.0, 0.0, -1.0])
  return np.stack([x, np.cross(z, x), z], 1)


def _nearest_axis(state: State) -> np.ndarray:
  """Return the horizontal direction in which the fingers close now."""
  axis = state.rotation[:2, 0]
  length = float(np.linalg.norm(axis))
  return axis / length if length > 0.1 else _HOME


def _angle(one: np.ndarray, other: np.ndarray) -> float:
  return float(np.linalg.norm(rotation_vector(one @ other.T)))


def _yaw(rotation: np.ndarray) -> float:
  """Return the direction of the longest horizontal axis of a frame, rad."""
  axis = rotation[:, np.argmax(np.linalg.norm(rotation[:2], axis=0))]
  return math.atan2(axis[1], axis[0])
