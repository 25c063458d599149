"""Streams of batches: endless, shuffled and resumable, or one ordered pass.

Background threads read groups of records ahead (mixture.py) with their images still encoded; other threads decode the
images when a batch is formed (batching.py). Two batches are in progress at a time.
"""
import collections
import concurrent.futures
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from rtjax.data.batching import Arrays, Batcher, PendingBatch
from rtjax.data.mixture import ProcessShare, ShuffledWindows, choose_datasets
from rtjax.data.records import RecordSource
from rtjax.data.windows import WindowConfig, window_ends

_IN_PROGRESS = 2
_MAX_READERS = 4


class Stream:
  """Endless shuffled batches of several datasets, each drawn by its weight.

  Close it when done, or use it in a `with` block. `next` raises errors of background threads, and closes the stream.

  Args:
    datasets: the datasets to read.
    weights: the share of each, summing to 1.
    shuffle_records: number of records held in memory, divided by weight.
    window_config: shape and spacing of windows.
    share: part of this process.
    batcher: makes a batch of the windows of `rows`; closed with the stream.
    batch_size: windows of a batch of this share.
    rows: those to decode and return of each batch.
    settings: further settings that determine the order; a position is valid only with the same ones.
  """

  def __init__(self, datasets: Sequence[RecordSource[Any]], weights: Sequence[float], shuffle_records: int,
               window_config: WindowConfig, share: ProcessShare, batcher: Batcher, batch_size: int,
               rows: range, settings: dict[str, Any]):
    self._batcher = batcher
    self._readers = concurrent.futures.ThreadPoolExecutor(min(len(datasets), _MAX_READERS), 'rtjax-read')
    self._closed = threading.Event()
    self._windows = [
        ShuffledWindows(dataset, number, share, max(1, round(shuffle_records * weight)), window_config, self._readers,
                        self._closed)
        for number, (dataset, weight) in enumerate(zip(datasets, weights, strict=True))]
    self._names = [dataset.name for dataset in datasets]
    self._share, self._weights, self._batch_size, self._rows, self._draws = share, weights, batch_size, rows, 0
    self._pending: collections.deque[tuple[PendingBatch, dict[str, Any]]] = collections.deque()
    self._settings = settings | {
        'seed': share.seed, 'process_index': share.index, 'process_count': share.count,
        'shuffle_records': shuffle_records, 'weights': list(weights), 'datasets': [d.identity for d in datasets]}
    self._state = self._position()

  def __iter__(self) -> Iterator[Arrays]:
    return self

  def __next__(self) -> Arrays:
    """Return the next batch."""
    if self._closed.is_set():
      raise ValueError('this stream is closed, by close() or by an earlier error; make a new one and restore '
                       'its state.')
    try:
      while len(self._pending) < _IN_PROGRESS:
        self._start_batch()
      pending, state = self._pending[0]
      batch = pending.result()
      self._pending.popleft()  # after the wait, so that an interrupt during it loses nothing
    except Exception:
      self.close()
      raise
    self._state = state
    return batch

  def state(self) -> dict[str, Any]:
    """Return the position after the last returned batch, JSON-able, for `restore`."""
    return self._state

  def restore(self, state: dict[str, Any]) -> None:
    """Go to a position.

    The cost is the reading of one group of records per dataset. The batch size may have changed.

    Raises:
      ValueError: the state belongs to other data, another seed or process count, which have another order.
    """
    differing = {k: (state['settings'].get(k), v) for k, v in self._settings.items()
                 if state['settings'].get(k) != v}
    if differing:
      raise ValueError('the data position was saved with other settings, which have another order: '
                       + ', '.join(self._describe(k, was, now) for k, (was, now) in differing.items())
                       + '. Use the same settings, or start from the beginning of the data.')
    self._pending.clear()
    self._draws = state['draws']
    for windows, position in zip(self._windows, state['positions'], strict=True):
      windows.seek(position)
    self._state = self._position()

  def close(self) -> None:
    """Stop and join all threads."""
    self._closed.set()
    self._pending.clear()
    self._readers.shutdown(cancel_futures=True)
    self._batcher.close()

  def __enter__(self) -> 'Stream':
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def _describe(self, setting: str, was: Any, now: Any) -> str:
    if setting != 'datasets' or len(was) != len(now):
      return f'{setting} was {was}, now {now}'
    names = [name for name, before, after in zip(self._names, was, now, strict=True) if before != after]
    return f'{", ".join(names)} had another name, version, split or other files'

  def _start_batch(self) -> None:
    for windows in self._windows:
      windows.read_ahead()
    chosen = choose_datasets(self._share, self._weights, self._draws, self._batch_size)
    drawn = [(int(number), *self._windows[number].take()) for number in chosen]
    batch = self._batcher.start([drawn[row] for row in self._rows])
    self._draws += self._batch_size
    self._pending.append((batch, self._position()))

  def _position(self) -> dict[str, Any]:
    return {'settings': self._settings, 'draws': self._draws, 'positions': [list(w.position) for w in self._windows]}


def ordered_batches(datasets: Sequence[RecordSource[Any]], batcher: Batcher, window_config: WindowConfig,
                    batch_size: int, share: ProcessShare) -> Iterator[Arrays]:
  """Yield every window once, dataset by dataset; closes `batcher` at the end.

  All processes yield equally many batches. Global batch i, the processes' batches one after another, holds windows
  i * G to (i + 1) * G - 1, with G = batch_size * process_count. Every process reads all records, and decodes the images
  of its own windows only.
  """
  windows = ((number, item, int(end)) for number, dataset in enumerate(datasets)
             for item in dataset.read_all() for end in window_ends(len(item), window_config))
  pending: collections.deque[PendingBatch] = collections.deque()
  try:
    while block := list(itertools.islice(windows, batch_size * share.count)):
      pending.append(batcher.start(block[share.index * batch_size:(share.index + 1) * batch_size]))
      if len(pending) == _IN_PROGRESS:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
  finally:
    batcher.close()
