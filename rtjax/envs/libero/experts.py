"""Scripted experts of LIBERO, functions of the simulation's state alone.

An expert fulfils the first predicate of the goal that does not hold. It has no memory: what it does follows from where
things are, so that it recovers from any disturbance.
"""
import math

import numpy as np

from rtjax.envs.libero.env import State
from rtjax.envs.tabletop.arm import rotation_vector

_SHARE, _TURN_SHARE = np.float32(0.05), np.float32(0.5)  # an action of 1: m, rad
_GAIN, _TURN_GAIN = 2.5, 0.8  # of the distance in one step; the arm does not follow small actions
_CLOSE, _OPEN = 1.0, -1.0
_PALM = 0.035  # height of a grasp below the object's top, m: the palm stays above it
_TIP = 0.012  # from the grasp's point down to the fingertips, m
_HALF_HAND = 0.10  # half of the hand's width along the direction in which the fingers close, m
_WIDEST = 0.072  # object between the fingers, m
_DEPTHS = (0.026, 0.013)  # of a grasp below the rim of a hollow object, m
_HALF = 0.45  # opening of half-open fingers
_REACH = 0.72  # from the arm's base, m; farther out the elbow straightens, and the controller cannot bend it again
_OVER = 0.03  # clearance of what the gripper passes over, m
_HOME = np.array([0.0, 1.0])  # direction in which the fingers close at the start


def act(state: State) -> np.ndarray:
  """Return the action towards the goal."""
  if not state.unmet:
    return _idle(state)
  name, *arguments = state.unmet[0]
  if name in ('in', 'on') and len(arguments) == 2:
    return _put(state, arguments[0], arguments[1])
  raise ValueError(f'no expert for the goal {state.unmet[0]}.')


def _put(state: State, name: str, goal: str) -> np.ndarray:
  """Grasp an object and put it into or onto the goal."""
  point, floor = _destination(state, goal)
  low, _ = _extent(state, name)
  away = float(np.linalg.norm(state.poses[name].position[:2] - point))
  if away < 0.025 and low[2] < floor + 0.014 and (state.opening < 0.85 or state.speeds[name] > 0.02):
    rise = 0.0 if state.held == name else 0.03 * float(np.clip((state.opening - 0.5) / 0.4, 0, 1))
    return _move(state, state.position + np.array([0, 0, rise]), state.rotation, _OPEN)
  if state.held == name:
    return _carry(state, name, point, floor)
  return _grasp(state, name)


def _grasp(state: State, name: str) -> np.ndarray:
  """Return the action towards holding an object: move over it, descend, close."""
  point, rotation, opening = grasp_pose(state, name)
  distance = float(np.linalg.norm(point[:2] - state.position[:2]))
  slack = 1.0 if state.opening > opening - 0.15 else 2.0  # closing fingers push a little
  if (distance < 0.012 * slack and abs(point[2] - state.position[2]) < 0.012 * slack
      and _angle(rotation, state.rotation) < 0.15 * slack):
    return _move(state, point, rotation, _CLOSE)
  height = _travel(state, point[:2], _TIP)
  return _approach(state, point, rotation, height, _opened(state, opening))


def grasp_pose(state: State, name: str) -> tuple[np.ndarray, np.ndarray, float]:
  """Compute position [3], rotation [3, 3] and opening of the gripper for grasping an object.

  Half-open fingers approach the wall of a hollow object if something is in the way, as in a drawer.
  """
  openings = (1.0, _HALF) if name in state.hollow else (1.0,)
  candidates = [(*grasp, opening) for opening in openings for grasp in _grasps(state, name)]
  points, axes, widths = (np.array(part) for part in zip(*candidates, strict=True))
  # Two thirds from the start, one third from now: equal grasps do not alternate.
  turns = np.arccos(np.minimum(1, np.abs(axes @ np.stack([_HOME, _nearest_axis(state)], 1)))) @ [2 / 3, 1 / 3]
  far = np.maximum(np.linalg.norm(points[:, :2] - state.base[:2], axis=1) - _REACH, 0)
  if state.opening < 0.3:  # closed: the same grasp again, if contact is lost for a moment
    far += np.linalg.norm(points - state.position, axis=1)
  costs = 0.02 * turns + 0.5 * far + _blocked(state, name, points, axes, widths) + 0.02 * (1 - widths)
  best = int(np.argmin(costs + 1e-6 * np.arange(len(costs))))
  return points[best], _down(state, axes[best]), float(widths[best])


