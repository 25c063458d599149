"""Images of logs, and their stored form in the dataset."""
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from rtjax.data.convert.logs import Entry, Problem

Images = Sequence[bytes] | np.ndarray
"""Images of an episode: encoded, or uint8 [steps, H, W, 3]."""

_QUALITY = 95  # as TFDS stores JPEG


def to_images(entry: Entry) -> Images:
  """Return an entry as images.

  Raises:
    Problem: the entry holds no images.
  """
  if isinstance(entry, list):
    return entry
  found = f'{entry.dtype} {list(entry.shape)}'
  if entry.dtype.kind == 'S':
    return [bytes(row) for row in entry]
  if entry.dtype != np.uint8:
    hint = ' Multiply by 255 and round.' if entry.dtype.kind == 'f' and np.nanmax(entry, initial=0) <= 1 else ''
    raise Problem('wrong images', f'the images are {found}, expected uint8 [steps, H, W, 3], 0 to 255.{hint}')
  if entry.ndim == 2:  # encoded images, padded with zeros to one length
    return [row.tobytes().rstrip(b'\0') for row in entry]
  if entry.ndim == 4 and entry.shape[3] == 3:
    return entry
  hint = ''
  if entry.ndim == 4 and entry.shape[1] == 3:
    hint = ' The channels come first: transpose with (0, 2, 3, 1).'
  elif entry.ndim == 4 and entry.shape[3] == 4:
    hint = ' Drop the fourth channel.'
  elif entry.ndim == 3:
    hint = ' Grey images, or a single image?'
  raise Problem('wrong images', f'the images are {found}, expected uint8 [steps, H, W, 3].{hint}')


def image_size(image: bytes | np.ndarray) -> tuple[int, int]:
  """Decode an image completely; return its height and width."""
  if isinstance(image, np.ndarray):
    return image.shape[0], image.shape[1]
  decoded = _decode(image)
  return decoded.height, decoded.width


def encode(image: bytes | np.ndarray, image_format: str, bgr: bool) -> bytes:
  """Encode an image as RGB 'jpeg' or 'png'.

  An encoded image of this format is returned unchanged.
  """
  if isinstance(image, np.ndarray):
    decoded = Image.fromarray(image)
  else:
    decoded = _decode(image)
    if decoded.format == image_format.upper() and decoded.mode == 'RGB' and not bgr:
      return bytes(image)
  decoded = decoded.convert('RGB')
  if bgr:
    decoded = Image.merge('RGB', decoded.split()[::-1])
  buffer = io.BytesIO()
  decoded.save(buffer, image_format, quality=_QUALITY)
  return buffer.getvalue()


def _decode(encoded: bytes) -> Image.Image:
  try:
    image = Image.open(io.BytesIO(encoded))
    image.load()
  except (OSError, SyntaxError, ValueError) as error:
    why = 'not an image' if isinstance(error, Image.UnidentifiedImageError) else error
    raise Problem('unreadable',
                  f'an image of {len(encoded)} bytes cannot be decoded: {why}. Is it truncated?') from error
  if image.format not in ('JPEG', 'PNG') or image.mode[0] in 'IF':
    raise Problem('wrong images', f'an image is {image.format} of mode {image.mode}, expected JPEG or PNG with '
                  '8-bit colours. Policies take no depth images.')
  return image
