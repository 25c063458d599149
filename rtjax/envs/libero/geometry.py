"""Shapes of LIBERO's objects and fixtures, from collision geoms."""
import dataclasses
import itertools
from collections.abc import Mapping

import mujoco
import numpy as np

_CORNERS = np.array(list(itertools.product((-1, 1), repeat=3)))


@dataclasses.dataclass(frozen=True)
class Shape:
  """Boxes around the geoms of an object, in its own frame.

  Attributes:
    boxes: float [n, 8, 3], their corners, m.
    is_hollow: whether nothing fills its middle, as in a bowl.
  """
  boxes: np.ndarray
  is_hollow: bool

  def extent(self, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lowest and highest corner [3], relative to its position."""
    points = self.boxes.reshape(-1, 3) @ rotation.T
    return points.min(0), points.max(0)

  def width(self, rotation: np.ndarray, axis: np.ndarray) -> float:
    """Return its extent along a direction [3] of the world."""
    return float(np.ptp(self.boxes.reshape(-1, 3) @ (rotation.T @ axis)))


def shapes(model: mujoco.MjModel, bodies: Mapping[str, int]) -> dict[str, Shape]:
  """Return the shapes of bodies, given by name and number."""
  data = mujoco.MjData(model)
  mujoco.mj_kinematics(model, data)
  return {name: _shape(model, data, body) for name, body in bodies.items()}


def _shape(model: mujoco.MjModel, data: mujoco.MjData, root: int) -> Shape:
  position, rotation = data.xpos[root], data.xmat[root].reshape(3, 3)
  boxes = []
  for geom in range(model.ngeom):
    if model.geom_contype[geom] and _belongs(model, model.geom_bodyid[geom], root):
      centre, half = model.geom_aabb[geom][:3], model.geom_aabb[geom][3:]
      world = (centre + _CORNERS * half) @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
      boxes.append((world - position) @ rotation)
  return Shape(np.array(boxes), _is_hollow(np.array(boxes)))


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
