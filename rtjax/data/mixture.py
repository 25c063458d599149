"""Order of the windows that a process draws from a mixture.

    split ── chunks (runs of records of one file)
      epoch e: permuted by (seed, e), dealt to the processes ──► groups of about `shuffle_records` records
        group g: read, its windows permuted by (seed, e, process, g) ──► one window after another

A position in a dataset is therefore (epoch, group, window), and restoring one costs the reading of one group, however
late it is. In a mixture, draw n takes the next window of a dataset chosen by (seed, process, n) alone.
"""
import concurrent.futures
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.data.records import Chunk, RecordSource
from rtjax.data.windows import WindowConfig, window_ends

# Large chunks read fast, as a TFRecord file must be read up to where a chunk starts; small ones mix well. The limits
# keep most shards of the Open X-Embodiment datasets in one chunk, put several chunks into a group, and make enough of
# them to deal them fairly.
_MAX_CHUNK = 128
_CHUNKS_PER_GROUP = 4
_CHUNKS_PER_PROCESS = 8


@dataclasses.dataclass(frozen=True)
class ProcessShare:
  """Part of the data that a process reads.

  It is part `index` of `count`, dealt by `seed` for each epoch.
  """
  seed: int
  index: int = 0
  count: int = 1

  def __post_init__(self) -> None:
    if self.seed < 0 or not 0 <= self.index < self.count:
      raise ValueError(f'seed {self.seed}, process_index {self.index}, process_count {self.count}: expected seed >= 0 '
                       'and 0 <= process_index < process_count.')


@dataclasses.dataclass(frozen=True)
class Group:
  """Items in memory, and the order of their windows.

  Attributes:
    items: as the dataset yields them.
    order: int [number of windows, 2], (place in `items`, end of the window).
  """
  items: list[Any]
  order: np.ndarray


class StreamClosed(Exception):
  """The stream was closed while a group was being read."""


class ShuffledWindows:
  """Endless shuffled windows of one dataset for one process.

  Args:
    dataset: the dataset to read.
    number: its place in the mixture, so that equal datasets differ in order.
    share: part of this process.
    shuffle_records: approximate number of records in a group.
    window_config: shape and spacing of windows.
    pool: reads groups ahead.
    closed: set to stop reading.
  """

  def __init__(self, dataset: RecordSource[Any], number: int, share: ProcessShare, shuffle_records: int,
               window_config: WindowConfig, pool: concurrent.futures.Executor, closed: threading.Event):
    self._dataset, self._number, self._share, self._window_config = dataset, number, share, window_config
    self._shuffle_records, self._pool, self._closed = shuffle_records, pool, closed
    records = dataset.num_records
    if records < share.count:
      raise ValueError(f'{dataset.name}: split {dataset.split!r} has {records} {dataset.record_name}s, process_count '
                       f'is {share.count}; each process needs at least one. Use fewer processes or a larger split.')
    size = min(_MAX_CHUNK, records // (_CHUNKS_PER_PROCESS * share.count), shuffle_records // _CHUNKS_PER_GROUP)
    self._chunks = dataset.chunks(max(1, size))
    self._last_read: tuple[list[Chunk], list[Any]] = [], []
    self.seek((0, 0, 0))

  @property
  def position(self) -> tuple[int, int, int]:
    """(epoch, group, window) of the next window."""
    return self._epoch, self._group, self._next

  def seek(self, position: Sequence[int]) -> None:
    """Go to a position; nothing is read yet."""
    self._epoch, self._group, self._next = map(int, position)
    self._loaded: Group | None = None
    self._loading: concurrent.futures.Future[Group] | None = None

  def read_ahead(self) -> concurrent.futures.Future[Group]:
    """Start to read the next group, unless that is in progress."""
    if self._loading is None:
      epoch, group = self._next_group() if self._loaded else (self._epoch, self._group)
      self._loading = self._pool.submit(self._load, epoch, group)
    return self._loading

  def take(self) -> tuple[Any, int]:
    """Return the next window: its item and the step it ends at."""
    group = self._current()
    place, end = group.order[self._next]
    self._next += 1
    if self._next == len(group.order):
      self._finish_group()
    return group.items[place], int(end)

  def _current(self) -> Group:
    for _ in range(len(self._chunks) + 1):  # An epoch has no more groups than that.
      if self._loaded is None:
        self._loaded, self._loading = self.read_ahead().result(), None
        self.read_ahead()
      if len(self._loaded.order):
        return self._loaded
      self._finish_group()
    raise self._dataset.empty_error()

  def _finish_group(self) -> None:
    self._epoch, self._group = self._next_group()
    self._next, self._loaded = 0, None

  def _next_group(self) -> tuple[int, int]:
    last = self._group + 1 == len(self._groups(self._epoch))
    return (self._epoch + 1, 0) if last else (self._epoch, self._group + 1)

  def _groups(self, epoch: int) -> list[list[Chunk]]:
    """This process's chunks of an epoch, in groups of similar size."""
    dealt = self._rng(0, epoch).permutation(len(self._chunks))[self._share.index::self._share.count]
    records = sum(self._chunks[i].take for i in dealt)
    parts = np.array_split(dealt, min(len(dealt), max(1, round(records / self._shuffle_records))))
    return [sorted(self._chunks[i] for i in part) for part in parts]

  def _load(self, epoch: int, group: int) -> Group:
    chunks = self._groups(epoch)[group]
    read, items = self._last_read
    if chunks != read:  # A dataset of a single group stays in memory.
      items = list(self._read(chunks))
      self._last_read = chunks, items
    # Without process and group: an item is the same wherever and whenever an epoch shows it.
    items = [self._dataset.at_epoch(item, [self._share.seed, 3, self._number, epoch]) for item in items]
    ends = [window_ends(len(item), self._window_config) for item in items]
    owners = [np.full(len(e), place) for place, e in enumerate(ends)]
    order = np.stack([np.concatenate(part or [np.empty(0, int)]) for part in (owners, ends)], -1)
    return Group(items, self._rng(1, epoch, self._share.index, group).permutation(order))

  def _read(self, chunks: list[Chunk]) -> Iterator[Any]:
    for item in self._dataset.read(chunks):
      if self._closed.is_set():
        raise StreamClosed
      yield item

  def _rng(self, purpose: int, epoch: int, process: int = 0, group: int = 0) -> np.random.Generator:
    # Always all six numbers, since a key that ends in zeros equals the shorter one.
    return np.random.default_rng([self._share.seed, purpose, self._number, epoch, process, group])


def choose_datasets(share: ProcessShare, weights: Sequence[float], first: int, count: int) -> np.ndarray:
  """Return the dataset of each draw from `first` on: int [count].

  The cost does not depend on `first`.
  """
  bits = np.random.PCG64(np.random.SeedSequence([share.seed, 2, share.index])).advance(first)
  uniform = np.random.Generator(bits).random(count)  # one step of the generator each
  return np.minimum(np.searchsorted(np.cumsum(weights), uniform, 'right'), len(weights) - 1)
