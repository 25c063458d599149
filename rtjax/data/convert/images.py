"""Images of logs, and their stored form in the dataset.

Stored images are 8-bit RGB. Other kinds are converted where that loses nothing, which the validator reports:

    grey                     the channel three times
    palette                  its colours
    alpha                    left out where every pixel is opaque; else an error
    WebP, BMP, ...           decoded, and stored in --image-format
    16 bits, floats, CMYK, animations, an EXIF rotation      an error: how to convert them is not known
"""
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from rtjax.data.convert.logs import Entry, Problem
from rtjax.runtime import limits

Images = Sequence[bytes] | np.ndarray
"""Images of an episode: encoded, or uint8 [steps, H, W], or [steps, H, W, 1, 3 or 4 channels]."""

_QUALITY = 95  # as TFDS stores JPEG
_ORIENTATION = 274  # EXIF tag


class Inspected(NamedTuple):
  """Height, width, and the conversion that the image needs ('' for none)."""
  size: tuple[int, int]
  conversion: str


def to_images(entry: Entry) -> Images:
  """Return an entry as images.

  Raises:
    Problem: the entry holds no images.
  """
  if isinstance(entry, list):
    return entry
  found = f'{entry.dtype} {list(entry.shape)}'
  if entry.dtype.kind == 'S' and entry.ndim == 1:
    return [_without_padding(row.ljust(entry.dtype.itemsize, b'\0')) for row in entry]
  if entry.dtype != np.uint8:
    raise Problem('wrong images', f'the images are {found}, expected uint8 [steps, H, W, 3], 0 to 255.{_hint(entry)}')
  if entry.ndim > 2 and not entry[:1].size and len(entry):
    raise Problem('wrong images', f'the images are {found}, expected uint8 [steps, H, W, 3] with at least one pixel.')
  if entry.ndim == 2:  # encoded images, padded with zeros to one length
    return [_without_padding(row.tobytes()) for row in entry]
  if (entry.ndim == 4 and entry.shape[3] in (1, 3, 4)) or (entry.ndim == 3 and entry.shape[2] not in (3, 4)):
    return entry
  hint = ' A single image?' if entry.ndim == 3 else ''
  if entry.ndim == 4 and entry.shape[1] in (1, 3, 4):
    hint = ' The channels come first: transpose with (0, 2, 3, 1).'
  raise Problem('wrong images', f'the images are {found}, expected uint8 [steps, H, W, 3].{hint}')


def inspect(image: bytes | np.ndarray) -> Inspected:
  """Decode an image completely.

  Raises:
    Problem: it cannot be decoded, or not be converted to 8-bit RGB without a choice.
  """
  if isinstance(image, np.ndarray) and image.shape[2:] == (3,):
    return Inspected((image.shape[0], image.shape[1]), '')
  decoded, conversion = _decode(image)
  return Inspected((decoded.height, decoded.width), conversion)


def encode(image: bytes | np.ndarray, image_format: str, bgr: bool) -> bytes:
  """Encode an image as RGB 'jpeg' or 'png'.

  An encoded image of this format is returned unchanged.
  """
  decoded, conversion = _decode(image)
  if isinstance(image, bytes) and decoded.format == image_format.upper() and not conversion and not bgr:
    return image
  decoded = _to_rgb(decoded, bgr)
  buffer = io.BytesIO()
  decoded.save(buffer, image_format, quality=_QUALITY)
  return buffer.getvalue()


def pixels(image: bytes | np.ndarray, bgr: bool) -> np.ndarray:
  """Return an image as uint8 [H, W, 3], RGB."""
  return np.asarray(_to_rgb(_decode(image)[0], bgr))


def _hint(images: np.ndarray) -> str:
  """Return the advice for images that are not uint8."""
  if images.dtype.kind == 'f':
    return ' Multiply by 255 and round.' if np.nanmax(images, initial=0) <= 1 else ' Round, and save as uint8.'
  if images.dtype == np.uint16:
    return ' Colours of 16 bits: divide by 257, round, and save as uint8. Policies take no depth images.'
  return ''


def _without_padding(encoded: bytes) -> bytes:
  """Remove zeros behind a JPEG or PNG, which never end with one."""
  return encoded.rstrip(b'\0') if encoded.startswith((b'\xff\xd8', b'\x89PNG')) else encoded


def _decode(image: bytes | np.ndarray) -> tuple[Image.Image, str]:
  """Decode an image; return it and the conversion that makes it RGB."""
  if isinstance(image, np.ndarray):
    decoded = Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image)
  else:
    decoded = _open(image)
    _refuse_unclear(decoded, image)
  if decoded.mode == 'RGB' and 'transparency' not in decoded.info:
    return decoded, ''
  if decoded.mode in ('1', 'L') and 'transparency' not in decoded.info:
    return decoded, 'grey images: the channel is stored three times'
  if decoded.mode in ('LA', 'PA', 'RGBA') or 'transparency' in decoded.info:
    _refuse_transparent(decoded)
    return decoded, 'images with an alpha channel, opaque everywhere: it is left out'
  return decoded, 'palette images: their colours are stored'


def _to_rgb(image: Image.Image, bgr: bool) -> Image.Image:
  # A conversion of RGBA to RGB drops alpha; of a palette with transparency it warns.
  rgb = image.convert('RGBA').convert('RGB') if 'transparency' in image.info else image.convert('RGB')
  return Image.merge('RGB', rgb.split()[::-1]) if bgr else rgb


def _open(encoded: bytes) -> Image.Image:
  try:
    image = limits.open_image(encoded)
    image.getexif()  # a damaged one fails here
  except limits.BoundError as error:
    raise Problem('beyond a bound', str(error)) from error
  except (OSError, SyntaxError, ValueError) as error:
    raise Problem('unreadable', f'{error} Save other formats (TIFF, GIF, HEIC) as PNG.') from error
  return image


def _refuse_unclear(image: Image.Image, encoded: bytes) -> None:
  """Refuse images whose conversion to 8-bit RGB needs a choice."""
  # Pillow decodes a PNG of 16-bit colours to 8 bits; the depth stands in its header.
  if image.mode[0] in 'IF' or (image.format == 'PNG' and encoded[24] == 16):
    raise Problem('wrong images', f'an image is {image.format} of 16 bits, expected 8. For colours, divide by 257 and '
                  'round. Policies take no depth images.')
  if image.mode not in ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA'):
    raise Problem('wrong images', f'an image is {image.format} of mode {image.mode}, expected RGB, grey or a palette. '
                  'Save it as RGB.')
  frames = getattr(image, 'n_frames', 1)
  if frames > 1:
    raise Problem('wrong images', f'an image is an animation of {frames} frames, expected one. Save each frame as an '
                  'image of its own.')
  orientation = image.getexif().get(_ORIENTATION, 1)
  if orientation != 1:
    raise Problem('rotated images', f'the EXIF orientation of an image is {orientation}: viewers turn it, readers of '
                  'pixels do not. Turn the pixels (PIL.ImageOps.exif_transpose) or remove the tag.')


def _refuse_transparent(image: Image.Image) -> None:
  lowest = int(np.asarray(image.convert('RGBA'))[..., 3].min())
  if lowest < 255:
    raise Problem('wrong images', f'an image has transparent pixels (alpha down to {lowest} of 255), expected opaque '
                  'ones. Put it on a background, or drop the fourth channel if it is no alpha.')
