"""Bilinear resize with TensorFlow's arithmetic (`tf.image.resize` without antialiasing); bicubic with PyTorch's.

The bilinear functions map NumPy to NumPy and JAX to JAX.
"""
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

Array = Any  # jax.Array or np.ndarray, and the same is returned


def _neighbours(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return both source pixels around each target pixel, and the second's weight."""
  scale = np.float32(source / target)
  at = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
  below = np.floor(at)
  first = np.clip(below, 0, source - 1).astype(np.int32)
  second = np.clip(np.ceil(at), 0, source - 1).astype(np.int32)
  return first, second, at - below


def resize_bilinear(images: Float[Array, 'B H W C'], size: tuple[int, int]) -> Float[Array, 'B h w C']:
  """Resize to `size` (height, width); the aspect is not kept."""
  if images.shape[1:3] == size:
    return images
  xp = _namespace(images)
  top, bottom, down = _neighbours(images.shape[1], size[0])
  left, right, across = _neighbours(images.shape[2], size[1])
  across, down = across[:, None], down[:, None, None]

  def row(rows):
    lines = xp.take(images, rows, axis=1)
    start = xp.take(lines, left, axis=2)
    return start + (xp.take(lines, right, axis=2) - start) * across

  upper = row(top)
  return upper + (row(bottom) - upper) * down


def resize_with_pad(images: Float[Array, 'B H W C'], size: tuple[int, int]) -> Float[Array, 'B h w C']:
  """Resize with the aspect kept, pad with black (`tf.image.resize_with_pad`)."""
  source, target = np.asarray(images.shape[1:3], np.float32), np.asarray(size, np.float32)
  fitted = source / (source / target).max()  # float32 throughout: rounding decides sizes, as in TensorFlow
  height, width = (int(n) for n in fitted)
  top, left = (int(n) for n in (target - fitted) / 2)
  padding = ((0, 0), (top, size[0] - height - top), (left, size[1] - width - left), (0, 0))
  return _namespace(images).pad(resize_bilinear(images, (height, width)), padding)


def fit_images(images: UInt8[Array, '*B H W 3'], size: tuple[int, int] | None) -> UInt8[Array, '*B h w 3']:
  """Resize images as the training pipeline does: `resize_with_pad`, truncated to uint8.

  Args:
    size: height and width; None: return the images unchanged.
  """
  if size is None or images.shape[-3:-1] == size:
    return images
  fitted = resize_with_pad(images.reshape(-1, *images.shape[-3:]).astype(np.float32), size)
  return fitted.astype(np.uint8).reshape(*images.shape[:-3], *size, 3)


def _namespace(array: Array) -> ModuleType:
  return jnp if isinstance(array, jax.Array) else np


def cubic_weights(source: int, target: int) -> Float[np.ndarray, 'target source']:
  """Return the matrix that resizes one axis as PyTorch's bicubic `interpolate`.

  It does not antialias, has a = -0.75, and repeats the edges. Published vision transformers resize their position
  embeddings this way.
  """
  a = -0.75
  at = (np.arange(target) + 0.5) * source / target - 0.5
  places = np.floor(at)[:, None] + np.arange(-1, 3)  # [target, 4]
  d = np.abs(at[:, None] - places)
  near, far = ((a + 2) * d - (a + 3)) * d * d + 1, ((d - 5) * d + 8) * d * a - 4 * a
  weights = np.zeros((target, source))
  columns = np.clip(places, 0, source - 1).astype(int)
  np.add.at(weights, (np.arange(target)[:, None], columns), np.where(d <= 1, near, far))
  return weights.astype(np.float32)
