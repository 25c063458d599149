"""Bounds of geoms and of their shadows in images.

A geom is enclosed by boxes that are roughly cubes, and a box by the rectangle around it in the image.
"""
import itertools

import mujoco
import numpy as np

SHADOW_HEIGHT = 0.08
"""Shadows are bounded on surfaces between the table's plane z = 0 and this height, m."""

_EDGE = 0.022  # smallest half length of the boxes, m
_MARGIN = 0.5  # pixels; subpixels lie within it
_NEAR = 1e-3  # m


class Bounds:
  """Boxes around some geoms of a model."""

  def __init__(self, model: mujoco.MjModel, geoms: np.ndarray):
    boxes = [(geom, corners) for geom in geoms for corners in _boxes(model.geom_aabb[geom])]
    self._geoms, self._corners = np.array([geom for geom, _ in boxes], int), np.array([box for _, box in boxes])

  def corners(self, data: mujoco.MjData) -> np.ndarray:
    """Compute the corners of the boxes, [boxes, 8, 3], m."""
    rotations = data.geom_xmat[self._geoms].reshape(-1, 3, 3)
    return data.geom_xpos[self._geoms, None] + self._corners @ rotations.swapaxes(1, 2)


def shadows(corners: np.ndarray, lamp: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
  """Project the corners of boxes from the centre of a lamp onto the heights where shadows fall.

  Returns:
    Points whose convex hulls enclose the shadows, [boxes, 16, 3], m, not finite for a box that is not below the lamp;
    and how much further the shadows of a lamp of this radius reach, [boxes], m.
  """
  offset, height = corners - lamp, corners[..., 2]
  below = np.where(offset[..., 2] < -_NEAR, -offset[..., 2], np.nan)
  lowest = (lamp[2] / below)[..., None]
  highest = ((lamp[2] - height.clip(0, SHADOW_HEIGHT)) / below)[..., None]
  reach = radius * (height.clip(0) / below).max(1)
  return lamp + np.concatenate([offset * lowest, offset * highest], 1), reach


class Projection:
  """Projection of points to pixels of a camera."""

  def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, camera: int, size: tuple[int, int]):
    self._size = size
    self._scale = size[0] / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    self._origin, self._axes = data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3)

  def covered(self, hulls: np.ndarray, reach: np.ndarray | float = 0.0) -> np.ndarray:
    """Find the pixels that hulls can cover: bool [H * W].

    Args:
      hulls: convex, around points [hulls, K, 3], m. All pixels are covered if a point is not before the camera.
      reach: how much further they extend, [hulls], m.
    """
    local = ((hulls.reshape(-1, 3) - self._origin) @ self._axes).reshape(hulls.shape)
    depth = -local[..., 2]
    nearest = depth.min(1) - reach
    if not (nearest > _NEAR).all():
      return np.ones(self._size[0] * self._size[1], bool)
    across, down = ((axis * self._scale / depth) for axis in (local[..., 0], -local[..., 1]))
    margin = _MARGIN + 1.2 * reach * self._scale / nearest  # 1.2: it may point towards a camera of up to 80 degrees
    mask = np.zeros(self._size, bool)
    (height, width), bounds = self._size, []
    for position, length in ((down, height), (across, width)):
      position = position + (length - 1) / 2
      bounds += [np.floor(position.min(1) - margin).clip(0, length),
                 np.ceil(position.max(1) + margin + 1).clip(0, length)]
    for top, bottom, left, right in np.array(bounds).T.astype(int).tolist():
      mask[top:bottom, left:right] = True
    return mask.ravel()


def _boxes(aabb: np.ndarray) -> np.ndarray:
  """Divide a box, its centre and half lengths [6], into boxes: their corners [boxes, 8, 3]."""
  centre, half = aabb[:3], aabb[3:]
  counts = np.ceil(half / max(1.5 * half.min(), _EDGE)).astype(int).clip(1)
  places = np.array(list(itertools.product(*(np.arange(1 - count, count, 2) for count in counts))))
  signs = np.array(list(itertools.product((-1, 1), repeat=3)))
  return centre + (places[:, None] + signs) * (half / counts)
