"""Experts that grasp an object and put it somewhere."""
import math

import numpy as np

from rtjax.envs.tabletop import layout
from rtjax.envs.tabletop.experts.motion import angle, clearance, funnel, kind, rise, travel, yaw
from rtjax.envs.tabletop.objects import Item
from rtjax.envs.tabletop.scene import BOWL, CABINET, DRAWER_INSIDE
from rtjax.envs.tabletop.tasks import CONTAINERS, Task, inside, near
from rtjax.envs.tabletop.world import DRAWER, TABLE, State

_GAP = 0.03  # that 'move near' leaves between the objects
_FINGER = 0.046  # from the gripper's middle to an open finger's middle
_FLOOR = {BOWL: 0.008, DRAWER: 0.010}


def pick(task: Task, state: State) -> np.ndarray:
  name = _target(task)
  return rise(state, is_open=False) if state.held == name else grasp(state, name)


def move_near(task: Task, state: State) -> np.ndarray:
  name = _target(task)
  assert task.target is not None and isinstance(task.reference, Item)
  if state.held != name:
    done = near(task, state) and TABLE in state.supports[name]
    return rise(state, is_open=True) if done else grasp(state, name)
  return place(state, name, _beside(task.target, task.reference, state), 0.0)


def put_into(task: Task, state: State) -> np.ndarray:
  name, container = _target(task), str(task.reference)
  if state.held != name:
    return rise(state, is_open=True) if inside(container, name, state) else grasp(state, name)
  return place(state, name, _middle(container, state), _FLOOR[container] + 0.012)


def take_out(task: Task, state: State) -> np.ndarray:
  name, container = _target(task), str(task.reference)
  if state.held != name:
    out = not inside(container, name, state) and TABLE in state.supports[name] and not (
        state.supports[name] & set(CONTAINERS))
    return rise(state, is_open=True) if out else grasp(state, name)
  return place(state, name, _free_place(state, name, container), 0.0)


def grasp(state: State, name: str) -> np.ndarray:
  """The action that leads to `name` being held: over it, down, closing."""
  point, rotation = grasp_pose(state, name)
  aside = float(np.linalg.norm(point[:2] - state.position[:2]))
  slack = 1.0 if state.opening > 0.9 else 2.0  # fingers that are closing push a little
  if (aside < 0.010 * slack and abs(point[2] - state.position[2]) < 0.010 * slack
      and angle(rotation, state.rotation) < 0.15 * slack):
    return funnel(state, point, rotation, point[2], is_open=False)
  return funnel(state, point, rotation, travel(state), is_open=True)


def grasp_pose(state: State, name: str) -> tuple[np.ndarray, np.ndarray]:
  """Where to grasp an object, [3], and with which rotation of the gripper, [3, 3]."""
  pose, shape = state.poses[name], kind(name)
  floor = max((_FLOOR[c] for c in CONTAINERS if c in state.supports[name]), default=0.0)
  upright = pose.rotation[2, 2]
  if abs(upright) < 0.8:  # it lies: across its axis
    axis = pose.rotation[:2, 2]
    turn = _wrapped(math.atan2(axis[1], axis[0]))
    point = pose.position.copy()
  else:
    # A round object's own turn cannot be seen: whoever learns from this could not tell where it comes from.
    own = math.atan2(pose.rotation[1, 0], pose.rotation[0, 0]) if shape.symmetry else 0.0
    candidates = [_wrapped(own + t) for t in shape.turns]
    turn = min(candidates, key=lambda t: _grasp_cost(state, name, t))
    point = pose.position + np.array([0, 0, shape.grasp * np.sign(upright)])
  point[2] = max(point[2], floor + 0.016)
  return point, yaw(turn)


def place(state: State, name: str, goal: np.ndarray, floor: float) -> np.ndarray:
  """The action that carries the held object over `goal` [2] and puts it down on the height `floor`."""
  here = state.poses[name].position
  bottom = here[2] - kind(name).half_height
  shift = goal - here[:2]
  if np.linalg.norm(shift) < 0.015 and bottom < floor + 0.008:
    return funnel(state, state.position, state.rotation, 0.0, is_open=True)
  point = np.append(state.position[:2] + shift, state.position[2] - (bottom - floor))
  level = yaw(math.atan2(state.rotation[1, 0], state.rotation[0, 0]))
  return funnel(state, point, level, travel(state), is_open=False, tolerance=0.010)


def _target(task: Task) -> str:
  assert task.target is not None
  return task.target.name


def _wrapped(turn: float) -> float:
  """The same grasp with the least turn: the fingers are alike, so half a turn changes nothing."""
  return (turn + math.pi / 2) % math.pi - math.pi / 2


def _grasp_cost(state: State, name: str, turn: float) -> float:
  """Turns are slow, and open fingers need room."""
  axis = np.array([-math.sin(turn), math.cos(turn)])
  middle = state.poses[name].position[:2]
  skip = (name, BOWL) if BOWL in state.supports[name] else (name,)
  room = min(clearance(state, middle + side * _FINGER * axis, skip) for side in (-1, 1))
  return 0.02 * abs(turn) + max(0.018 - room, 0)


def _beside(target: Item, reference: Item, state: State) -> np.ndarray:
  """The nearest free place at the reference, [2]."""
  middle = state.poses[reference.name].position[:2]
  apart = target.shape.radius + reference.shape.radius + _GAP
  here = state.poses[target.name].position[:2]

  def cost(point: np.ndarray) -> float:
    room = clearance(state, point, (target.name, reference.name)) - target.shape.radius
    return float(np.linalg.norm(point - here)) + 20 * max(0.03 - room, 0) + 20 * _outside(point, state)

  angles = np.arange(24) * (2 * math.pi / 24)
  return min((middle + apart * np.array([math.cos(a), math.sin(a)]) for a in angles), key=cost)


def _outside(point: np.ndarray, state: State) -> float:
  """How far a point is from where objects may stand, m."""
  low, high = layout.area(state.drawer)
  return float(np.maximum(low - 0.02 - point, 0).sum() + np.maximum(point - high - 0.02, 0).sum())


def _middle(container: str, state: State) -> np.ndarray:
  if container == BOWL:
    return state.poses[BOWL].position[:2]
  return state.drawer_origin[:2] + np.array([0, DRAWER_INSIDE[:, 1].mean()])


def _free_place(state: State, name: str, container: str) -> np.ndarray:
  """The table's nearest place to the container with room enough; it does not depend on where the object is."""
  low, high = layout.area(state.drawer)
  middle = state.poses[BOWL].position[:2] if container == BOWL else CABINET
  size = kind(name).radius

  def cost(point: np.ndarray) -> float:
    return float(np.linalg.norm(point - middle)) + 20 * max(0.035 + size - clearance(state, point, (name,)), 0)

  grid = [np.array([x, y]) for x in np.linspace(low[0], high[0], 9) for y in np.linspace(low[1], high[1], 12)]
  return min(grid, key=cost)
