"""Bounds on files that others made, checked before their content takes memory.

Every reader uses them; SECURITY.md lists them with their reasons. An error names the file and the bound.
"""
import dataclasses
import io
import json
import os
import pathlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from PIL import Image

_MIB = 2 ** 20

JSON_BYTES = 64 * _MIB
"""A file of JSON; a checkpoint's holds the tokenizer, 4 MiB for mT5."""
JSON_DEPTH = 64
"""Objects and lists inside each other."""
TEXT_BYTES = 1024 * _MIB
"""A file that is read line by line: JSONL, CSV, an evaluation log."""
SENTENCE_BYTES = _MIB
"""The text or the JSON of one sample."""
IMAGE_BYTES = 64 * _MIB
"""An encoded image."""
IMAGE_PIXELS = 2 ** 26
"""67 million: more than any camera, 200 MB decoded."""
ENTRY_BYTES = 4096 * _MIB
"""An entry of an episode: 4,600 frames of 640 x 480."""
NUMBERS = 10 ** 8
"""Numbers of an entry that holds no images: a million steps of a hundred."""
INSTRUCTION = 10 ** 4
"""Characters of an instruction in a log."""
RECORD_BYTES = 2 ** 31 - 1
"""A record of a TFRecord file: protobuf's own bound."""
SHARDS = 10 ** 4
"""Files of a split."""
RECORDS = 10 ** 8
"""Records of a split."""
WEIGHTS_BYTES = 16384 * _MIB
"""A file of weights that is read into memory at once."""
INFLATION = 100
"""Bytes of weights for each byte on disk; arrays of zeros compress well."""
NETWORK = {'sliding_window': 2 ** 20, 'layers': 256, 'blocks': 256, 'repeats': 16, 'depth': 8, 'heads': 1024,
           'views': 64, 'window': 1024, 'horizon': 1024}
"""Counts in a configuration, by the ends of their names; a network of more takes minutes to build."""
LISTED = 10 ** 4
"""Entries of a list in a network's configuration."""
FOLDERS = 1000
"""Folders that are searched for weights."""
HDF5_DEPTH = 32
"""Groups inside each other."""
HDF5_OBJECTS = 10 ** 5
"""Groups and datasets of a file."""

IMAGE_FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP')
"""Formats that Pillow may try; it hands others, such as EPS, to other programs."""

_LFS = b'version https://git-lfs.github.com/spec/'


class BoundError(ValueError):
  """A file is beyond a bound, or leads out of its folder."""


class PointerError(ValueError):
  """A file of which Git LFS has left a pointer only."""


def check_size(size: int, most: int, source: object) -> None:
  """Check a number of bytes that a file declares or has."""
  if not 0 <= size <= most:
    raise BoundError(f'{source} has {size:,} bytes, expected at most {most:,}.')


def check_file(path: str | os.PathLike, most: int | None = None) -> None:
  """Check that a file can be read: regular, complete, not too large.

  Files in object stores (gs://...) are not checked.

  Raises:
    FileNotFoundError: there is no such file.
    BoundError: it is too large, a device or a pipe.
    PointerError: Git LFS has not downloaded it.
  """
  name = os.fspath(path)
  if '://' in name:
    return
  found = os.stat(name)
  if not stat.S_ISREG(found.st_mode):
    raise BoundError(f'{name} is a folder, a device or a pipe, expected a file.')
  check_downloaded(name)
  if most is not None:
    check_size(found.st_size, most, name)


def check_downloaded(path: str | os.PathLike) -> None:
  """Raise PointerError if Git LFS has left a pointer only."""
  if is_pointer(path):
    raise PointerError(f'{os.fspath(path)} is a Git LFS pointer: it stands for a file that was not downloaded. Run '
                       '`git lfs install` and `git lfs pull` in its repository.')


def is_pointer(path: str | os.PathLike) -> bool:
  """Return whether a local file is a pointer of Git LFS."""
  if not os.path.isfile(path):
    return False
  with open(path, 'rb') as file:
    return file.read(len(_LFS)) == _LFS


