"""Bounds of geoms and of their shadows in images.

A geom is enclosed by boxes that are roughly cubes, and a box by the rectangle around it in the image.
"""
import itertools

import mujoco
import numpy as np

_EDGE = 0.025  # smallest half length of the boxes, m
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


def shadows(corners: np.ndarray, lamps: np.ndarray) -> np.ndarray:
  """Project the corners of boxes from points of a lamp.

  Returns:
    Points on the table's plane z = 0, [boxes, 8 * lamps, 3], m; not finite for a box that is not below the lamp.
  """
  offset = corners[:, None] - lamps[:, None]
  below = np.where(offset[..., 2:] < -_NEAR, -offset[..., 2:], np.nan)
  return (lamps[:, None] + offset * (lamps[:, None, 2:] / below)).reshape(len(corners), -1, 3)


class Projection:
  """Projection of points to pixels of a camera."""

  def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, camera: int, size: tuple[int, int]):
    self._size = size
    self._scale = size[0] / 2 / np.tan(np.radians(model.cam_fovy[camera]) / 2)
    self._origin, self._axes = data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3)

  def covered(self, hulls: np.ndarray) -> np.ndarray:
    """Find the pixels that hulls can cover: bool [H * W].

    The hulls are convex, around points [hulls, K, 3], m. All pixels are covered if a point is not before the camera.
    """
    local = ((hulls.reshape(-1, 3) - self._origin) @ self._axes).reshape(hulls.shape)
    if not (local[..., 2] < -_NEAR).all():
      return np.ones(self._size[0] * self._size[1], bool)
    bounds, scale = [], self._scale / local[..., 2]
    for position, length in zip((local[..., 1] * scale, local[..., 0] * -scale), self._size, strict=True):
      position += (length - 1) / 2
      bounds += [(position.min(1) - _MARGIN).clip(0, length), (position.max(1) + (_MARGIN + 1)).clip(0, length)]
    mask = np.zeros(self._size, bool)
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
