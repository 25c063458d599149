"""Episodes of a LeRobot dataset.

Frames of videos are decoded when a window needs them. An episode holds the places of its frames in the videos, and the
encoded images of those cameras that are stored as images. Frame t of an episode is the one shown t / fps seconds after
its start.
"""
import collections
import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data import images as decoders
from rtjax.data.episode import Episode, EpisodeDecoder, EpisodeSource
from rtjax.data.language import Vectors, no_vectors_error
from rtjax.data.lerobot import metadata, parquet, spec
from rtjax.data.lerobot.metadata import Row
from rtjax.data.records import Chunk
from rtjax.data.rlds.adapter import feature
from rtjax.data.tf import tfds
from rtjax.data.video import SpanReader
from rtjax.language import text
from rtjax.runtime import limits
from rtjax.runtime.suggest import did_you_mean

_MOST_NUMBERS = 4096  # larger ones are no state or action
_NUMBERS = ('float', 'int', 'uint', 'bool')
_ROWS = ('episode_index', 'task_index')
_TOLERANCE = 0.4  # of the time between two frames: videos round the times of their frames


@dataclasses.dataclass(frozen=True)
class VideoSpan:
  """Frames of an episode in a video, and its table."""
  video: pathlib.Path
  start: float
  frames: int
  data: pathlib.Path