def check_all_downloaded(folder: str | os.PathLike) -> None:
  """Apply `check_downloaded` to the files in and below a folder."""
  for inner in (pathlib.Path(folder), *folders(folder)):
    for entry in _entries(inner)[:FOLDERS]:
      check_downloaded(entry.path)


def folders(path: str | os.PathLike, depth: int = 3) -> Iterator[pathlib.Path]:
  """Yield at most FOLDERS folders below a folder, without links."""
  level, count = [pathlib.Path(path)], 0
  for _ in range(depth):
    inside = [pathlib.Path(e.path) for folder in level for e in _entries(folder) if e.is_dir(follow_symlinks=False)]
    level = sorted(inside)[:FOLDERS - count]
    count += len(level)
    yield from level


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
  try:
    with os.scandir(folder) as entries:
      return list(entries)
  except OSError:  # no folder, or not readable
    return []


def inside(folder: str | os.PathLike, name: str | os.PathLike) -> pathlib.Path:
  """Return the path of a file in a folder.

  In a cache of Hugging Face (NAME/snapshots/REVISION), files are links to those in NAME/blobs, which count as inside.

  Raises:
    BoundError: the name, or a link, leads out of the folder.
  """
  root = pathlib.Path(folder).resolve()
  path = root / name
  try:
    real = path.resolve()
  except (OSError, RuntimeError) as error:  # a cycle of links
    raise BoundError(f'{os.fspath(name)!r} in {folder} leads nowhere: {error}.') from error
  if not real.is_relative_to(root) and not _is_blob(real, root):
    raise BoundError(f'{os.fspath(name)!r} leads out of the folder {folder}, to {real}. Files of a dataset or log are '
                     'read from its own folder only: copy them into it (cp -rL copies what links stand for).')
  return path


def _is_blob(file: pathlib.Path, root: pathlib.Path) -> bool:
  """Return whether a file is a blob of the folder's cache."""
  snapshots = next((p for p in root.parents if p.name == 'snapshots' and '--' in p.parent.name), None)
  return snapshots is not None and file.parent == snapshots.parent / 'blobs' and file.is_file()


def check_name(name: object, what: str) -> str:
  """Return a string that can be part of a file's name.

  Raises:
    ValueError: it is no string, or may be a path.
  """
  if not isinstance(name, str) or not re.fullmatch(r'(?!\.)[^/\\\x00-\x1f\x7f]{0,100}', name):
    raise ValueError(f'{what} is {short(name)}, expected a name: at most 100 characters, no / and no \\, not '
                     'beginning with a dot.')
  return name


def read_json(path: Any) -> Any:
  """Return the content of a JSON file, local or remote.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: see `check_file` and `parse_json`.
  """
  check_file(path, JSON_BYTES)
  return parse_json((path if hasattr(path, 'read_bytes') else pathlib.Path(path)).read_bytes(), path)


