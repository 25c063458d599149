"""Motions that the experts share: straight ones, and approaches from above."""
import math

import numpy as np

from rtjax.envs.tabletop.arm import TIP, rotation_matrix, rotation_vector, to_euler
from rtjax.envs.tabletop.objects import KINDS, Kind
from rtjax.envs.tabletop.scene import BOWL, BOWL_HEIGHT, BOWL_RADIUS
from rtjax.envs.tabletop.world import State

_STEP, _TURN = 0.048, 0.24  # slightly inside the bounds of arm7d
REST = 0.22
"""Height to which the gripper withdraws, m."""
OVER = 0.035
"""Clearance above objects that the gripper passes over, m."""
CABINET_TOP = 0.08


def act(state: State, position: np.ndarray, rotation: np.ndarray, is_open: bool) -> np.ndarray:
  """Return the action straight towards a pose: float32 [7]."""
  shift = position - state.position
  shift = shift / max(1.0, np.abs(shift).max() / _STEP)
  turn = rotation_vector(rotation @ state.rotation.T)
  turn = turn / max(1.0, np.linalg.norm(turn) / _TURN)
  return np.concatenate([shift, to_euler(rotation_matrix(turn)), [float(is_open)]]).astype(np.float32)


def approach(state: State, position: np.ndarray, rotation: np.ndarray, height: float, is_open: bool,
             tolerance: float = 0.008) -> np.ndarray:
  """Return the action towards a pose from above.

  The gripper's height grows with its remaining horizontal distance and rotation: from the pose's height within
  `tolerance` (m) to `height` far away. Below that height the gripper rises before it moves sideways.
  """
  distance = float(np.linalg.norm(position[:2] - state.position[:2]))
  turn = angle(rotation, state.rotation)
  share = np.clip(max((distance - tolerance) / 0.03, (turn - 0.12) / 0.3), 0, 1)
  z = position[2] + share * max(height - position[2], 0)
  free = 1 - np.clip((z - state.position[2] - 0.01) / 0.03, 0, 1)
  goal = np.append(state.position[:2] + free * (position[:2] - state.position[:2]), z)
  goal_rotation = rotation_matrix(free * rotation_vector(rotation @ state.rotation.T)) @ state.rotation
  return act(state, goal, goal_rotation, is_open)


def retreat(state: State, is_open: bool) -> np.ndarray:
  """Return the action straight up to the height REST, pointing down."""
  goal = np.append(state.position[:2], REST)
  level = np.clip((state.position[2] - 0.10) / 0.05, 0, 1)
  goal_rotation = rotation_matrix(level * rotation_vector(state.rotation.T)) @ state.rotation
  return act(state, goal, goal_rotation, is_open)


def angle(one: np.ndarray, other: np.ndarray) -> float:
  """Compute the angle between two rotations, radians."""
  return float(np.linalg.norm(rotation_vector(one @ other.T)))


def yaw(radians: float) -> np.ndarray:
  """Return the rotation about z."""
  return rotation_matrix(np.array([0, 0, radians]))


def kind(name: str) -> Kind:
  """Return the kind of an object by its name."""
  return KINDS[name.split()[-1]]


def top(state: State, name: str) -> float:
  """Estimate the height of an object's highest point, m."""
  pose = state.poses[name]
  if name == BOWL:
    return BOWL_HEIGHT
  shape = kind(name)
  upright = abs(pose.rotation[2, 2])
  return float(pose.position[2] + upright * shape.half_height + math.sqrt(1 - min(upright, 1) ** 2) * shape.radius)


def radius(name: str) -> float:
  """Return the radius of the upright cylinder around an object, m."""
  return BOWL_RADIUS if name == BOWL else kind(name).radius


def overhang(state: State) -> float:
  """Estimate the extent of fingertips and load below the gripper's position, m."""
  if state.held is None or state.held == BOWL:
    return TIP
  pose, shape = state.poses[state.held], kind(state.held)
  upright = abs(pose.rotation[2, 2])
  low = pose.position[2] - upright * shape.half_height - math.sqrt(1 - min(upright, 1) ** 2) * shape.radius
  return max(TIP, float(state.position[2] - low))


def travel_height(state: State) -> float:
  """Return a height at which gripper and load pass over everything, m."""
  tops = [top(state, name) for name in state.poses if name != state.held]
  return max([CABINET_TOP, *tops]) + OVER + overhang(state)


def clearance(state: State, point: np.ndarray, skip: tuple[str, ...]) -> float:
  """Compute the distance of a point to objects outside `skip`, m."""
  return min((float(np.linalg.norm(state.poses[name].position[:2] - point[:2])) - radius(name)
              for name in state.poses if name not in skip), default=1.0)
