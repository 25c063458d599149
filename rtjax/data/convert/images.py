"""Pictures as logs hold them, and as the dataset stores them."""
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from rtjax.data.convert.logs import Entry, Problem

Pictures = Sequence[bytes] | np.ndarray
"""The pictures of an episode: encoded, or uint8 [L, H, W, 3]."""

Picture = bytes | np.ndarray

_QUALITY = 95  # what TFDS stores with


def pictures(entry: Entry) -> Pictures:
  """An entry as pictures, after a look whether it holds some."""
  if isinstance(entry, list):
    return entry
  found = f'{entry.dtype} {list(entry.shape)}'
  if entry.dtype.kind == 'S':
    return [bytes(row) for row in entry]
  if entry.dtype != np.uint8:
    hint = ' Multiply by 255 and round.' if entry.dtype.kind == 'f' and np.nanmax(entry, initial=0) <= 1 else ''
    raise Problem('wrong pictures', f'the pictures are {found}, expected uint8 [L, H, W, 3], 0 to 255.{hint}')
  if entry.ndim == 2:  # encoded ones, filled up with zeros to one length
    return [row.tobytes().rstrip(b'\0') for row in entry]
  if entry.ndim == 4 and entry.shape[3] == 3:
    return entry
  hint = ''
  if entry.ndim == 4 and entry.shape[1] == 3:
    hint = ' Here colours come before rows and columns: transpose with (0, 2, 3, 1).'
  elif entry.ndim == 4 and entry.shape[3] == 4:
    hint = ' Leave out the fourth channel.'
  elif entry.ndim == 3:
    hint = ' Grey pictures, or a single one?'
  raise Problem('wrong pictures', f'the pictures are {found}, expected uint8 [L, H, W, 3].{hint}')


def size(picture: Picture) -> tuple[int, int]:
  """(height, width), after decoding all of it."""
  if isinstance(picture, np.ndarray):
    return picture.shape[0], picture.shape[1]
  image = _decode(picture)
  return image.height, image.width


def stored(picture: Picture, form: str, bgr: bool) -> bytes:
  """The picture as `form` ('jpeg' or 'png'), RGB; the very bytes where it is so already."""
  if isinstance(picture, np.ndarray):
    image = Image.fromarray(picture)
  else:
    image = _decode(picture)
    if image.format == form.upper() and image.mode == 'RGB' and not bgr:
      return bytes(picture)
  image = image.convert('RGB')
  if bgr:
    image = Image.merge('RGB', image.split()[::-1])
  buffer = io.BytesIO()
  image.save(buffer, form, quality=_QUALITY)
  return buffer.getvalue()


def _decode(picture: bytes) -> Image.Image:
  try:
    image = Image.open(io.BytesIO(picture))
    image.load()
  except (OSError, SyntaxError, ValueError) as error:
    why = 'not a picture' if isinstance(error, Image.UnidentifiedImageError) else error
    raise Problem('unreadable', f'a picture of {len(picture)} bytes cannot be decoded: {why}. Cut off?') from error
  if image.format not in ('JPEG', 'PNG') or image.mode[0] in 'IF':
    raise Problem('wrong pictures', f'a picture is {image.format} of mode {image.mode}, expected JPEG or PNG with '
                  '8-bit colours. Depth is no picture that a policy sees.')
  return image
