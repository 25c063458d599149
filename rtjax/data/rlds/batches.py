"""Windows to batches: threads decode the frames of one window each, straight into the batch."""
import concurrent.futures
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data import images
from rtjax.data.config import DataConfig
from rtjax.data.memory import Memory
from rtjax.data.rlds.episodes import Dataset, Episode
from rtjax.data.tf import tf
from rtjax.data.windows import Batch, WindowConfig, next_changes, take, window_slots, window_targets

# Image memory kept for coming batches: as many as are under way, the one in use, and one that a device still reads.
_SPARE = 4


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
    self._views = config.views
    self._decode = [[images.decoder(f, config.image_size) for f in d.image_features] for d in datasets]
    self._image_size = tuple(config.image_size) if config.image_size else self._stored_size()
    views = [len(config.views)] if config.views else []
    self._images = Memory((batch_size, cut.length, *views, *self._image_size, 3), np.uint8, _SPARE)
    names = [d.name for d in datasets]
    self._widths = {'embeddings': _common('embedding sizes', names, [d.embedding_size for d in datasets])}
    self._proprioception, self._waypoints = config.proprioception, config.waypoints
    if config.waypoints:
      self._widths['waypoints'] = 3
      small = [d.name for d in datasets if d.proprioception_size < 3]
      if small:
        raise ValueError(f'waypoints are the first three numbers of proprioception, x, y and z of the gripper, and '
                         f'{small} have fewer. Train without them: --pipeline.no-waypoints --model.waypoint-weight 0.')
    if config.proprioception:
      sizes = [d.proprioception_size for d in datasets]
      self._widths['proprioception'] = _common('sizes of proprioception', names, sizes)
    self._pool = concurrent.futures.ThreadPoolExecutor(config.num_threads(), 'rtjax-decode')

  def start(self, windows: list[tuple[int, Episode, int]]) -> Pending:
    """Begins a batch of (dataset, episode, end of the window); rows without a window stay zero."""
    batch = self._empty()
    batch['images'][len(windows):] = 0
    return Pending(batch, [self._pool.submit(self._fill, batch, row, *window) for row, window in enumerate(windows)])

  def close(self) -> None:
    self._pool.shutdown(cancel_futures=True)

  def _empty(self) -> Batch:
    size, frames, targets = self._size, self._cut.length, self._cut.horizon
    batch = {
        'images': self._images.array(),  # `start` and `_fill` write all of it
        'actions': np.zeros((size, frames, targets, self._spec.size), np.float32),
        'mask': np.zeros((size, frames, targets), bool),
        'frames': np.zeros((size, frames), bool),
        'instructions': np.full(size, '', object),
        'episodes': np.full(size, -1, np.int64),
        'steps': np.full(size, -1, np.int32),
    }
    return batch | {name: np.zeros((size, frames, width), np.float32) for name, width in self._widths.items()}

  def _fill(self, batch: Batch, row: int, number: int, episode: Episode, end: int) -> None:
    slots, steps = window_slots(end, self._cut)
    targets, batch['mask'][row] = window_targets(end, len(episode), self._cut)
    batch['actions'][row] = take(episode.actions, targets)
    batch['embeddings'][row, slots] = episode.embeddings[steps]
    batch['frames'][row, slots] = True
    if self._proprioception:
      batch['proprioception'][row, slots] = _state(episode)[steps]
    if self._waypoints:
      reached = next_changes(self._spec.gripper_commands(episode.actions))
      batch['waypoints'][row, slots] = _state(episode)[reached[steps], :3]
    batch['instructions'][row] = episode.instructions[end]
    batch['episodes'][row], batch['steps'][row] = episode.number, end
    pixels = batch['images'][row]
    pixels[:slots.start] = pixels[slots.stop:] = 0
    for slot, step in enumerate(range(steps.start, steps.stop), slots.start):
      if self._views:
        for view in range(len(self._views)):
          pixels[slot, view] = self._image(number, episode, step, view)
      else:
        pixels[slot] = self._image(number, episode, step)

  def _image(self, number: int, episode: Episode, step: int, view: int = 0) -> np.ndarray:
    try:
      image = self._decode[number][view](episode.image(step, view))
    except tf.errors.OpError as error:
      raise ValueError(self._bad_image(number, episode, step, view, f'cannot be decoded: {error.message}')) from error
    if image.shape[:2] != self._image_size:
      raise ValueError(self._bad_image(number, episode, step, view, f'is {image.shape[:2]}, others are '
                                       f'{self._image_size} (height, width). Set image_size to bring all to one size.'))
    return image

  def _bad_image(self, number: int, episode: Episode, step: int, view: int, what: str) -> str:
    which = f' of view {self._views[view]!r}' if self._views else ''
    return f'{self._datasets[number].name}, episode {episode.number}, step {step}: the image{which} {what}'

  def _stored_size(self) -> tuple[int, int]:
    """(height, width) of all images."""
    names, sizes = [], []
    for dataset, decoders in zip(self._datasets, self._decode, strict=True):
      names += [f'{dataset.name} {view}' for view in self._views] or [dataset.name]
      sizes += [_stored_size(dataset, view, decode) for view, decode in enumerate(decoders)]
    return _common('image sizes', names, sizes, 'Set image_size to bring all to one size.')


def _state(episode: Episode) -> np.ndarray:
  assert episode.proprioception is not None  # it was asked for
  return episode.proprioception


def _stored_size(dataset: Dataset, view: int, decode: images.Decoder) -> tuple[int, int]:
  """(height, width) of a camera's images: its feature tells, or else the first image does."""
  height, width, _ = dataset.image_features[view].shape
  if height is None or width is None:
    first = next((e for e in dataset.read(dataset.chunks(1)) if len(e)), None)
    if first is None:
      raise dataset.no_steps()
    height, width, _ = decode(first.image(0, view)).shape
  return height, width


def _common(what: str, names: list[str], values: list[Any], fix: str = 'They cannot be mixed.') -> Any:
  if len(set(values)) > 1:
    found = ', '.join(f'{name} {value}' for name, value in zip(names, values, strict=True))
    raise ValueError(f'the datasets differ in their {what}: {found}. {fix}')
  return values[0]
