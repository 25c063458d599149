"""In which order a process sees the windows of its datasets, and how it finds its place again.

    split ── chunks (runs of episodes of one file)
      epoch e: permuted by (seed, e), dealt to the P processes ──► groups of about `shuffle_episodes` episodes
        group g: read, its windows permuted by (seed, e, process, g) ──► one window after another

So a position in a dataset is (epoch, group, window), and going back to one costs the reading of one group, however far
it is. In a mixture, draw n takes the next window of a dataset chosen by (seed, process, n) alone.
"""
import concurrent.futures
import dataclasses
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from rtjax.data.rlds.episodes import Chunk, Dataset, Episode
from rtjax.data.windows import WindowConfig, window_ends

# Large chunks read fast, as a TFRecord must be read up to where a chunk starts; small ones mix well. So: most shards of
# the Open X-Embodiment datasets whole, several chunks to a group, and enough of them to deal them fairly.
_MAX_CHUNK = 128
_CHUNKS_PER_GROUP = 4
_CHUNKS_PER_PROCESS = 8


@dataclasses.dataclass(frozen=True)
class Share:
  """Which part of the data a process reads: part `index` of `count`, dealt anew each epoch from `seed`."""
  seed: int
  index: int = 0
  count: int = 1

  def __post_init__(self) -> None:
    if self.seed < 0 or not 0 <= self.index < self.count:
      raise ValueError(f'seed {self.seed}, process_index {self.index}, process_count {self.count}: expected seed >= 0 '
                       'and 0 <= process_index < process_count.')


@dataclasses.dataclass(frozen=True)
class Group:
  """Episodes in memory, and the order of their windows: int [N, 2], (place in `episodes`, end of the window)."""
  episodes: list[Episode]
  order: np.ndarray


class Closed(Exception):
  """The stream was closed while a group was being read."""


class Shuffled:
  """One dataset's endless windows for one process.

  Args:
    dataset: what to read.
    number: its place in the mixture, so that equal datasets differ in order.
    share: this process's part.
    shuffle_episodes: about how many episodes a group holds.
    window: how windows are cut.
    pool: reads groups ahead.
    closed: set when reading shall stop.
  """

  def __init__(self, dataset: Dataset, number: int, share: Share, shuffle_episodes: int, window: WindowConfig,
               pool: concurrent.futures.Executor, closed: threading.Event):
    self._dataset, self._number, self._share, self._window = dataset, number, share, window
    self._shuffle_episodes, self._pool, self._closed = shuffle_episodes, pool, closed
    episodes = dataset.num_episodes
    if episodes < share.count:
      raise ValueError(f'{dataset.name}: split {dataset.split!r} has {episodes} episodes, process_count is '
                       f'{share.count}; each process needs at least one. Use fewer processes or a larger split.')
    size = min(_MAX_CHUNK, episodes // (_CHUNKS_PER_PROCESS * share.count), shuffle_episodes // _CHUNKS_PER_GROUP)
    self._chunks = dataset.chunks(max(1, size))
    self._last_read: tuple[list[Chunk], list[Episode]] = [], []
    self.seek((0, 0, 0))

  @property
  def position(self) -> tuple[int, int, int]:
    """(epoch, group, window) of the next window."""
    return self._epoch, self._group, self._next

  def seek(self, position: Sequence[int]) -> None:
    """Goes to a position; nothing is read yet."""
    self._epoch, self._group, self._next = map(int, position)
    self._loaded: Group | None = None
    self._loading: concurrent.futures.Future[Group] | None = None

  def read_ahead(self) -> concurrent.futures.Future[Group]:
    """Begins to read the next group, unless that is under way."""
    if self._loading is None:
      epoch, group = self._following() if self._loaded else (self._epoch, self._group)
      self._loading = self._pool.submit(self._load, epoch, group)
    return self._loading

  def take(self) -> tuple[Episode, int]:
    """The next window: its episode and the step it ends at."""
    group = self._current()
    place, end = group.order[self._next]
    self._next += 1
    if self._next == len(group.order):
      self._advance()
    return group.episodes[place], int(end)

  def _current(self) -> Group:
    for _ in range(len(self._chunks) + 1):  # An epoch has no more groups than that.
      if self._loaded is None:
        self._loaded, self._loading = self.read_ahead().result(), None
        self.read_ahead()
      if len(self._loaded.order):
        return self._loaded
      self._advance()
    raise self._dataset.no_steps()

  def _advance(self) -> None:
    self._epoch, self._group = self._following()
    self._next, self._loaded = 0, None

  def _following(self) -> tuple[int, int]:
    last = self._group + 1 == len(self._groups(self._epoch))
    return (self._epoch + 1, 0) if last else (self._epoch, self._group + 1)

  def _groups(self, epoch: int) -> list[list[Chunk]]:
    """This process's chunks of an epoch, in groups of nearly equal numbers of chunks."""
    dealt = self._rng(0, epoch).permutation(len(self._chunks))[self._share.index::self._share.count]
    episodes = sum(self._chunks[i].take for i in dealt)
    parts = np.array_split(dealt, min(len(dealt), max(1, round(episodes / self._shuffle_episodes))))
    return [sorted(self._chunks[i] for i in part) for part in parts]

  def _load(self, epoch: int, group: int) -> Group:
    chunks = self._groups(epoch)[group]
    read, episodes = self._last_read
    if chunks != read:  # Where one group is all there is, it stays in memory.
      episodes = list(self._read(chunks))
      self._last_read = chunks, episodes
    ends = [window_ends(len(episode), self._window) for episode in episodes]
    order = np.stack([np.repeat(np.arange(len(ends)), [len(e) for e in ends]), np.concatenate(ends)], -1)
    return Group(episodes, self._rng(1, epoch, self._share.index, group).permutation(order))

  def _read(self, chunks: list[Chunk]) -> Iterator[Episode]:
    for episode in self._dataset.read(chunks):
      if self._closed.is_set():
        raise Closed
      yield episode

  def _rng(self, purpose: int, epoch: int, process: int = 0, group: int = 0) -> np.random.Generator:
    # All six numbers always, since a key that ends in zeros equals the shorter one.
    return np.random.default_rng([self._share.seed, purpose, self._number, epoch, process, group])


def choose(share: Share, weights: Sequence[float], first: int, count: int) -> np.ndarray:
  """The dataset of draws first, ..., first + count - 1: int [count]. Any draw is found in one jump."""
  bits = np.random.PCG64(np.random.SeedSequence([share.seed, 2, share.index])).advance(first)
  uniform = np.random.Generator(bits).random(count)  # one step of the generator each
  return np.minimum(np.searchsorted(np.cumsum(weights), uniform, 'right'), len(weights) - 1)
