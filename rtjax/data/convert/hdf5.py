"""HDF5 files of strangers, read without leaving them.

A file may name other files (external links, external storage, virtual datasets), whose content would become part of an
episode; these are refused. So are cycles of links, and groups and arrays beyond the bounds of `rtjax.runtime.limits`.
"""
import functools
import mmap
import os
from collections.abc import Iterator

import h5py
import numpy as np

from rtjax.runtime import limits

_ROWS = 64  # of rows of different lengths; several may share their bytes in the file
_HOPS = 8  # soft links on the way to an object
_HEAP = b'GCOL\1\0\0\0'  # begin of a global heap, where texts and rows of different lengths lie
_HEADER = 16  # bytes before the objects of a heap, and before each object


def find(group: h5py.Group, path: str, hops: int = 0) -> h5py.Group | h5py.Dataset:
  """Return the object at a path below a group.

  Raises:
    KeyError: there is none.
    BoundError: a link leads to another file, or in a cycle.
    ValueError: it is damaged.
  """
  item = group.file['/'] if path.startswith('/') else group
  for part in filter(None, path.split('/')):
    link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
    if link is None:
      raise KeyError(path)
    if isinstance(link, h5py.ExternalLink):
      raise limits.BoundError(f'{group.file.filename}: {path} is a link to another file, {link.filename!r}. Expected '
                              'data of this file: copy it with h5repack or h5py.')
    if isinstance(link, h5py.SoftLink):
      if hops == _HOPS:
        raise limits.BoundError(f'{group.file.filename}: {path} is a link to a link, in a cycle or more than {_HOPS} '
                                'times.')
      item = find(item, link.path, hops + 1)
    else:
      item = _open(item, part)
  return item


def _open(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
  """Return an object that is known to be in a group."""
  try:
    return group[name]
  except KeyError as error:  # as h5py reports damage
    raise ValueError(f'{name}: {error}') from error


def walk(group: h5py.Group) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
  """Yield the paths and objects below a group, each once.

  They come level by level; soft and external links are not followed.

  Raises:
    BoundError: there are too many, or too deep ones.
  """
  seen, level = {group.id}, [('', group)]
  for depth in range(limits.HDF5_DEPTH + 1):
    below = []
    for path, parent in level:
      for name in parent:
        if len(seen) > limits.HDF5_OBJECTS or depth == limits.HDF5_DEPTH:
          raise limits.BoundError(f'{group.file.filename}: it has more than {limits.HDF5_OBJECTS:,} objects, or more '
                                  f'than {limits.HDF5_DEPTH} groups inside each other. Expected episodes.')
        if isinstance(parent.get(name, getlink=True), h5py.HardLink) and (item := _open(parent, name)).id not in seen:
          seen.add(item.id)
          yield path + name, item
          if isinstance(item, h5py.Group):
            below.append((f'{path}{name}/', item))
    level = below


def read(dataset: h5py.Dataset) -> np.ndarray | list[np.ndarray]:
  """Return the values of a dataset; rows of different lengths as list.

  Raises:
    BoundError: they lie in other files, or are larger than ENTRY_BYTES.
  """
  source = f'{dataset.file.filename}: {dataset.name}'
  if dataset.external or dataset.is_virtual:
    raise limits.BoundError(f'{source} lies in other files. Expected data of this file: copy it with h5repack or h5py.')
  if dataset.shape is None:
    raise ValueError(f'{dataset.name} has no value (a null dataspace)')
  limits.check_size(limits.array_bytes(dataset.shape, dataset.dtype), limits.ENTRY_BYTES, source)
  if not _is_in_heap(dataset.dtype):
    return dataset[()]
  check_heaps(dataset.file)
  if not dataset.shape:
    return dataset[()]
  rows: list[np.ndarray] = []
  total = 0
  for start in range(0, len(dataset), _ROWS):
    part = dataset[start:start + _ROWS]
    total += sum(map(len, part.flat))
    limits.check_size(total * part.flat[0].itemsize if isinstance(part.flat[0], np.ndarray) else total,
                      limits.ENTRY_BYTES, source)
    rows.extend(part)
  return rows


def read_attribute(item: h5py.Group, name: str) -> np.ndarray:
  """Return an attribute.

  Raises:
    KeyError: there is none.
    BoundError: it is larger than ENTRY_BYTES.
  """
  stored = item.attrs.get_id(name)
  if stored.get_space().get_simple_extent_type() == h5py.h5s.NULL:
    raise ValueError(f'@{name} has no value (a null dataspace)')
  limits.check_size(limits.array_bytes(stored.shape, stored.dtype), limits.ENTRY_BYTES,
                    f'{item.file.filename}: @{name}')
  if _is_in_heap(stored.dtype):
    check_heaps(item.file)
  return np.asarray(item.attrs[name])


def _is_in_heap(dtype: np.dtype) -> bool:
  return dtype.kind == 'O'


def check_heaps(file: h5py.File) -> None:
  """Check the sizes in a file's global heaps.

  The HDF5 library follows wrong ones for ever.

  Raises:
    ValueError: an object of a heap is empty, or larger than the rest of the heap.
  """
  if file.id.get_create_plist().get_sizes() != (8, 8):
    raise ValueError('its addresses or lengths do not have the usual 8 bytes')
  found = os.stat(file.filename)
  _check_heaps(file.filename, found.st_size, found.st_mtime_ns)


@functools.lru_cache(64)
def _check_heaps(path: str, size: int, _: int) -> None:
  def number(place: int, length: int) -> int:
    return int.from_bytes(content[place:place + length], 'little')

  with open(path, 'rb') as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
    heap = content.find(_HEAP)
    while heap >= 0:
      end = min(heap + number(heap + 8, 8), size)
      place = heap + _HEADER
      while place + _HEADER <= end:
        index, length = number(place, 2), number(place + 8, 8)
        step = _HEADER + -(-length // 8) * 8 if index else length  # index 0 is the free space, its header included
        if not _HEADER <= step <= end - place:
          raise ValueError(f'an object of {length:,} bytes does not fit into its global heap at byte {heap}')
        place += step
      heap = content.find(_HEAP, heap + 1)
