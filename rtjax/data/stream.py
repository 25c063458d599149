"""Batches: an endless, resumable stream to train on, and a finite, ordered one to validate with.

Groups of episodes are read ahead by background threads (mixture.py) with their images still encoded; other threads
decode them when a batch is formed (batches.py). Two batches are under way.
"""
import collections
import concurrent.futures
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from rtjax.actions import ActionSpec
from rtjax.data.config import DataConfig
from rtjax.data.mixture import Share, Shuffled, choose
from rtjax.data.rlds.batches import Batches, Pending
from rtjax.data.rlds.episodes import Dataset
from rtjax.data.windows import Batch, Padding, WindowConfig, window_ends

_UNDER_WAY = 2
_MAX_READERS = 4


class Stream:
  """Endless shuffled batches out of several datasets, each drawn by its weight; what is in them is `batches`' affair.

  Close it when done, or use it in a `with` block. Errors of background threads are raised by `next`, which closes the
  stream.

  Args:
    datasets: as `mixture.Shuffled` takes them.
    weights: the share of each, summing to 1.
    shuffle: how many episodes all have in memory together, shared out by weight.
    cut: how windows are cut from an episode.
    share: this process's part.
    batches: makes a batch of windows.
    batch_size: windows of a batch.
    setup: what the order depends on besides: a position means nothing without it.
  """

  def __init__(self, datasets: Sequence[Any], weights: Sequence[float], shuffle: int, cut: WindowConfig, share: Share,
               batches: Any, batch_size: int, setup: dict[str, Any]):
    self._batches = batches
    self._readers = concurrent.futures.ThreadPoolExecutor(min(len(datasets), _MAX_READERS), 'rtjax-read')
    self._closed = threading.Event()
    episodes = [max(1, round(shuffle * weight)) for weight in weights]
    self._windows = [Shuffled(dataset, number, share, episodes[number], cut, self._readers, self._closed)
                     for number, dataset in enumerate(datasets)]
    self._share, self._weights, self._batch_size, self._draws = share, weights, batch_size, 0
    self._under_way: collections.deque[tuple[Pending, dict[str, Any]]] = collections.deque()
    self._setup = setup | {
        'seed': share.seed, 'process_index': share.index, 'process_count': share.count, 'shuffle_episodes': shuffle,
        'weights': list(weights), 'datasets': [d.identity for d in datasets]}
    self._state = self._position()

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    """The next batch; rtjax.data describes its arrays."""
    if self._closed.is_set():
      raise ValueError('this stream is closed, by close() or by an error before; make a new one and restore '
                       'its state.')
    try:
      while len(self._under_way) < _UNDER_WAY:
        self._start_batch()
      pending, state = self._under_way[0]
      batch = pending.result()
      self._under_way.popleft()  # Now, so that an interrupt while waiting loses nothing.
    except Exception:
      self.close()
      raise
    self._state = state
    return batch

  def state(self) -> dict[str, Any]:
    """The position after the batch last returned, JSON-able; `restore` takes it."""
    return self._state

  def restore(self, state: dict[str, Any]) -> None:
    """Goes to a position, at the cost of reading one group of episodes per dataset. The batch size may have changed.

    Raises:
      ValueError: the state belongs to other data, another seed or process count: the order would be another.
    """
    differing = {k: (state['setup'].get(k), v) for k, v in self._setup.items() if state['setup'].get(k) != v}
    if differing:
      raise ValueError('the data position was saved with other settings, so there is no such place in this order: '
                       + ', '.join(f'{k} was {was}, now {now}' for k, (was, now) in differing.items())
                       + '. Use the same settings, or start the data afresh.')
    self._under_way.clear()
    self._draws = state['draws']
    for windows, position in zip(self._windows, state['positions'], strict=True):
      windows.seek(position)
    self._state = self._position()

  def close(self) -> None:
    """Stops and joins all threads."""
    self._closed.set()
    self._under_way.clear()
    self._readers.shutdown(cancel_futures=True)
    self._batches.close()

  def __enter__(self) -> 'Stream':
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def _start_batch(self) -> None:
    for shuffled in self._windows:
      shuffled.read_ahead()
    chosen = choose(self._share, self._weights, self._draws, self._batch_size)
    windows = [(int(number), *self._windows[number].take()) for number in chosen]
    self._draws += self._batch_size
    self._under_way.append((self._batches.start(windows), self._position()))

  def _position(self) -> dict[str, Any]:
    return {'setup': self._setup, 'draws': self._draws, 'positions': [list(w.position) for w in self._windows]}


