"""Resize of images, equal to that of the training pipeline."""
import warnings
from typing import Sequence, Tuple

import numpy as np

_SAME_ASPECT = 0.01  # rounding of a height or width to pixels


def fit(image: np.ndarray, size: Sequence[int], recorded: Sequence[Sequence[int]] = ()) -> np.ndarray:
  """Resize to a server's size, with a warning about another aspect.

  Args:
    image: uint8 [H, W, 3].
    size: (height, width) that the server takes.
    recorded: heights and widths of the training data's images; empty: `size`.
  """
  height, width = image.shape[:2]
  if (height, width) == tuple(size):
    return image
  known = [tuple(each) for each in recorded] or [tuple(size)]
  if not any(abs(height * w / (width * h) - 1) < _SAME_ASPECT for h, w in known):
    trained = ', '.join('{}x{}'.format(*each) for each in known)
    warnings.warn('images are {}x{} (height x width), of another aspect than the training data ({}): they are padded '
                  'with black to {}x{}, which the policy was not trained on. Crop them.'.format(
                      height, width, trained, *size), stacklevel=2)
  return resize_with_pad(image, (size[0], size[1]))


def resize_with_pad(image: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
  """Resize with the aspect kept, pad with black (`tf.image.resize_with_pad`), truncate to uint8.

  Bilinear with half-pixel centres, without antialiasing, float32 throughout.

  Args:
    image: uint8 [H, W, 3].
    size: (height, width).
  """
  if image.shape[:2] == tuple(size):
    return image
  source, target = np.asarray(image.shape[:2], np.float32), np.asarray(size, np.float32)
  fitted = source / (source / target).max()
  height, width = (int(n) for n in fitted)
  top, left = (int(n) for n in (target - fitted) / 2)
  padded = np.zeros((size[0], size[1], image.shape[2]), np.uint8)
  padded[top:top + height, left:left + width] = _bilinear(image, height, width)
  return padded


def _bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
  if image.shape[:2] == (height, width):
    return image
  top, bottom, down = _neighbours(image.shape[0], height)
  left, right, across = _neighbours(image.shape[1], width)
  across, down = across[:, None], down[:, None, None]

  def row(rows: np.ndarray) -> np.ndarray:
    lines = image[rows].astype(np.float32)
    start = lines[:, left]
    return start + (lines[:, right] - start) * across

  upper = row(top)
  return (upper + (row(bottom) - upper) * down).astype(np.uint8)


def _neighbours(source: int, target: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return both source pixels around each target pixel, and the second's weight."""
  scale = np.float32(source / target)
  at = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
  below = np.floor(at)
  first = np.clip(below, 0, source - 1).astype(np.int32)
  second = np.clip(np.ceil(at), 0, source - 1).astype(np.int32)
  return first, second, at - below
