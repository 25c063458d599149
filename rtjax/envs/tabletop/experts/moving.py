"""Experts that grasp an object and move it."""
import math

import numpy as np

from rtjax.envs.tabletop import layout
from rtjax.envs.tabletop.experts.motion import angle, approach, clearance, kind, retreat, travel_height, yaw
from rtjax.envs.tabletop.objects import Item
from rtjax.envs.tabletop.scene import BOWL, CABINET, DRAWER_INSIDE
from rtjax.envs.tabletop.tasks import CONTAINERS, Task, inside, near
from rtjax.envs.tabletop.world import DRAWER, TABLE, State

_GAP = 0.03  # between the objects of 'move near'
_FINGER = 0.046  # from the gripper's centre to an open finger's centre
_FLOOR = {BOWL: 0.008, DRAWER: 0.010}


def pick(task: Task, state: State) -> np.ndarray:
  """Grasp the target and lift it."""
  name = _target(task)
  return retreat(state, is_open=False) if state.held == name else grasp(state, name)


def move_near(task: Task, state: State) -> np.ndarray:
  """Grasp the target and place it beside the reference."""
  name = _target(task)
  assert task.target is not None and isinstance(task.reference, Item)
  if state.held != name:
    done = near(task, state) and TABLE in state.supports[name]
    return retreat(state, is_open=True) if done else grasp(state, name)
  return place(state, name, _beside(task.target, task.reference, state), 0.0)


def put_into(task: Task, state: State) -> np.ndarray:
  """Grasp the target and place it into the container."""
  name, container = _target(task), str(task.reference)
  if state.held != name:
    return retreat(state, is_open=True) if inside(container, name, state) else grasp(state, name)
  return place(state, name, _container_centre(container, state), _FLOOR[container] + 0.012)


def take_out(task: Task, state: State) -> np.ndarray:
  """Grasp the target and place it on the table."""
  name, container = _target(task), str(task.reference)
  if state.held != name:
    done = not inside(container, name, state) and TABLE in state.supports[name] and not (
        state.supports[name] & set(CONTAINERS))
    return retreat(state, is_open=True) if done else grasp(state, name)
  return place(state, name, _free_position(state, name, container), 0.0)


def grasp(state: State, name: str) -> np.ndarray:
  """Return the action towards holding an object: move over it, descend, close."""
  point, rotation = grasp_pose(state, name)
  distance = float(np.linalg.norm(point[:2] - state.position[:2]))
  slack = 1.0 if state.opening > 0.9 else 2.0  # closing fingers push a little
  if (distance < 0.010 * slack and abs(point[2] - state.position[2]) < 0.010 * slack
      and angle(rotation, state.rotation) < 0.15 * slack):
    return approach(state, point, rotation, point[2], is_open=False)
  return approach(state, point, rotation, travel_height(state), is_open=True)


def grasp_pose(state: State, name: str) -> tuple[np.ndarray, np.ndarray]:
  """Compute the gripper's position [3] and rotation [3, 3] for grasping an object."""
  pose, shape = state.poses[name], kind(name)
  floor = max((_FLOOR[c] for c in CONTAINERS if c in state.supports[name]), default=0.0)
  upright = pose.rotation[2, 2]
  if abs(upright) < 0.8:  # a lying object is grasped across its axis
    axis = pose.rotation[:2, 2]
    turn = _wrapped(math.atan2(axis[1], axis[0]))
    point = pose.position.copy()
  else:
    # The yaw of a round object is invisible, so a policy could not learn a grasp that depends on it.
    own = math.atan2(pose.rotation[1, 0], pose.rotation[0, 0]) if shape.symmetry else 0.0
    candidates = [_wrapped(own + t) for t in shape.turns]
    turn = min(candidates, key=lambda t: _grasp_cost(state, name, t))
    point = pose.position + np.array([0, 0, shape.grasp * np.sign(upright)])
  point[2] = max(point[2], floor + 0.016)
  return point, yaw(turn)


def place(state: State, name: str, goal: np.ndarray, floor: float) -> np.ndarray:
  """Return the action that carries the held object to `goal` [2].

  `floor` is the height at which the object is put down, m.
  """
  position = state.poses[name].position
  bottom = position[2] - kind(name).half_height
  shift = goal - position[:2]
  if np.linalg.norm(shift) < 0.015 and bottom < floor + 0.008:
    return approach(state, state.position, state.rotation, 0.0, is_open=True)
  point = np.append(state.position[:2] + shift, state.position[2] - (bottom - floor))
  level = yaw(math.atan2(state.rotation[1, 0], state.rotation[0, 0]))
  return approach(state, point, level, travel_height(state), is_open=False, tolerance=0.010)


def _target(task: Task) -> str:
  assert task.target is not None
  return task.target.name


def _wrapped(turn: float) -> float:
  """Return the smallest equivalent yaw of a grasp, modulo pi."""
  return (turn + math.pi / 2) % math.pi - math.pi / 2


def _grasp_cost(state: State, name: str, turn: float) -> float:
  """Compute the cost of a grasp: rotation, and lack of space."""
  axis = np.array([-math.sin(turn), math.cos(turn)])
  centre = state.poses[name].position[:2]
  skip = (name, BOWL) if BOWL in state.supports[name] else (name,)
  space = min(clearance(state, centre + side * _FINGER * axis, skip) for side in (-1, 1))
  return 0.02 * abs(turn) + max(0.018 - space, 0)


def _beside(target: Item, reference: Item, state: State) -> np.ndarray:
  """Find the nearest free position beside the reference, [2]."""
  centre = state.poses[reference.name].position[:2]
  distance = target.shape.radius + reference.shape.radius + _GAP
  current = state.poses[target.name].position[:2]

  def cost(point: np.ndarray) -> float:
    space = clearance(state, point, (target.name, reference.name)) - target.shape.radius
    return float(np.linalg.norm(point - current)) + 20 * max(0.03 - space, 0) + 20 * _outside(point, state)

  angles = np.arange(24) * (2 * math.pi / 24)
  return min((centre + distance * np.array([math.cos(a), math.sin(a)]) for a in angles), key=cost)


def _outside(point: np.ndarray, state: State) -> float:
  """Compute the distance of a point from the area of objects, m."""
  low, high = layout.object_area(state.drawer)
  return float(np.maximum(low - 0.02 - point, 0).sum() + np.maximum(point - high - 0.02, 0).sum())


def _container_centre(container: str, state: State) -> np.ndarray:
  if container == BOWL:
    return state.poses[BOWL].position[:2]
  return state.drawer_origin[:2] + np.array([0, DRAWER_INSIDE[:, 1].mean()])


def _free_position(state: State, name: str, container: str) -> np.ndarray:
  """Find the free position nearest to the container.

  It does not depend on the object's present position, so it stays constant while the object moves.
  """
  low, high = layout.object_area(state.drawer)
  centre = state.poses[BOWL].position[:2] if container == BOWL else CABINET
  size = kind(name).radius

  def cost(point: np.ndarray) -> float:
    return float(np.linalg.norm(point - centre)) + 20 * max(0.035 + size - clearance(state, point, (name,)), 0)

  grid = [np.array([x, y]) for x in np.linspace(low[0], high[0], 9) for y in np.linspace(low[1], high[1], 12)]
  return min(grid, key=cost)
