"""Files that claim more than they hold; none takes more than a few kilobytes."""
import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image


def sparse(path: pathlib.Path, size: int) -> pathlib.Path:
  """Make a file of `size` zeros that occupies nothing."""
  with path.open('wb') as file:
    file.truncate(size)
  return path


def png(width: int, height: int) -> bytes:
  def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

  header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(1000)))
          + chunk(b'IEND', b''))


def bmp(width: int, height: int) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, 'BMP')
  content = buffer.getvalue()
  return content[:18] + struct.pack('<ii', width, height) + content[26:]


def jpeg(width: int, height: int) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, 'JPEG')
  content = buffer.getvalue()
  place = content.index(b'\xff\xc0') + 5
  return content[:place] + struct.pack('>HH', height, width) + content[place + 4:]


def lfs_pointer(path: pathlib.Path, size: int = 123_456) -> pathlib.Path:
  """Write what `git clone` leaves without Git LFS."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f'version https://git-lfs.github.com/spec/v1\noid sha256:{"0" * 64}\nsize {size}\n')
  return path