class TrainingStream(Stream):
  """Endless shuffled batches of this process's share of a mixture of datasets.

  The order is a function of seed, process_count and the config; each process has its own part of every dataset, dealt
  anew each epoch, and epochs of different datasets and processes need not end together. Close it when done, or use it
  in a `with` block.

  Args:
    datasets: folders, gs:// folders or TFDS names.
    config: the pipeline's settings.
    action_spec: what an action is.
    window: T, frames of a window.
    horizon: F, actions per frame.
    batch_size: B, windows of a batch of this process.
    seed: of the order.
    padding: where windows that are longer than the episode so far are padded, 'front' or 'back'.
    process_index, process_count: which share is read.

  Raises:
    FileNotFoundError, ValueError: a dataset cannot be read as asked; the message says what to do. Errors of background
      threads are raised by `next`, which closes the stream.
  """

  def __init__(self, datasets: Sequence[str], config: DataConfig, action_spec: ActionSpec, *, window: int, horizon: int,
               batch_size: int, seed: int, padding: Padding = 'front', process_index: int = 0, process_count: int = 1):
    cut = WindowConfig(window, config.stride, horizon, config.padding_in_loss, padding)
    share = Share(seed, process_index, process_count)
    opened = _open(datasets, config, config.split, action_spec)
    weights = config.mixture_weights(list(datasets), [d.adapter.weight for d in opened])
    super().__init__(opened, weights, config.shuffle_episodes, cut, share,
                     Batches(opened, config, cut, action_spec, batch_size), batch_size,
                     {'window_stride': config.stride})


def validation_batches(datasets: Sequence[str], config: DataConfig, action_spec: ActionSpec, *, window: int,
                       horizon: int, batch_size: int, padding: Padding = 'front', process_index: int = 0,
                       process_count: int = 1) -> Iterator[Batch]:
  """Every window of `config.validation_split` once, in order: dataset by dataset, episode by episode.

  All processes yield equally many batches. Global batch i, the processes' batches one after another, holds windows
  i * G to (i + 1) * G - 1, with G = batch_size * process_count. The last is filled up with zeros whose mask is False
  and whose episode is -1. Every process reads all episodes, and decodes the images of its own windows only.
  """
  cut = WindowConfig(window, config.stride, horizon, config.padding_in_loss, padding)
  share = Share(0, process_index, process_count)
  opened = _open(datasets, config, config.validation_split, action_spec)
  batches = Batches(opened, config, cut, action_spec, batch_size)
  return in_order(opened, batches, cut, batch_size, share)


def in_order(opened: Sequence[Any], batches: Any, cut: WindowConfig, batch_size: int, share: Share) -> Iterator[Batch]:
  """Every window once, dataset by dataset; `batches` is closed at the end."""
  windows = ((number, episode, int(end)) for number, dataset in enumerate(opened)
             for episode in dataset.read(dataset.chunks(dataset.num_episodes))
             for end in window_ends(len(episode), cut))
  under_way: collections.deque[Pending] = collections.deque()
  try:
    while block := list(itertools.islice(windows, batch_size * share.count)):
      under_way.append(batches.start(block[share.index * batch_size:(share.index + 1) * batch_size]))
      if len(under_way) == _UNDER_WAY:
        yield under_way.popleft().result()
    while under_way:
      yield under_way.popleft().result()
  finally:
    batches.close()


def _open(datasets: Sequence[str], config: DataConfig, split: str, action_spec: ActionSpec) -> list[Dataset]:
  if isinstance(datasets, str) or not datasets:
    raise ValueError(f'datasets is {datasets!r}, expected a list of folders or TFDS names.')
  state = config.proprioception or config.waypoints
  return [Dataset(name, split, action_spec, views=config.views, proprioception=state)
          for name in datasets]
