"""Batches: an endless, resumable stream to train on, and a finite, ordered one to validate with.

Groups of episodes are read ahead by background threads (mixture.py) with their images still encoded. A batch is formed
by a pool of threads, one window each: they decode its frames straight into the batch. Two batches are under way.
"""
import collections
import concurrent.futures
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data import images
from rtjax.data.config import DataConfig
from rtjax.data.episodes import Dataset, Episode
from rtjax.data.mixture import Share, Shuffled, choose
from rtjax.data.tf import tf
from rtjax.data.windows import Batch, WindowConfig, take, window_ends, window_targets

_UNDER_WAY = 2
_MAX_READERS = 4


class TrainingStream:
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
    process_index, process_count: which share is read.

  Raises:
    FileNotFoundError, ValueError: a dataset cannot be read as asked; the message says what to do. Errors of background
      threads are raised by `next`, which closes the stream.
  """

  def __init__(self, datasets: Sequence[str], config: DataConfig, action_spec: ActionSpec, *, window: int, horizon: int,
               batch_size: int, seed: int, process_index: int = 0, process_count: int = 1):
    cut = WindowConfig(window, config.stride, horizon, config.padding_in_loss)
    share = Share(seed, process_index, process_count)
    opened = _open(datasets, config, config.split, action_spec)
    weights = config.mixture_weights(list(datasets), [d.adapter.weight for d in opened])
    self._batches = _Batches(opened, config, cut, action_spec, batch_size)
    self._readers = concurrent.futures.ThreadPoolExecutor(min(len(opened), _MAX_READERS), 'rtjax-read')
    self._closed = threading.Event()
    episodes = [max(1, round(config.shuffle_episodes * weight)) for weight in weights]
    self._windows = [Shuffled(dataset, number, share, episodes[number], cut, self._readers, self._closed)
                     for number, dataset in enumerate(opened)]
    self._share, self._weights, self._batch_size, self._draws = share, weights, batch_size, 0
    self._under_way: collections.deque[tuple[_Pending, dict[str, Any]]] = collections.deque()
    # What the order depends on: a position means nothing without it.
    self._setup = {
        'seed': seed, 'process_index': process_index, 'process_count': process_count, 'window_stride': config.stride,
        'shuffle_episodes': config.shuffle_episodes, 'weights': weights, 'datasets': [d.identity for d in opened]}
    self._state = self._position()

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    """The next batch; rtjax.data describes its arrays."""
    if self._closed.is_set():
      raise ValueError('this TrainingStream is closed, by close() or by an error before; make a new one and restore '
                       'its state.')
    try:
      while len(self._under_way) < _UNDER_WAY:
        self._start_batch()
      pending, state = self._under_way.popleft()
      batch = pending.result()
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

  def __enter__(self) -> 'TrainingStream':
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


def validation_batches(datasets: Sequence[str], config: DataConfig, action_spec: ActionSpec, *, window: int,
                       horizon: int, batch_size: int, process_index: int = 0,
                       process_count: int = 1) -> Iterator[Batch]:
  """Every window of `config.validation_split` once, in order: dataset by dataset, episode by episode.

  All processes yield equally many batches. Global batch i, the processes' batches one after another, holds windows
  i * G to (i + 1) * G - 1, with G = batch_size * process_count. The last is filled up with zeros whose mask is False
  and whose episode is -1. Every process reads all episodes, and decodes the images of its own windows only.
  """
  cut = WindowConfig(window, config.stride, horizon, config.padding_in_loss)
  share = Share(0, process_index, process_count)
  opened = _open(datasets, config, config.validation_split, action_spec)
  batches = _Batches(opened, config, cut, action_spec, batch_size)
  return _in_order(opened, batches, cut, batch_size, share)


def _in_order(opened: list[Dataset], batches: '_Batches', cut: WindowConfig, batch_size: int,
              share: Share) -> Iterator[Batch]:
  windows = ((number, episode, int(end)) for number, dataset in enumerate(opened)
             for episode in dataset.read(dataset.chunks(dataset.num_episodes))
             for end in window_ends(len(episode), cut))
  under_way: collections.deque[_Pending] = collections.deque()
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
  return [Dataset(name, split, action_spec, proprioception=config.proprioception) for name in datasets]


class _Pending:
  """A batch that threads are filling."""

  def __init__(self, batch: Batch, windows: list[concurrent.futures.Future[None]]):
    self._batch, self._windows = batch, windows

  def result(self) -> Batch:
    for window in self._windows:
      window.result()
    return self._batch


class _Batches:
  """Turns windows into batches of `batch_size`, decoding in threads."""

  def __init__(self, datasets: list[Dataset], config: DataConfig, cut: WindowConfig, action_spec: ActionSpec,
               batch_size: int):
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}, it must be at least 1.')
    self._datasets, self._cut, self._spec, self._size = datasets, cut, action_spec, batch_size
    self._decode = [images.decoder(d.image_feature, config.image_size) for d in datasets]
    self._image_size = config.image_size or _common(
        'image sizes', datasets, [_stored_size(*pair) for pair in zip(datasets, self._decode, strict=True)],
        'Set image_size to bring all to one size.')
    self._widths = {'embeddings': _common('embedding sizes', datasets, [d.embedding_size for d in datasets])}
    if config.proprioception:
      sizes = [d.proprioception_size for d in datasets]
      self._widths['proprioception'] = _common('sizes of proprioception', datasets, sizes)
    self._pool = concurrent.futures.ThreadPoolExecutor(config.num_threads(), 'rtjax-decode')

  def start(self, windows: list[tuple[int, Episode, int]]) -> _Pending:
    """Begins a batch of (dataset, episode, end of the window); rows without a window stay zero."""
    batch = self._empty()
    return _Pending(batch, [self._pool.submit(self._fill, batch, row, *window) for row, window in enumerate(windows)])

  def close(self) -> None:
    self._pool.shutdown(cancel_futures=True)

  def _empty(self) -> Batch:
    size, frames, targets = self._size, self._cut.length, self._cut.horizon
    batch = {
        'images': np.zeros((size, frames, *self._image_size, 3), np.uint8),
        'actions': np.zeros((size, frames, targets, self._spec.size), np.float32),
        'mask': np.zeros((size, frames, targets), bool),
        'frames': np.zeros((size, frames), bool),
        'instructions': np.full(size, '', object),
        'episodes': np.full(size, -1, np.int64),
        'steps': np.full(size, -1, np.int32),
    }
    return batch | {name: np.zeros((size, frames, width), np.float32) for name, width in self._widths.items()}

  def _fill(self, batch: Batch, row: int, number: int, episode: Episode, end: int) -> None:
    first, padded = max(0, end - self._cut.length + 1), max(0, self._cut.length - 1 - end)
    targets, batch['mask'][row] = window_targets(end, len(episode), self._cut)
    batch['actions'][row] = take(episode.actions, targets)
    batch['embeddings'][row, padded:] = episode.embeddings[first:end + 1]
    batch['frames'][row, padded:] = True
    if episode.proprioception is not None:
      batch['proprioception'][row, padded:] = episode.proprioception[first:end + 1]
    batch['instructions'][row] = episode.instructions[end]
    batch['episodes'][row], batch['steps'][row] = episode.number, end
    for place, step in enumerate(range(first, end + 1), padded):
      batch['images'][row, place] = self._image(number, episode, step)

  def _image(self, number: int, episode: Episode, step: int) -> np.ndarray:
    try:
      image = self._decode[number](episode.images[step])
    except tf.errors.OpError as error:
      raise ValueError(self._bad_image(number, episode, step, f'cannot be decoded: {error.message}')) from error
    if image.shape[:2] != self._image_size:
      raise ValueError(self._bad_image(number, episode, step, f'is {image.shape[:2]}, others are {self._image_size} '
                                       '(height, width). Set image_size to bring all to one size.'))
    return image

  def _bad_image(self, number: int, episode: Episode, step: int, what: str) -> str:
    return f'{self._datasets[number].name}, episode {episode.number}, step {step}: the image {what}'


def _stored_size(dataset: Dataset, decode: images.Decoder) -> tuple[int, int]:
  """(height, width) of a dataset's images: its features tell, or else the first image does."""
  height, width, _ = dataset.image_feature.shape
  if height is None or width is None:
    first = next(e for e in dataset.read(dataset.chunks(1)) if len(e))
    height, width, _ = decode(first.images[0]).shape
  return height, width


def _common(what: str, datasets: list[Dataset], values: list[Any], fix: str = 'They cannot be mixed.') -> Any:
  if len(set(values)) > 1:
    raise ValueError(f'the datasets differ in their {what}: '
                     + ', '.join(f'{d.name} {v}' for d, v in zip(datasets, values, strict=True)) + f'. {fix}')
  return values[0]
