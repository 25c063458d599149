"""Robot logs on disk: one `Log` per episode, with entries by name.

    LOGS/*.npz                 one episode each; its arrays are the entries
    LOGS/*.hdf5, *.h5          one episode each, or one group per episode; datasets by path (obs/front), attributes
                               with @ (@task, obs/@unit), both above an episode's group by their full path (/data/@task)
    LOGS/*/steps.csv           one folder per episode: columns, folders of images, videos, and texts (instruction.txt)

Reading an entry opens the file and closes it again. Nothing in a file is executed; links out of LOGS, and sizes beyond
the bounds of `rtjax.runtime.limits`, are refused.
"""
import csv
import dataclasses
import difflib
import pathlib
import posixpath
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import h5py
import numpy as np

from rtjax.data import video
from rtjax.data.convert import hdf5
from rtjax.language import text
from rtjax.runtime import limits

Entry = np.ndarray | list[bytes]
"""Numbers or texts [...], or encoded images, one per step."""

_HDF5 = ('.h5', '.hdf5')
_IMAGES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')
_VIDEOS = ('.mp4', '.mkv', '.webm', '.avi', '.mov')
_OTHER_IMAGES = ('.tif', '.tiff', '.gif', '.ppm', '.pgm', '.heic', '.jp2', '.exr', '.avif')
_TABLE = 'steps.csv'
# All but KeyError, which means that an entry is missing.
_DAMAGE = (*(error for error in limits.NPZ_DAMAGE if error is not KeyError), csv.Error)


class Problem(ValueError):
  """A problem with an episode.

  Attributes:
    kind: two or three words; problems of one kind are counted together.
  """

  def __init__(self, kind: str, text: str):
    super().__init__(text)
    self.kind = kind


class Log(Protocol):
  """One episode.

  `read` raises KeyError for a missing entry and `Problem` for an unreadable one.
  """

  @property
  def name(self) -> str: ...
  def names(self) -> list[str]: ...
  def read(self, name: str) -> Entry: ...


def find_logs(path: pathlib.Path, wanted: str) -> list[Log]:
  """Find the episodes of a file or folder.

  They are in natural order of their names (2 before 10).

  Args:
    path: see the module's docstring.
    wanted: an entry that every episode has; it identifies the groups of an HDF5 file that are episodes.

  Raises:
    FileNotFoundError: there is no such path.
    ValueError: it holds no episode, or episodes of several layouts.
  """
  if not path.exists():
    raise FileNotFoundError(f'LOGS is {path}: no such file or folder.')
  if path.is_dir():
    for inner in path.iterdir():
      limits.inside(path, inner.name)
  inside = [path] if path.is_file() or (path / _TABLE).is_file() else sorted(path.iterdir(), key=_natural)
  npz: list[Log] = [NpzLog(p.stem, p) for p in inside if p.suffix == '.npz']
  files = [p for p in inside if p.suffix in _HDF5]
  folders: list[Log] = [FolderLog(p.name, p) for p in inside
                        if p.is_dir() and ((p / _TABLE).is_file() or _cameras(p) or _videos(p))]
  hdf5 = [log for p in files for log in _hdf5_logs(p, wanted, f'{p.stem}/' if len(files) > 1 else '')]
  found = [logs for logs in (npz, hdf5, folders) if logs]
  if len(found) != 1:
    names = ', '.join(p.name for p in inside[:5]) or 'nothing'
    problem = 'holds no episode' if not found else 'holds episodes of several layouts'
    more = ', ...' if len(inside) > 5 else ''
    raise ValueError(f'LOGS is {path}: it {problem} ({names}{more}). Expected .npz files, '
                     f'HDF5 files ({", ".join(_HDF5)}), or folders with images and a {_TABLE}.')
  return found[0]


def missing_entry(log: Log, name: str, flag: str) -> Problem:
  """Return the problem of a missing entry, with the names there are."""
  try:
    known = log.names()
  except Problem as problem:
    return problem
  leaf = name.rsplit('/', 1)[-1].lower()
  same_leaf = [k for k in known if leaf in k.rsplit('/', 1)[-1].lower()]
  close = difflib.get_close_matches(name, known, 1, 0.5) or same_leaf
  shown = ', '.join(known[:20]) + (f' and {len(known) - 20} more' if len(known) > 20 else '')
  return Problem('missing entry', f'there is no {name!r}, the entries are {shown or "none"}.'
                 + (f' Did you mean {close[0]!r}?' if close else '') + f' Name it with {flag}.')