class LeRobotDataset(EpisodeSource):
  """Episodes of one split of a dataset.

  Args: as of `rlds.episodes.Dataset`; `name` is a folder, and the cameras have the last part of their features' names.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: the split is unknown or empty, the dataset lacks what is asked for, or a file is damaged.
  """

  def __init__(self, name: str, split: str, action_spec: ActionSpec, *, images: bool = True,
               views: Sequence[str] = (), camera: str = '', proprioception: bool | None = False,
               vectors: Vectors | None = None, drop_unlabelled: bool = False, check: bool = True,
               rt1_x_grippers: bool = False):
    super().__init__(action_spec, check, drop_unlabelled)
    del rt1_x_grippers  # concerns RLDS datasets alone
    self._metadata = metadata.load(name)
    self.name, self.split, self.rt1_x_grippers = name, split, False
    self.adapter, self.views = spec.adapter(self._metadata), tuple(views)
    self.renderer = self._metadata.own.get('renderer')
    described = {name: f for name, f in self._metadata.features.items() if math.prod(f['shape']) <= _MOST_NUMBERS}
    self._number_features = [name for name, f in described.items() if f['dtype'].startswith(_NUMBERS)]
    self._text_features = [name for name, f in described.items() if f['dtype'] == 'string']
    self._file_rows = collections.Counter[str]()
    for row in self._metadata.episodes:
      self._file_rows[row.data] += row.length
    self._rows = [self._metadata.episodes[number] for number in self._numbers(split)]
    self.num_records = len(self._rows)
    chosen = views or ([camera] if images or camera or self.adapter.image else [])
    self._images, self._cameras = images, [self._camera(view) for view in chosen]
    self.image_sizes = [self._metadata.image_size(key) for key in self._cameras] or [None]
    path = self.adapter.proprioception
    self.proprioception = path if proprioception or proprioception is None else None
    if proprioception and path not in self._metadata.features:
      raise ValueError(f'{name}: proprioception is on, and the dataset has no {path or "observation.state"!r}, it has '
                       f'{sorted(self._metadata.features)}.')
    self.proprioception_size = math.prod(self._metadata.shape(self.proprioception)) if self.proprioception else 0
    if vectors is None:
      raise no_vectors_error(name, 'no instruction vectors, as LeRobot datasets do')
    self._vectors, self.embedding_id, self.embedding_size = vectors, vectors.id, vectors.size
    self._spans = SpanReader()

  @property
  def version(self) -> str:
    return self._metadata.version

  @property
  def cameras(self) -> list[str]:
    return list(self._metadata.cameras)

  @property
  def layout(self) -> dict[str, str]:
    return {name: f'{f["dtype"]} {f["shape"]}' for name, f in self._metadata.features.items()}

  @property
  def split_sizes(self) -> dict[str, int]:
    return {name: end - first for name, (first, end) in self._metadata.splits.items()}

  @property
  def stores_vectors(self) -> bool:
    return False

  @property
  def files(self) -> list[str]:
    described = sorted(p for p in (self._metadata.folder / 'meta').rglob('*') if p.is_file())
    return [str(path) for path in described] + [str(self._metadata.path(path)) for path in self._data_files()]

  @property
  def identity(self) -> str:
    places = [[row.index, row.length, row.data, row.first] for row in self._rows]
    return hashlib.sha256(json.dumps([self.version, places]).encode()).hexdigest()[:16]

  def digest(self) -> str:
    """Hash of numbers, texts, and sizes of images and videos."""
    found = hashlib.sha256(json.dumps([self.identity, sorted(self._metadata.tasks.items())]).encode())
    omit = [key for key, feature in self._metadata.features.items() if feature['dtype'] == 'image']
    for path in self._data_files():
      for part in parquet.footprint(self._metadata.path(path), omit):
        found.update(part)
    for path in sorted({clip.path for row in self._rows for clip in row.clips.values()}):
      video = self._metadata.path(path)
      found.update(f'{path} {video.stat().st_size if video.is_file() else 0}'.encode())
    return found.hexdigest()[:16]

  def chunks(self, size: int) -> list[Chunk]:
    found: list[Chunk] = []
    for place, row in enumerate(self._rows):
      last = found[-1] if found else None
      if last and last.file == row.data and last.take < size and last.skip + last.take == row.index:
        found[-1] = dataclasses.replace(last, take=last.take + 1)
      else:
        found.append(Chunk(place, row.data, row.index, 1))
    return found

  def read(self, chunks: Sequence[Chunk]) -> Iterator[Episode]:
    for number, row, table in self._read_tables(chunks):
      episode = self._episode(number, row, table)
      if self._kept(episode):
        yield episode

  def decoder(self, size: tuple[int, int] | None) -> EpisodeDecoder:
    of_image, of_frame = decoders.resized(decoders.decode_image, size), decoders.resized(lambda frame: frame, size)

    def frames(episode: Episode, steps: Sequence[int], view: int) -> Iterator[np.ndarray]:
      stored = episode.images[view]
      if isinstance(stored, VideoSpan):
        return map(of_frame, self._frames(stored, steps))
      return map(of_image, (stored[step] for step in steps))

    return frames

  def action_fields(self) -> dict[str, int]:
    _, row, table = next(self._read_tables(self.chunks(1)[:1]))
    return {name: part.shape[-1] for name, part in self.adapter.action(self._steps(row, table)).items()}

  def instruction_embeddings(self) -> Iterator[tuple[str, np.ndarray]]:
    for number, row, table in self._read_tables(self.chunks(self.num_records)):
      texts = self._texts(number, self._steps(row, table))
      yield from zip(texts, self._vectors(texts), strict=True)

  def _numbers(self, split: str) -> list[int]:
    """Return the episodes of a split, in TFDS's split algebra."""
    sizes = {name: tfds.core.splits.SplitInfo(name=name, shard_lengths=[size], num_bytes=0)
             for name, size in self.split_sizes.items()}
    try:
      parts = tfds.core.ReadInstruction.from_spec('+'.join(sizes) if split == 'all' else split).to_absolute(sizes)
    except (AssertionError, KeyError, ValueError) as error:
      raise ValueError(f'{self.name}: unknown split {split!r}: {error}. It has {sorted(sizes)}, and parts and sums of '
                       "them such as 'train[:90%]' and 'train[90%:]'.") from error
    found: list[int] = []
    for part in parts:
      first, end = self._metadata.splits[part.splitname]
      found += range(first, end)[part.from_:part.to]
    if not found:
      raise ValueError(f'{self.name}: split {split!r} is empty. It has {self.split_sizes} episodes.')
    return found

  def _camera(self, view: str) -> str:
    """Return the feature of a camera."""
    known = self._metadata.cameras
    named = view in ('', 'image', *self.adapter.views)
    found = known.get(view) or (self.adapter.camera(view or 'image') if named else '')
    if found in self._metadata.features:
      return found
    problem = f'there is no camera {view!r}' if view else 'there is no main camera' if known else 'there is no camera'
    raise ValueError(f'{self.name}: {problem}, the cameras are {sorted(known)}.{did_you_mean(view, known)} Choose one '
                     'with --pipeline.camera NAME, or several for a model with views with --pipeline.views NAME NAME.')

  def _data_files(self) -> list[str]:
    return sorted({row.data for row in self._rows})

  def _columns(self) -> list[str]:
    images = [key for key in self._cameras if self._images and not self._metadata.is_video(key)]
    return list(dict.fromkeys([*_ROWS, *self._number_features, *self._text_features, *images]))

  def _read_tables(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, Row, Any]]:
    """Yield place in the split, row and table of each episode."""
    for chunk in chunks:
      places = range(chunk.first, chunk.first + chunk.take)
      runs = [(self._rows[place].first, self._rows[place].length) for place in places]
      path = self._metadata.path(chunk.file)
      tables = parquet.read_runs(path, self._columns(), runs, self._file_rows[chunk.file])
      for place, table in zip(places, tables, strict=True):
        yield place, self._rows[place], table

  def _steps(self, row: Row, table: Any) -> dict[str, np.ndarray]:
    """Return the features of an episode that adapters get, each [steps, ...]."""
    def column(name: str) -> np.ndarray:
      size = math.prod(self._metadata.shape(name)) if name in self._metadata.features else 1
      return parquet.numbers(table[name], size, f'{name!r} of episode {row.index} in {row.data}')

    if (column('episode_index') != row.index).any():
      raise ValueError(f'{self.name}: rows {row.first} to {row.first + row.length - 1} of {row.data} are not those of '
                       f'episode {row.index}, as meta/episodes says. Copy or convert the dataset again.')
    tasks = column('task_index')[:, 0].tolist()
    if unknown := set(tasks) - set(self._metadata.tasks):
      raise ValueError(f'{self.name}: episode {row.index} in {row.data} has the task {min(unknown)}, meta/tasks has '
                       f'{len(self._metadata.tasks)} others.')
    last = np.arange(row.length) == row.length - 1
    return {
        'is_first': last[::-1], 'is_last': last, 'is_terminal': last,
        **{name: column(name).reshape(row.length, *self._metadata.shape(name)) for name in self._number_features},
        **{name: np.array(table[name].to_pylist(), object) for name in self._text_features},
        spec.TASK: np.array([self._metadata.tasks[task] for task in tasks], object)}

  def _episode(self, number: int, row: Row, table: Any) -> Episode:
    steps = self._steps(row, table)
    texts = self._texts(number, steps)
    state = steps[self.proprioception].reshape(row.length, -1) if self.proprioception else None
    actions, limited = self._pack(number, steps, self.adapter.action, row.length)
    return Episode(
        number=number, images=[self._stored_images(row, table, key) for key in self._cameras if self._images],
        embeddings=self._vectors(texts), actions=actions, instructions=texts,
        proprioception=None if state is None else state.astype(np.float32), limited=limited)

  def _texts(self, number: int, steps: dict[str, np.ndarray]) -> np.ndarray:
    """Return the instructions in normal form, str [steps], empty without a word."""
    try:
      return np.array([text.tidy(str(value or '')) for value in feature(steps, self.adapter.instruction)], object)
    except ValueError as error:
      raise ValueError(f'{self._place(number)}: {error}') from error

  def _stored_images(self, row: Row, table: Any, key: str) -> Any:
    data = self._metadata.path(row.data)
    if not self._metadata.is_video(key):
      return _encoded(table[key], key, data)
    clip = row.clips[key]
    video = self._metadata.path(clip.path)
    if not video.exists():
      raise FileNotFoundError(f'{video} is missing, the video of {key!r} for the {row.length} steps of episode '
                              f'{row.index} in {data}. Copy it, or choose another camera.')
    limits.check_file(video)
    return VideoSpan(video, clip.start, clip.frames, data)

  def _frames(self, span: VideoSpan, steps: Sequence[int]) -> Iterator[np.ndarray]:
    fps = self._metadata.fps
    try:
      found = self._spans.count(span.video)
      # A video of version 3 may hold frames of episodes that were removed.
      if found and (found < span.frames or (found > span.frames and self.version != 'v3.0')):
        raise ValueError(f'it has {found} frames, and its episodes {span.frames} steps')
      yield from self._spans.frames(span.video, [span.start + step / fps for step in steps], _TOLERANCE / fps)
    except (OSError, ValueError) as error:
      raise ValueError(f'the video {span.video} does not fit {span.data}: {error}. Is it truncated, or of another '
                       'recording? Copy or record both again.') from error


def _encoded(column: Any, key: str, data: pathlib.Path) -> np.ndarray:
  """Return encoded images, bytes [steps] (object), of a column of LeRobot."""
  if 'bytes' not in (column.type.field(i).name for i in range(column.type.num_fields)):
    raise ValueError(f'{data}: {key!r} is {column.type}, expected structs with the bytes of an encoded image.')
  images = [cell['bytes'] if cell else None for cell in column.to_pylist()]
  if None in images:
    raise ValueError(f'{data}: {key!r} names an image in a file, expected its bytes. Embed the images: LeRobot does so '
                     'when it saves an episode.')
  return np.fromiter(images, object, len(images))

