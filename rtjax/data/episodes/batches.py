"""Batches of windows of episodes, decoded by threads."""
from collections.abc import Iterator
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data.batching import Arrays, Batcher, PendingBatch
from rtjax.data.config import DataConfig
from rtjax.data.episode import Episode, EpisodeDecoder, EpisodeSource
from rtjax.data.windows import WindowConfig, next_changes, take_steps, window_slots, window_targets


class WindowBatcher(Batcher):
  """Makes batches of windows; each thread decodes one window.

  Args:
    datasets: sources of the episodes.
    config: settings of the pipeline.
    window_config: shape and spacing of windows.
    action_spec: fields and units of an action.
    batch_size: windows of a batch.

  Raises:
    ValueError: the datasets differ in the size of images, embeddings or proprioception.
  """

  def __init__(self, datasets: list[EpisodeSource], config: DataConfig, window_config: WindowConfig,
               action_spec: ActionSpec, batch_size: int):
    self._datasets, self._window_config, self._spec = datasets, window_config, action_spec
    self._views = config.views
    self._decode = [dataset.decoder(config.image_size) for dataset in datasets]
    self._image_size = tuple(config.image_size) if config.image_size else self._stored_size()
    views = [len(config.views)] if config.views else []
    super().__init__(batch_size, (window_config.length, *views, *self._image_size, 3), config.num_threads())
    names = [d.name for d in datasets]
    embedding_size = _common('embedding sizes', names, [d.embedding_size for d in datasets])
    self._widths = {'instruction': embedding_size} if embedding_size else {}
    self._proprioception, self._waypoints = config.proprioception, config.waypoints
    if config.waypoints:
      self._widths['waypoints'] = 3
      # Two numbers are a position where the adapter knows a planar robot, which has a waypoint of its own.
      small = [d.name for d in datasets if d.proprioception_size < (3 if d.adapter.waypoint is None else 2)]
      if small:
        raise ValueError(f'waypoints are the first numbers of proprioception, x, y and z of the gripper, and '
                         f'{small} have fewer. Train without them: --pipeline.no-waypoints --model.waypoint-weight 0.')
    if config.proprioception:
      sizes = [d.proprioception_size for d in datasets]
      self._widths['proprioception'] = _common('sizes of proprioception', names, sizes)

  def start(self, windows: list[tuple[int, Episode, int]]) -> PendingBatch:
    batch = self._empty()
    batch['images'][len(windows):] = 0
    parts = [self._pool.submit(self._fill, batch, row, *window) for row, window in enumerate(windows)]
    return PendingBatch(batch, parts)

  def _empty(self) -> Arrays:
    size, frames, horizon = self._size, self._window_config.length, self._window_config.horizon
    batch = {
        'images': self._images.array(),  # `start` and `_fill` write all of it
        'actions': np.zeros((size, frames, horizon, self._spec.size), np.float32),
        'action_mask': np.zeros((size, frames, horizon), bool),
        'frame_mask': np.zeros((size, frames), bool),
        'instructions': np.full(size, '', object),
        'episodes': np.full(size, -1, np.int64),
        'steps': np.full(size, -1, np.int32),
    }
    return batch | {name: np.zeros((size, frames, width), np.float32) for name, width in self._widths.items()}

  def _fill(self, batch: Arrays, row: int, number: int, episode: Episode, end: int) -> None:
    slots, steps = window_slots(end, self._window_config)
    targets, batch['action_mask'][row] = window_targets(end, len(episode), self._window_config)
    batch['actions'][row] = take_steps(episode.actions, targets)
    if 'instruction' in batch:
      batch['instruction'][row, slots] = episode.embeddings[steps]
    batch['frame_mask'][row, slots] = True
    if self._proprioception:
      batch['proprioception'][row, slots] = _proprioception(episode)[steps]
    if self._waypoints:
      waypoints = self._waypoints_of(episode)[steps, :3]
      batch['waypoints'][row, slots, :waypoints.shape[-1]] = waypoints  # z is zero where a robot is planar
    batch['instructions'][row] = episode.instructions[end]
    batch['episodes'][row], batch['steps'][row] = episode.number, end
    pixels = batch['images'][row]
    pixels[:slots.start] = pixels[slots.stop:] = 0
    for view in range(len(self._views) or 1):
      frames = self._frames(number, episode, range(steps.start, steps.stop), view)
      for slot, frame in enumerate(frames, slots.start):
        pixels[(slot, view) if self._views else slot] = frame

  def _waypoints_of(self, episode: Episode) -> np.ndarray:
    if episode.waypoints is not None:
      return episode.waypoints
    return _proprioception(episode)[next_changes(self._spec.gripper_commands(episode.actions))]

  def _frames(self, number: int, episode: Episode, steps: range, view: int) -> Iterator[np.ndarray]:
    frames = self._decode[number](episode, steps, view)
    for step in steps:
      try:
        image = next(frames)
      except ValueError as error:
        raise self._image_error(number, episode, step, view, f'cannot be decoded: {error}') from error
      if image.shape[:2] != self._image_size:
        raise self._image_error(number, episode, step, view, f'is {image.shape[:2]}, others are {self._image_size} '
                                '(height, width). Set image_size to resize all to one size.')
      yield image

  def _image_error(self, number: int, episode: Episode, step: int, view: int, message: str) -> ValueError:
    camera = f' of view {self._views[view]!r}' if self._views else ''
    return ValueError(f'{self._datasets[number].name}, episode {episode.number}, step {step}: the image{camera} '
                      f'{message}')

  def _stored_size(self) -> tuple[int, int]:
    """(height, width) of all images."""
    names, sizes = [], []
    for dataset, decode in zip(self._datasets, self._decode, strict=True):
      names += [f'{dataset.name} {view}' for view in self._views] or [dataset.name]
      sizes += [size or _first_size(dataset, view, decode) for view, size in enumerate(dataset.image_sizes)]
    return _common('image sizes', names, sizes, 'Set image_size to resize all to one size.')


def _proprioception(episode: Episode) -> np.ndarray:
  assert episode.proprioception is not None  # the dataset was opened with it
  return episode.proprioception


def _first_size(dataset: EpisodeSource, view: int, decode: EpisodeDecoder) -> tuple[int, int]:
  """(height, width) of a camera's first image."""
  first = next((e for e in dataset.read(dataset.chunks(1)) if len(e)), None)
  if first is None:
    raise dataset.empty_error()
  height, width, _ = next(decode(first, range(1), view)).shape
  return height, width


def _common(quantity: str, names: list[str], values: list[Any], fix: str = 'They cannot be mixed.') -> Any:
  """Return the value that all datasets share."""
  if len(set(values)) > 1:
    found = ', '.join(f'{name} {value}' for name, value in zip(names, values, strict=True))
    raise ValueError(f'the datasets differ in their {quantity}: {found}. {fix}')
  return values[0]