@dataclasses.dataclass(frozen=True)
class NpzLog:
  """Episode in a file of `np.savez`."""
  name: str
  path: pathlib.Path

  def names(self) -> list[str]:
    return self._use(lambda file: sorted(file.files))

  def read(self, name: str) -> Entry:
    try:
      return self._use(lambda file: limits.npz_array(file, name, self.path))
    except Problem as problem:
      if 'allow_pickle' in str(problem):
        raise Problem('object array', f'{self.path.name}: {name!r} is an array of Python objects, which are not read '
                      'since they may run code. Save numbers and images of one size as np.stack(list), texts as '
                      'np.array(texts, dtype=str), and encoded images, a list of bytes, as np.array(list).') from None
      raise

  def _use(self, wanted: Callable[[np.lib.npyio.NpzFile], Any]) -> Any:
    try:
      limits.check_file(self.path)
      with limits.open_npz(self.path) as file:
        return wanted(file)
    except _DAMAGE as error:
      raise _unreadable(self.path, error) from error


@dataclasses.dataclass(frozen=True)
class Hdf5Log:
  """Episode in an HDF5 file, or in one of its groups."""
  name: str
  path: pathlib.Path
  group: str = ''

  def names(self) -> list[str]:
    def use(group: h5py.Group) -> list[str]:
      datasets = [path for path, item in hdf5.walk(group) if isinstance(item, h5py.Dataset)]
      above = [posixpath.join(path, f'@{name}') for path in _above(group.name) for name in group.file[path].attrs]
      return datasets + [f'@{name}' for name in group.attrs] + above
    return self._use(use)

  def read(self, name: str) -> Entry:
    def use(group: h5py.Group) -> Entry:
      owner, at, attribute = name.rpartition('@')
      if at and (owner.endswith('/') or not owner):
        return hdf5.read_attribute(hdf5.find(group, owner), attribute)
      item = hdf5.find(group, name)
      if not isinstance(item, h5py.Dataset):
        raise KeyError(name)
      return _array(item)
    return self._use(use)

  def _use(self, wanted: Callable[[h5py.Group], Any]) -> Any:
    try:
      limits.check_file(self.path)
      with h5py.File(self.path) as file:
        return wanted(hdf5.find(file, self.group))
    except _DAMAGE as error:
      raise _unreadable(self.path, error) from error


def _above(path: str) -> list[str]:
  """Return the paths of all groups above one, nearest first."""
  return [] if path == '/' else [posixpath.dirname(path), *_above(posixpath.dirname(path))]


def _array(dataset: h5py.Dataset) -> Entry:
  value = hdf5.read(dataset)
  if h5py.check_string_dtype(dataset.dtype):
    return np.asarray([_text(v) for v in value] if dataset.shape else _text(value))
  if isinstance(value, list):  # encoded images of different lengths
    return [row.tobytes() for row in value]
  return value


def _text(value: Any) -> str:
  try:
    return text.decode(value) if isinstance(value, bytes) else str(value)
  except ValueError as error:
    raise Problem('wrong text', str(error)) from error


def _hdf5_logs(path: pathlib.Path, wanted: str, prefix: str) -> list[Log]:
  """Return the file, or its sibling groups with the entry `wanted`."""
  try:
    limits.check_file(path)
    with h5py.File(path) as file:
      groups = _siblings(file, wanted)
  except _DAMAGE:
    groups = []  # `Hdf5Log` reports it when it is read.
  return [Hdf5Log(prefix + group.rsplit('/', 1)[-1], path, group) for group in groups] or [Hdf5Log(path.stem, path)]


def _siblings(file: h5py.File, wanted: str) -> list[str]:
  """Return the sibling groups with an entry, if any."""
  if _has(file, wanted):
    return []
  groups = {path: item for path, item in hdf5.walk(file) if isinstance(item, h5py.Group)}
  depth: int | None = None
  parents = set()
  for path, group in groups.items():
    if path.count('/') == depth or (depth is None and _has(group, wanted)):
      depth = path.count('/')
      if _has(group, wanted):
        parents.add(path.rpartition('/')[0])
  return sorted((path for path in groups if path.count('/') == depth and path.rpartition('/')[0] in parents),
                key=_natural)


def _has(group: h5py.Group, path: str) -> bool:
  try:
    hdf5.find(group, path)
  except KeyError:
    return False
  return True


