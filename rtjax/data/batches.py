"""Windows to batches: threads decode the frames of one window each, straight into the batch."""
import concurrent.futures
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data import images
from rtjax.data.config import DataConfig
from rtjax.data.episodes import Dataset, Episode
from rtjax.data.tf import tf
from rtjax.data.windows import Batch, WindowConfig, take, window_targets


class Pending:
  """A batch that threads are filling."""

  def __init__(self, batch: Batch, windows: list[concurrent.futures.Future[None]]):
    self._batch, self._windows = batch, windows

  def result(self) -> Batch:
    for window in self._windows:
      window.result()
    return self._batch


class Batches:
  """Turns windows into batches of `batch_size`, decoding in threads."""

  def __init__(self, datasets: list[Dataset], config: DataConfig, cut: WindowConfig, action_spec: ActionSpec,
               batch_size: int):
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}, it must be at least 1.')
    self._datasets, self._cut, self._spec, self._size = datasets, cut, action_spec, batch_size
    self._decode = [images.decoder(d.image_feature, config.image_size) for d in datasets]
    self._image_size = tuple(config.image_size) if config.image_size else _common(
        'image sizes', datasets, [_stored_size(*pair) for pair in zip(datasets, self._decode, strict=True)],
        'Set image_size to bring all to one size.')
    self._widths = {'embeddings': _common('embedding sizes', datasets, [d.embedding_size for d in datasets])}
    if config.proprioception:
      sizes = [d.proprioception_size for d in datasets]
      self._widths['proprioception'] = _common('sizes of proprioception', datasets, sizes)
    self._pool = concurrent.futures.ThreadPoolExecutor(config.num_threads(), 'rtjax-decode')

  def start(self, windows: list[tuple[int, Episode, int]]) -> Pending:
    """Begins a batch of (dataset, episode, end of the window); rows without a window stay zero."""
    batch = self._empty()
    return Pending(batch, [self._pool.submit(self._fill, batch, row, *window) for row, window in enumerate(windows)])

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
    first = next((e for e in dataset.read(dataset.chunks(1)) if len(e)), None)
    if first is None:
      raise dataset.no_steps()
    height, width, _ = decode(first.images[0]).shape
  return height, width


def _common(what: str, datasets: list[Dataset], values: list[Any], fix: str = 'They cannot be mixed.') -> Any:
  if len(set(values)) > 1:
    raise ValueError(f'the datasets differ in their {what}: '
                     + ', '.join(f'{d.name} {v}' for d, v in zip(datasets, values, strict=True)) + f'. {fix}')
  return values[0]