def _grasps(state: State, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
  """Return points of grasps, and directions [2] of closing."""
  low, high = _extent(state, name)
  centre = (low + high) / 2
  if name in state.hollow:
    return [(np.maximum(point, [-np.inf, -np.inf, low[2] + _TIP]), axis) for point, axis in _rim(state, name)]
  z = max(centre[2], high[2] - _PALM, low[2] + _TIP)
  turn = _yaw(state.poses[name].rotation)
  axes = [np.array([math.cos(turn + a), math.sin(turn + a)]) for a in np.arange(4) * (math.pi / 4)]
  widths = [np.ptp(state.boxes[name][..., :2] @ axis) for axis in axes]
  least = min(widths)
  return [(np.append(centre[:2], z), axis) for axis, width in zip(axes, widths, strict=True)
          if width < least + 0.012 and (width < _WIDEST or least >= _WIDEST)]


def _rim(state: State, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
  """Return points on the wall of a hollow object, and directions outwards."""
  pose = state.poses[name]
  boxes = (state.boxes[name] - pose.position) @ pose.rotation
  points = boxes.reshape(-1, 3)
  middle = (points.min(0) + points.max(0))[:2] / 2
  radius = float(np.linalg.norm(boxes.mean(1)[:, :2] - middle, axis=1).max())
  top, found = float(points[:, 2].max()), []
  for depth in _DEPTHS:
    for turn in np.arange(12) * (math.pi / 6):
      axis = np.array([math.cos(turn), math.sin(turn), 0.0])
      outwards = (pose.rotation @ axis)[:2]
      point = pose.position + pose.rotation @ [*(middle + radius * axis[:2]), top - depth]
      found.append((point, outwards / np.linalg.norm(outwards)))
  return found


def _blocked(state: State, name: str, points: np.ndarray, axes: np.ndarray, openings: np.ndarray) -> np.ndarray:
  """Compute how far obstacles reach into the fingers and the hand, m.

  Shapes: points [n, 3], directions [n, 2] of closing, openings [n]; returns [n]. Boxes are those of upright things,
  turned about the vertical, as a drawer's walls.
  """
  others = np.concatenate([boxes for other, boxes in state.boxes.items() if other != name])
  centres, edges = others.mean(1), others[:, (4, 2, 1)] - others[:, :1]
  lengths = np.linalg.norm(edges, axis=2)
  edges, tops = edges / np.maximum(lengths, 1e-9)[..., None], others[..., 2].max(1)
  blocked = np.zeros(len(points))
  for reaches, height in ((0.04 * openings + 0.01, -_TIP), (np.full(len(points), _HALF_HAND), 0.05)):
    for side in (-1, 1):
      away = (points[:, :2] + side * reaches[:, None] * axes)[:, None] - centres[:, :2]  # [points, boxes, 2]
      inside = np.abs(np.einsum('pbx,bex->pbe', away, edges[..., :2])) < lengths / 2 + 0.015
      blocked += (inside.all(2) * np.clip(tops - (points[:, 2:] + height), 0, 0.03)).max(1, initial=0)
  return blocked


def _carry(state: State, name: str, goal: np.ndarray, floor: float) -> np.ndarray:
  """Return the action that carries the held object to `goal` [2].

  `floor` is the height at which its bottom is put down, m.
  """
  bottom = _extent(state, name)[0][2]
  shift = goal - state.poses[name].position[:2]
  point = np.append(state.position[:2] + shift, state.position[2] - (bottom - floor - 0.004))
  overhang = max(float(state.position[2] - bottom), _TIP)
  height = _travel(state, point[:2], overhang)
  return _approach(state, point, _down(state, _nearest_axis(state)), height, _CLOSE, tolerance=0.015, turn_first=False)


def _destination(state: State, goal: str) -> tuple[np.ndarray, float]:
  """Return point [2] and height of the object's bottom when put down."""
  if goal in state.poses:
    low, high = _extent(state, goal)
    return state.poses[goal].position[:2], float(high[2] if goal not in state.hollow else low[2] + 0.01)
  owner = next((name for name in state.poses if goal.startswith(name)), None)
  if owner is None:
    return state.sites[goal].position[:2], float(state.sites[goal].position[2])
  low, high = _extent(state, owner)
  if owner in state.hollow:  # dropped from above the rim: the hand does not fit in
    return ((low + high) / 2)[:2], float(high[2] + 0.02)
  return state.sites[goal].position[:2], float(state.sites[goal].position[2])


def _approach(state: State, point: np.ndarray, rotation: np.ndarray, height: float, effort: float,
              tolerance: float = 0.008, turn_first: bool = True) -> np.ndarray:
  """Return the action towards a pose from above.

  The height grows with the remaining horizontal distance and turn, from the pose's within `tolerance` (m) to `height`
  two centimetres away. Below that height the gripper rises before it moves sideways. A carried object tilts the hand;
  without `turn_first` that does not keep it up.
  """
  distance = float(np.linalg.norm(point[:2] - state.position[:2]))
  turn = _angle(rotation, state.rotation) if turn_first else 0.0
  share = np.clip(max((distance - tolerance) / 0.02, (turn - 0.1) / 0.2), 0, 1)
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


def _travel(state: State, goal: np.ndarray, overhang: float) -> float:
  """Return a height to pass over what is on the way."""
  path = state.position[:2] + np.linspace(0, 1, 9)[:, None] * (goal - state.position[:2])
  others = np.concatenate([boxes for name, boxes in state.boxes.items() if name != state.held])
  low, high = others.min(1), others.max(1)
  near = ((path[:, None] > low[:, :2] - 0.05) & (path[:, None] < high[:, :2] + 0.05)).all(2).any(0)
  return float(high[near, 2].max(initial=0)) + _OVER + overhang


def _extent(state: State, name: str) -> tuple[np.ndarray, np.ndarray]:
  """Return lowest and highest corner [3] of an object in the world."""
  points = state.boxes[name].reshape(-1, 3)
  return points.min(0), points.max(0)


def _down(state: State, axis: np.ndarray) -> np.ndarray:
  """Return the rotation of pointing down and closing along `axis` [2].

  The sign is that of the direction at the start, within the last joint's range; across it, the gripper's now.
  """
  side = float(axis @ _HOME)
  if abs(side) < 0.2:
    side = float(axis @ _nearest_axis(state))
  x = np.append(axis if side >= 0 else -axis, 0)
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
