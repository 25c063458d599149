"""Pictures of a report: small JPEGs of evenly spaced steps."""
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

# A filmstrip as wide as a page shows this many frames of this many pixels (twice what it takes, for fine screens).
FILMSTRIP = 10
FRAME_PIXELS = 192
# Of a video; 80 frames of 192 pixels take 0.1 to 0.5 MB.
VIDEO = 80


def evenly_spaced(length: int, most: int) -> list[int]:
  """The middle steps of at most `most` equal parts of an episode."""
  parts = min(length, most)
  return [(2 * part + 1) * length // (2 * parts) for part in range(parts)]


def thumbnail(image: np.ndarray) -> np.ndarray:
  """A picture of at most FRAME_PIXELS, uint8 [h, w, 3]; of several views, side by side."""
  picture = Image.fromarray(image if image.ndim == 3 else np.concatenate(image, 1))
  picture.thumbnail((FRAME_PIXELS, FRAME_PIXELS))
  return np.asarray(picture)


def jpeg(image: np.ndarray) -> bytes:
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=85)
  return file.getvalue()


def video(thumbnails: Sequence[np.ndarray], frames_per_second: float) -> bytes:
  """Thumbnails one after the other, at most VIDEO of them, in the time that all take: an animated WebP, for ever."""
  shown = [Image.fromarray(thumbnails[i]) for i in evenly_spaced(len(thumbnails), VIDEO)]
  milliseconds = round(1000 * len(thumbnails) / frames_per_second / len(shown))
  file = io.BytesIO()
  shown[0].save(file, 'WEBP', save_all=True, append_images=shown[1:], duration=milliseconds, loop=0, quality=60)
  return file.getvalue()


def film(thumbnails: Sequence[np.ndarray]) -> bytes:
  """Thumbnails side by side, as one JPEG."""
  return jpeg(np.concatenate(list(thumbnails), 1))