@dataclasses.dataclass(frozen=True)
class FolderLog:
  """Folder with steps.csv, a row per step, and images.

  Images beside steps.csv are the entry 'images'; those in a folder, or a video, have its name. All entries of a table
  without rows are empty.
  """
  name: str
  path: pathlib.Path

  def names(self) -> list[str]:
    return (list(self._columns()) + sorted({**_cameras(self.path), **_videos(self.path)})
            + sorted(p.stem for p in self.path.glob('*.txt')))

  def read(self, name: str) -> Entry:
    cameras = _cameras(self.path)
    try:
      if name in cameras:
        return self._images(cameras[name])
      if (self.path / f'{name}.txt').is_file():
        file = limits.inside(self.path, f'{name}.txt')
        limits.check_file(file, limits.SENTENCE_BYTES)
        return np.asarray(file.read_text('utf-8').strip())
    except _DAMAGE as error:
      raise _unreadable(self.path, error) from error
    if name in (videos := _videos(self.path)):
      return _frames(limits.inside(self.path, videos[name].name))
    columns = self._columns()
    if name in columns:
      return np.asarray(columns[name])
    # `action` stands for action_0, action_1, ... and for action_x, action_y, ...
    parts = [values for column, values in columns.items() if re.match(re.escape(name) + r'[_.\[/]', column)]
    if not parts and columns and not any(columns.values()):
      return []
    if not parts:
      _refuse_other_images(self.path, name)
      raise KeyError(name)
    return np.stack([np.asarray(part) for part in parts], -1)

  def _images(self, folder: pathlib.Path) -> list[bytes]:
    files = [limits.inside(self.path, file.relative_to(self.path)) for file in _image_files(folder)]
    for file in files:
      limits.check_file(file, limits.IMAGE_BYTES)
    limits.check_size(sum(file.stat().st_size for file in files), limits.ENTRY_BYTES, folder)
    return [file.read_bytes() for file in files]

  def _columns(self) -> dict[str, list[str]]:
    file = self.path / _TABLE
    if not file.is_file():
      raise Problem('missing entry', f'{self.path.name} has images, but no {_TABLE}.')
    try:
      limits.check_file(limits.inside(self.path, _TABLE), limits.TEXT_BYTES)
      with file.open(newline='', encoding='utf-8-sig') as stream:
        header, *rows = [row for row in csv.reader(stream) if row] or [[]]
    except _DAMAGE as error:
      raise _unreadable(file, error) from error
    if not header:
      raise Problem('unreadable', f'{_TABLE} is empty, expected a header and a row for each step.')
    if len(header) == 1 and (separator := next((s for s in ';\t' if s in header[0]), '')):
      raise Problem('unreadable', f'{_TABLE} separates its columns by {separator!r}, expected commas, and points in '
                    'numbers. Save it so: spreadsheets in other languages write their own.')
    names = [name.strip() for name in header]
    if twice := sorted({name for name in names if names.count(name) > 1}):
      raise Problem('unreadable', f'{_TABLE} has two columns of one name: {", ".join(twice[:5])}. Rename one.')
    for number, row in enumerate(rows, 1):
      if len(row) != len(header):
        raise Problem('unreadable', f'{_TABLE}, step {number - 1}: {len(row)} cells under a header of {len(header)}. '
                      'Is it truncated, or is there a comma inside a cell without quotes?')
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _cameras(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Return the folders of images in an episode's folder, by name."""
  inside = {p.name: p for p in folder.iterdir() if p.is_dir() and _image_files(p)}
  return inside if 'images' in inside or not _image_files(folder) else {'images': folder, **inside}


def _videos(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Return the videos in an episode's folder, by name."""
  return {p.stem: p for p in folder.iterdir() if p.suffix.lower() in _VIDEOS}


def _frames(path: pathlib.Path) -> np.ndarray:
  try:
    limits.check_file(path)
    return video.read(path)
  except (OSError, ValueError) as error:
    raise Problem('unreadable video', f'{path.name}: {error}.') from error


def _refuse_other_images(folder: pathlib.Path, name: str) -> None:
  """Explain a missing camera by files of other formats."""
  place = folder if name == 'images' else folder / name
  other = {p.suffix for p in place.iterdir() if p.suffix.lower() in _OTHER_IMAGES} if place.is_dir() else ()
  if other:
    raise Problem('image format', f'there is no {name!r}, and {", ".join(sorted(other))} files are not read. Save them '
                  f'as {", ".join(_IMAGES)}, or as a video ({", ".join(_VIDEOS)}).')


def _image_files(folder: pathlib.Path) -> Sequence[pathlib.Path]:
  return sorted((p for p in folder.iterdir() if p.suffix.lower() in _IMAGES), key=_natural)


def _natural(path: Any) -> list[Any]:
  return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', str(path))]


def _unreadable(path: pathlib.Path, error: Exception) -> Problem:
  if isinstance(error, Problem):
    return error
  if isinstance(error, limits.BoundError):
    return Problem('beyond a bound', str(error))
  if isinstance(error, limits.PointerError):
    return Problem('not downloaded', str(error))
  return Problem('unreadable', f'{path.name} cannot be read: {error}. Is it truncated, or of another format? Copy or '
                 'record it again.')
