"""Shapes of LIBERO's objects and fixtures, from collision geoms."""
import dataclasses
import itertools
from collections.abc import Mapping

import mujoco
import numpy as np

_CORNERS = np.array(list(itertools.product((-1, 1), repeat=3)))


@dataclasses.dataclass(frozen=True)
class Shapes:
  """Boxes around the collision geoms of objects and fixtures.

  Attributes:
    geoms: their numbers, by the object's name; parts that move, such as drawers, are among them.
    hollow: objects whose middle is empty above half the height, as a bowl's.
  """
  geoms: Mapping[str, np.ndarray]
  hollow: frozenset[str]

  def boxes(self, model: mujoco.MjModel, data: mujoco.MjData) -> dict[str, np.ndarray]:
    """Return the corners [n, 8, 3] of each object's boxes in the world, m."""
    return {name: _boxes(model, data, geoms) for name, geoms in self.geoms.items()}


def shapes(model: mujoco.MjModel, bodies: Mapping[str, int]) -> Shapes:
  """Return the shapes of bodies, given by name and number."""
  data = mujoco.MjData(model)
  mujoco.mj_kinematics(model, data)
  collide = np.flatnonzero(model.geom_contype | model.geom_conaffinity)
  geoms = {name: np.array([geom for geom in collide if _belongs(model, model.geom_bodyid[geom], body)], int)
           for name, body in bodies.items()}
  return Shapes(geoms, frozenset(name for name in bodies if _is_hollow(_boxes(model, data, geoms[name]))))


def _boxes(model: mujoco.MjModel, data: mujoco.MjData, geoms: np.ndarray) -> np.ndarray:
  centres, halves = model.geom_aabb[geoms, None, :3], model.geom_aabb[geoms, None, 3:]
  rotations = data.geom_xmat[geoms].reshape(-1, 3, 3)
  return (centres + _CORNERS * halves) @ rotations.transpose(0, 2, 1) + data.geom_xpos[geoms, None]


def _is_hollow(boxes: np.ndarray) -> bool:
  """Return whether no box fills the middle above half the height."""
  points = boxes.reshape(-1, 3)
  low, high = points.min(0), points.max(0)
  middle = (low + high) / 2
  over = [(box[:, :2].min(0) < middle[:2]).all() and (box[:, :2].max(0) > middle[:2]).all() for box in boxes]
  return not any(covers and box[:, 2].max() > middle[2] for covers, box in zip(over, boxes, strict=True))


def _belongs(model: mujoco.MjModel, body: int, root: int) -> bool:
  while body not in (0, root):
    body = model.body_parentid[body]
  return body == root
