"""Images of a report: thumbnails, filmstrips and videos of an episode."""
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

FILMSTRIP_FRAMES = 10
FRAME_PIXELS = 192
"""Longer side of a thumbnail: twice the displayed size, for displays of high resolution."""
VIDEO_FRAMES = 80
"""80 frames of 192 pixels take 0.1 to 0.5 MB."""


def evenly_spaced(length: int, most: int) -> list[int]:
  """Return at most `most` evenly spaced steps of an episode.

  They are the middle steps of equal parts.
  """
  parts = min(length, most)
  return [(2 * part + 1) * length // (2 * parts) for part in range(parts)]


def thumbnail(image: np.ndarray) -> np.ndarray:
  """Shrink an image to FRAME_PIXELS.

  Args:
    image: uint8 [H, W, 3], or [views, H, W, 3], which are placed side by side.

  Returns:
    uint8, the longer side at most FRAME_PIXELS.
  """
  shrunk = Image.fromarray(image if image.ndim == 3 else np.concatenate(image, 1))
  shrunk.thumbnail((FRAME_PIXELS, FRAME_PIXELS))
  return np.asarray(shrunk)


def jpeg(image: np.ndarray) -> bytes:
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=85)
  return file.getvalue()


def filmstrip(thumbnails: Sequence[np.ndarray]) -> bytes:
  """Encode thumbnails side by side as one JPEG."""
  return jpeg(np.concatenate(list(thumbnails), 1))


def video(thumbnails: Sequence[np.ndarray], frames_per_second: float) -> bytes:
  """Encode thumbnails as an endless animated WebP.

  At most VIDEO_FRAMES of them are shown, over the duration of the complete episode.
  """
  shown = [Image.fromarray(thumbnails[i]) for i in evenly_spaced(len(thumbnails), VIDEO_FRAMES)]
  milliseconds = round(1000 * len(thumbnails) / frames_per_second / len(shown))
  file = io.BytesIO()
  shown[0].save(file, 'WEBP', save_all=True, append_images=shown[1:], duration=milliseconds, loop=0, quality=60)
  return file.getvalue()
