"""Motions that the experts share: straight ones within the action's bounds, and funnels onto a point from above."""
import math

import numpy as np

from rtjax.envs.tabletop.arm import TIP, rotation_matrix, rotation_vector, to_euler
from rtjax.envs.tabletop.objects import KINDS, Kind
from rtjax.envs.tabletop.scene import BOWL, BOWL_HEIGHT, BOWL_RADIUS
from rtjax.envs.tabletop.world import State

_STEP, _TURN = 0.048, 0.24  # just inside the bounds of arm7d
REST = 0.22
"""Height to which the gripper withdraws, m."""
OVER = 0.035
"""Space kept above whatever is passed over, m."""
CABINET_TOP = 0.08


def act(state: State, position: np.ndarray, rotation: np.ndarray, is_open: bool) -> np.ndarray:
  """The action straight towards a pose: float32 [7]."""
  shift = position - state.position
  shift = shift / max(1.0, np.abs(shift).max() / _STEP)
  turn = rotation_vector(rotation @ state.rotation.T)
  turn = turn / max(1.0, np.linalg.norm(turn) / _TURN)
  return np.concatenate([shift, to_euler(rotation_matrix(turn)), [float(is_open)]]).astype(np.float32)


def funnel(state: State, place: np.ndarray, rotation: np.ndarray, travel: float, is_open: bool,
           tolerance: float = 0.008) -> np.ndarray:
  """The action towards `place` [3] from above: the height to go at grows with what is left to go sideways and to turn.

  Far away that height is `travel`; within `tolerance` (m) it is the place's own. Below it, rising comes before going
  sideways.
  """
  aside = float(np.linalg.norm(place[:2] - state.position[:2]))
  turn = angle(rotation, state.rotation)
  share = np.clip(max((aside - tolerance) / 0.03, (turn - 0.12) / 0.3), 0, 1)
  height = place[2] + share * max(travel - place[2], 0)
  free = 1 - np.clip((height - state.position[2] - 0.01) / 0.03, 0, 1)
  goal = np.append(state.position[:2] + free * (place[:2] - state.position[:2]), height)
  turned = rotation_matrix(free * rotation_vector(rotation @ state.rotation.T)) @ state.rotation
  return act(state, goal, turned, is_open)


def rise(state: State, is_open: bool) -> np.ndarray:
  """The action straight up, to where the gripper is out of the way, pointing down."""
  goal = np.append(state.position[:2], REST)
  level = np.clip((state.position[2] - 0.10) / 0.05, 0, 1)
  turned = rotation_matrix(level * rotation_vector(state.rotation.T)) @ state.rotation
  return act(state, goal, turned, is_open)


def angle(one: np.ndarray, other: np.ndarray) -> float:
  """Between two rotations, radians."""
  return float(np.linalg.norm(rotation_vector(one @ other.T)))


def yaw(radians: float) -> np.ndarray:
  return rotation_matrix(np.array([0, 0, radians]))


def kind(name: str) -> Kind:
  """The kind of the object called `name`."""
  return KINDS[name.split()[-1]]


def top(state: State, name: str) -> float:
  """Height of an object's highest point, roughly, m."""
  pose = state.poses[name]
  if name == BOWL:
    return BOWL_HEIGHT
  shape = kind(name)
  upright = abs(pose.rotation[2, 2])
  return float(pose.position[2] + upright * shape.half_height + math.sqrt(1 - min(upright, 1) ** 2) * shape.radius)


def radius(name: str) -> float:
  return BOWL_RADIUS if name == BOWL else kind(name).radius


def hanging(state: State) -> float:
  """How far what is held reaches below the gripper's middle, m; the fingertips where nothing is."""
  if state.held is None or state.held == BOWL:
    return TIP
  pose, shape = state.poses[state.held], kind(state.held)
  upright = abs(pose.rotation[2, 2])
  low = pose.position[2] - upright * shape.half_height - math.sqrt(1 - min(upright, 1) ** 2) * shape.radius
  return max(TIP, float(state.position[2] - low))


def travel(state: State, *skip: str) -> float:
  """A height at which the gripper, with what it holds, passes over everything but the objects in `skip`."""
  tops = [top(state, name) for name in state.poses if name not in skip and name != state.held]
  return max([CABINET_TOP, *tops]) + OVER + hanging(state)


def clearance(state: State, place: np.ndarray, skip: tuple[str, ...]) -> float:
  """Distance from a point of the table to the nearest object's edge, leaving out those in `skip`."""
  return min((float(np.linalg.norm(state.poses[name].position[:2] - place[:2])) - radius(name)
              for name in state.poses if name not in skip), default=1.0)