def lines(path: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
  """Yield number and content of each line of a local text file.

  Raises:
    FileNotFoundError: there is no such file.
    BoundError: the file, or a line, is too large.
  """
  check_file(path, TEXT_BYTES)
  with open(path, 'rb') as file:
    for number, line in enumerate(iter(lambda: file.readline(SENTENCE_BYTES + 1), b''), 1):
      check_size(len(line), SENTENCE_BYTES, f'{os.fspath(path)}, line {number}')
      yield number, line


def parse_json(text: str | bytes, source: object) -> Any:
  """Return the value of a JSON text.

  Raises:
    BoundError: it is too deep.
    ValueError: it is no JSON.
  """
  try:
    value = json.loads(text, object_pairs_hook=_without_twins)
    deep = _is_deeper(value, JSON_DEPTH)
  except RecursionError:
    deep = True
  except ValueError as error:
    raise ValueError(f'{source} is no JSON: {error}.') from error
  if deep:
    raise BoundError(f'{source} is JSON of more than {JSON_DEPTH} levels, expected at most so many.')
  return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Return an object whose names occur once."""
  value = dict(pairs)
  if len(value) < len(pairs):
    raise ValueError(f'it names {max(value, key=[name for name, _ in pairs].count)!r} twice')
  return value


def _is_deeper(value: Any, most: int) -> bool:
  level = [value]
  for _ in range(most + 1):
    level = [item for inner in level if isinstance(inner, (dict, list))
             for item in (inner.values() if isinstance(inner, dict) else inner)]
  return bool(level)


def json_object(value: Any, source: object) -> dict[str, Any]:
  """Return a JSON value that must be an object {...}."""
  if not isinstance(value, dict):
    raise ValueError(f'{source} is {short(value)}, expected a JSON object {{...}}.')
  return value


def check_network(config: Any) -> None:
  """Check the counts of a network's configuration, before it is built."""
  for place, value in _numbers(config):
    most = next((most for name, most in NETWORK.items() if place.endswith(name)), None)
    if most is not None and isinstance(value, (int, float)) and not value <= most:
      raise BoundError(f'this configuration has {place} = {value}, expected at most {most}.')


def _numbers(config: Any, place: str = '') -> Iterator[tuple[str, Any]]:
  """Yield the values in nested dataclasses, mappings and lists with their places."""
  if dataclasses.is_dataclass(config):
    config = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
  if isinstance(config, Mapping):
    for name, value in config.items():
      yield from _numbers(value, f'{place}.{name}'.lstrip('.'))
  elif isinstance(config, (list, tuple)):
    if len(config) > LISTED:
      raise BoundError(f'this configuration has {len(config):,} {place}, expected at most {LISTED:,}.')
    for value in config:
      yield from _numbers(value, place)
  else:
    yield place, config


def check_image(content: bytes) -> None:
  """Check format and size in the header of an encoded image.

  Raises:
    BoundError: it has more than IMAGE_PIXELS or IMAGE_BYTES.
    ValueError: it is not JPEG, PNG, BMP or WebP, or has no such header.
  """
  check_size(len(content), IMAGE_BYTES, 'the encoded image')
  try:
    width, height = _header_size(content)
  except (struct.error, IndexError):
    raise ValueError(f'an image of {len(content)} bytes ends inside its header. Is it truncated?') from None
  if width * height > IMAGE_PIXELS:
    raise BoundError(f'an image is {width} x {height}, {width * height:,} pixels, expected at most {IMAGE_PIXELS:,}.')


def _header_size(content: bytes) -> tuple[int, int]:
  """Return width and height; (0, 0) for WebP, which is at most 16,384 x 16,384."""
  if content[:8] == b'\x89PNG\r\n\x1a\n':
    return struct.unpack('>II', content[16:24])
  if content[:2] == b'BM':
    width, height = struct.unpack('<ii', content[18:26])
    return abs(width), abs(height)
  if content[:4] == b'RIFF' and content[8:12] == b'WEBP':
    return 0, 0
  if content[:2] == b'\xff\xd8':
    return _jpeg_size(content)
  kind = 'an animation (GIF)' if content[:4] == b'GIF8' else 'damaged or of another format'
  raise ValueError(f'an image of {len(content)} bytes is {kind}, expected {", ".join(IMAGE_FORMATS)}. Is it truncated?')


def _jpeg_size(content: bytes) -> tuple[int, int]:
  """Return width and height from the frame header, which follows other segments."""
  place = 2
  while True:
    while content[place] == 0xff:  # markers may be preceded by fill bytes
      place += 1
    marker, length = content[place], int.from_bytes(content[place + 1:place + 3], 'big')
    if 0xc0 <= marker <= 0xcf and marker not in (0xc4, 0xc8, 0xcc):
      height, width = struct.unpack('>HH', content[place + 4:place + 8])
      return width, height
    place += 1 + max(length, 2)


def open_image(content: bytes) -> 'Image.Image':
  """Open and decode an image in one of IMAGE_FORMATS.

  Raises:
    ValueError: see `check_image`; or the image is damaged.
  """
  from PIL import Image
  check_image(content)
  try:
    image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
    if image.width * image.height > IMAGE_PIXELS:
      raise BoundError(f'an image is {image.width} x {image.height}, expected at most {IMAGE_PIXELS:,} pixels.')
    image.load()
  except BoundError:
    raise
  except Exception as error:  # Pillow's readers fail in many ways on damaged files
    why = 'not an image' if isinstance(error, Image.UnidentifiedImageError) else error
    raise ValueError(f'an image of {len(content)} bytes cannot be decoded: {why}. Is it truncated?') from error
  return image


def open_npz(path: str | os.PathLike) -> np.lib.npyio.NpzFile:
  """Open an .npz file; nothing in it is executed.

  Raises:
    NPZ_DAMAGE: it is damaged, or no archive.
  """
  if not zipfile.is_zipfile(path):
    raise ValueError('it is not an archive of arrays')
  file = np.load(path, allow_pickle=False)
  if len(set(file.files)) < len(file.files):
    file.close()
    raise ValueError('it holds two arrays of one name')
  return file


def npz_array(file: np.lib.npyio.NpzFile, name: str, source: object) -> np.ndarray:
  """Return an array of an .npz file after checking its size.

  Raises:
    KeyError: there is no such array.
    BoundError: it declares more bytes than it has, or than ENTRY_BYTES.
    NPZ_DAMAGE: it is damaged, or holds objects.
  """
  archive = file.zip
  assert archive is not None  # open
  member = archive.getinfo(f'{name}.npy')
  check_size(member.file_size, ENTRY_BYTES, f'{source}, {name}')
  with archive.open(member) as stream:
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
      raise ValueError(f'{name} is of the npy format {version}, expected 1.0 or 2.0')
    shape, _, dtype = _NPY_HEADERS[version](stream)
  declared = 0 if dtype.hasobject else array_bytes(shape, dtype)  # objects are refused by NumPy
  if not 0 <= declared <= member.file_size:
    raise BoundError(f'{source}, {name} declares {declared:,} bytes and has {member.file_size:,}.')
  return file[name]


_NPY_HEADERS: dict[tuple[int, int], Callable[[Any], tuple[Any, bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
NPZ_DAMAGE = (KeyError, EOFError, OSError, RuntimeError, TypeError, ValueError, MemoryError, zipfile.BadZipFile,
              zlib.error, struct.error)
"""Errors of a damaged .npz file; RuntimeError is that of an encrypted one."""


def array_bytes(shape: Any, dtype: Any) -> int:
  """Return the bytes of an array without the overflow of `np.prod`.

  Items without a byte, such as empty texts, count as one.
  """
  size = max(int(np.dtype(dtype).itemsize), 1)
  for length in shape:
    size *= int(length)
  return size


def check_inflated(compressed: bytes, most: int) -> None:
  """Check that zlib data inflate to at most `most` bytes."""
  inflate, size, rest = zlib.decompressobj(), 0, compressed
  while rest and size <= most:
    size += len(inflate.decompress(rest, _MIB))
    rest = inflate.unconsumed_tail
  check_size(size, most, 'the compressed tensor')


def check_inflation(declared: int, path: str | os.PathLike) -> None:
  """Compare the declared bytes of weights with their folder's files."""
  if '://' in os.fspath(path):
    return
  path = pathlib.Path(path)
  stored = sum(f.stat().st_size for folder in (path, *folders(path)) for f in folder.iterdir() if f.is_file())
  most = 64 * _MIB + INFLATION * stored
  if declared > most:
    raise BoundError(f'{path} declares {declared:,} bytes of weights, its files can hold at most {most:,}.')


def short(value: object, most: int = 60) -> str:
  """Return the first characters of a value, for a message."""
  text = repr(value)
  return text if len(text) <= most else f'{text[:most]}...'
