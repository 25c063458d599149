"""Writer of LeRobot datasets, version 3.0, complete or not at all.

Videos are H.264 with a keyframe at least every second frame, so that any frame is decoded fast. The layout is that of
huggingface/lerobot, src/lerobot/datasets/dataset_writer.py.
"""
import dataclasses
import fractions
import io
import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from rtjax.actions import ActionSpec
from rtjax.data.lerobot.metadata import SPEC_FILE
from rtjax.data.lerobot.parquet import pa, pq
from rtjax.runtime import lock, serialization

Frames = Literal['video', 'png', 'jpeg']
"""Form of stored frames; PNG loses nothing."""

_DATA = 'data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet'
_VIDEO = 'videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4'
_EPISODES = 'meta/episodes/chunk-000/file-000.parquet'
_DATA_MB, _VIDEO_MB, _FILES = 100, 200, 1000  # LeRobot's own
_CODEC = {'crf': '18', 'g': '2', 'preset': 'medium'}
_QUALITY = 95  # of JPEG, as in the RLDS datasets
_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)
_SAMPLED = 100  # frames of an episode for the statistics of images


@dataclasses.dataclass(frozen=True)
class Recording:
  """An episode to write.

  Attributes:
    actions: float32 [steps, A].
    state: float32 [steps, S], or None.
    instructions: a text for each step.
    frames: of each camera, uint8 [H, W, 3] for each step.
  """
  actions: np.ndarray
  state: np.ndarray | None
  instructions: Sequence[str]
  frames: Mapping[str, Iterable[np.ndarray]]


def write(folder: pathlib.Path, name: str, splits: Mapping[str, Iterable[Recording]], spec: ActionSpec, fps: float,
          frames: Frames) -> None:
  """Write a dataset; one episode is in memory at a time.

  Args:
    folder: appears when the dataset is complete.
    name: of the dataset, kept with the ActionSpec beside LeRobot's own files.
    splits: episodes of each.
    spec: names, units and bounds of the actions.
    fps: steps a second.
    frames: form of the stored frames.

  Raises:
    LockedError: another process is writing the dataset.
    ValueError: PyAV is missing; frames differ in size, or have an odd one and shall become a video.
    OSError: the dataset cannot be written; the disk may be full.
  """
  with lock.beside(folder):
    partial = folder.with_name(f'{folder.name}.incomplete')
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
      writer, ranges = _Writer(partial, spec, fps, frames), {}
      with writer:
        for split, episodes in splits.items():
          first = len(writer.rows)
          for episode in episodes:
            writer.add(episode)
          ranges[split] = f'{first}:{len(writer.rows)}'
      writer.describe(name, ranges)
      partial.rename(folder)
    except BaseException:
      shutil.rmtree(partial, ignore_errors=True)
      raise


class _Writer:
  """Files of a dataset in progress."""

  def __init__(self, folder: pathlib.Path, spec: ActionSpec, fps: float, frames: Frames):
    self.rows: list[dict[str, Any]] = []
    self._folder, self._spec, self._form = folder, dataclasses.replace(spec, rate=fps), frames
    self._fps = fractions.Fraction(fps).limit_denominator(1001)
    self._tasks: dict[str, int] = {}
    self._steps, self._data_number = 0, 0
    self._table: Any = None
    self._videos: dict[str, _Video] = {}
    self._sizes: dict[str, tuple[int, ...]] = {}
    self._stats: list[dict[str, dict[str, Any]]] = []
    self._values: dict[str, list[np.ndarray]] = {}

  def __enter__(self) -> '_Writer':
    return self

  def __exit__(self, *_: Any) -> None:
    if self._table:
      self._table.close()
    for video in self._videos.values():
      video.close()

  def add(self, episode: Recording) -> None:
    """Write an episode."""
    number, length = len(self.rows), len(episode.actions)
    tasks = [self._tasks.setdefault(text, len(self._tasks)) for text in episode.instructions]
    columns: dict[str, np.ndarray] = {'action': episode.actions.astype(np.float32)}
    if episode.state is not None:
      columns['observation.state'] = episode.state.astype(np.float32)
    steps = np.arange(length)
    columns |= {'timestamp': (steps / float(self._fps)).astype(np.float32), 'frame_index': steps,
                'episode_index': np.full(length, number), 'index': self._steps + steps, 'task_index': np.array(tasks)}
    row: dict[str, Any] = {
        'episode_index': number, 'tasks': list(dict.fromkeys(episode.instructions)), 'length': length,
        'dataset_from_index': self._steps, 'dataset_to_index': self._steps + length}
    arrays, stats = {name: _array(values) for name, values in columns.items()}, {}
    for camera, frames in episode.frames.items():
      key = f'observation.images.{camera}'
      sampled: list[np.ndarray] = []
      checked = self._checked(key, frames, length, sampled)
      if self._form == 'video':
        row |= self._add_video(key, checked)
      else:
        arrays[key] = pa.array([{'bytes': _encoded(frame, self._form), 'path': f'frame-{step:06d}.{self._form}'}
                                for step, frame in enumerate(checked)])
      stats[key] = _image_stats(sampled)
    for name, values in columns.items():
      self._values.setdefault(name, []).append(values.reshape(length, -1))
      stats[name] = _stats(values.reshape(length, -1))
    row |= self._add_table(pa.table(arrays)) | {'meta/episodes/chunk_index': 0, 'meta/episodes/file_index': 0}
    row |= {f'stats/{key}/{kind}': value for key, kinds in stats.items() for kind, value in kinds.items()}
    self.rows.append(row)
    self._stats.append(stats)
    self._steps += length

  def describe(self, name: str, splits: dict[str, str]) -> None:
    """Write the files of `meta`."""
    if not self.rows:
      raise ValueError('there is no episode to write.')
    (self._folder / _EPISODES).parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(self.rows), self._folder / _EPISODES)
    pq.write_table(_task_table(self._tasks), self._folder / 'meta/tasks.parquet')
    self._json('meta/stats.json', self._all_stats())
    self._json('meta/info.json', {
        'codebase_version': 'v3.0', 'robot_type': None, 'total_episodes': len(self.rows), 'total_frames': self._steps,
        'total_tasks': len(self._tasks), 'chunks_size': _FILES, 'data_files_size_in_mb': _DATA_MB,
        'video_files_size_in_mb': _VIDEO_MB, 'fps': int(self._fps) if self._fps.denominator == 1 else float(self._fps),
        'splits': splits, 'data_path': _DATA, 'video_path': _VIDEO if self._form == 'video' else None,
        'features': self._features()})
    self._json(SPEC_FILE, {'name': name, 'action_spec': serialization.to_json(self._spec)})

  def _features(self) -> dict[str, Any]:
    names: dict[str, Any] = {'action': list(self._spec.dimension_names)}
    features: dict[str, Any] = {
        key: {'dtype': str(values[0].dtype), 'shape': [values[0].shape[1]], 'names': names.get(key)}
        for key, values in self._values.items()}
    kind = 'video' if self._form == 'video' else 'image'
    for key, size in self._sizes.items():
      features[key] = {'dtype': kind, 'shape': [*size], 'names': ['height', 'width', 'channels']}
      if kind == 'video':
        features[key]['info'] = {
            'video.height': size[0], 'video.width': size[1], 'video.codec': 'h264', 'video.pix_fmt': 'yuv420p',
            'video.is_depth_map': False, 'video.fps': float(self._fps), 'video.channels': 3, 'has_audio': False}
    return features

  def _checked(self, key: str, frames: Iterable[np.ndarray], length: int, sampled: list[np.ndarray]
               ) -> Iterator[np.ndarray]:
    """Yield frames after a check; collect some of them."""
    wanted = set(np.linspace(0, length - 1, min(length, _SAMPLED)).round().astype(int).tolist())
    count = 0
    for step, frame in enumerate(frames):
      size = self._sizes.setdefault(key, frame.shape)
      if frame.shape != size:
        raise ValueError(f'episode {len(self.rows)}, step {step}: {key} is {frame.shape[:2]} (height, width), others '
                         f'are {size[:2]}. LeRobot needs one size: resize them.')
      if self._form == 'video' and (size[0] % 2 or size[1] % 2):
        raise ValueError(f'{key} is {size[:2]} (height, width), and a video needs even sizes: --frames png stores '
                         'images.')
      if step in wanted:
        sampled.append(frame[::4, ::4])
      count += 1
      yield frame
    if count != length:
      raise ValueError(f'episode {len(self.rows)} has {count} frames of {key} and {length} actions.')

  def _add_video(self, key: str, frames: Iterator[np.ndarray]) -> dict[str, Any]:
    video = self._videos.get(key)
    if video is None or (video.path.exists() and video.path.stat().st_size >= _VIDEO_MB * 2 ** 20):
      if video:
        video.close()
      self._videos[key] = video = _Video(self._folder, key, video.number + 1 if video else 0, self._fps)
    start = video.frames / self._fps
    video.add(frames)
    place = {'chunk_index': video.number // _FILES, 'file_index': video.number % _FILES,
             'from_timestamp': float(start), 'to_timestamp': float(video.frames / self._fps)}
    return {f'videos/{key}/{name}': value for name, value in place.items()}

  def _add_table(self, table: Any) -> dict[str, int]:
    path = self._data_path()
    if self._table and path.stat().st_size >= _DATA_MB * 2 ** 20:
      self._table.close()
      self._table, self._data_number = None, self._data_number + 1
      path = self._data_path()
    if not self._table:
      path.parent.mkdir(parents=True, exist_ok=True)
      self._table = pq.ParquetWriter(path, table.schema)
    self._table.write_table(table)
    return {'data/chunk_index': self._data_number // _FILES, 'data/file_index': self._data_number % _FILES}

  def _data_path(self) -> pathlib.Path:
    return self._folder / _DATA.format(chunk_index=self._data_number // _FILES, file_index=self._data_number % _FILES)

  def _all_stats(self) -> dict[str, Any]:
    numbers = {key: _stats(np.concatenate(values)) for key, values in self._values.items()}
    return numbers | {key: _merged([stats[key] for stats in self._stats]) for key in self._sizes}

  def _json(self, file: str, content: dict[str, Any]) -> None:
    (self._folder / file).write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')


class _Video:
  """A video file in progress, of several episodes."""

  def __init__(self, folder: pathlib.Path, key: str, number: int, fps: fractions.Fraction):
    try:
      import av
    except ModuleNotFoundError as error:
      raise ValueError("writing videos needs pip install 'rtjax[lerobot]'; or choose --frames png.") from error
    self._av, self.number, self.frames, self._fps = av, number, 0, fps
    self.path = folder / _VIDEO.format(video_key=key, chunk_index=number // _FILES, file_index=number % _FILES)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    self._container = av.open(str(self.path), 'w')
    self._stream: Any = self._container.add_stream('libx264', rate=fps, options=_CODEC)
    self._stream.pix_fmt = 'yuv420p'

  def add(self, frames: Iterable[np.ndarray]) -> None:
    for pixels in frames:
      if not self.frames:
        self._stream.height, self._stream.width = pixels.shape[:2]
      frame = self._av.VideoFrame.from_ndarray(pixels, format='rgb24')
      frame.pts, frame.time_base = self.frames, 1 / self._fps
      self._container.mux(self._stream.encode(frame))
      self.frames += 1

  def close(self) -> None:
    if self.frames:
      self._container.mux(self._stream.encode())
    self._container.close()


def _array(values: np.ndarray) -> Any:
  """Return a column of numbers, or of lists of one length."""
  if values.ndim == 1 or values.shape[1] == 1:
    return pa.array(values.reshape(-1))
  return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _encoded(frame: np.ndarray, form: Frames) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(frame).save(buffer, form, quality=_QUALITY)
  return buffer.getvalue()


def _task_table(tasks: Mapping[str, int]) -> Any:
  """Return the table of instructions, the index of a data frame."""
  index = '__index_level_0__'
  columns = [{'name': name, 'field_name': field, 'pandas_type': kind, 'numpy_type': numpy, 'metadata': None}
             for name, field, kind, numpy in (('task_index', 'task_index', 'int64', 'int64'),
                                              (None, index, 'unicode', 'object'))]
  described = {'index_columns': [index], 'column_indexes': [], 'columns': columns}
  numbers, texts = pa.array(list(tasks.values()), pa.int64()), pa.array(list(tasks), pa.string())
  table = pa.table({'task_index': numbers, index: texts})
  return table.replace_schema_metadata({'pandas': json.dumps(described)})


def _stats(values: np.ndarray) -> dict[str, Any]:
  """Statistics of [steps, numbers] as LeRobot names them."""
  found = {'min': values.min(0), 'max': values.max(0), 'mean': values.mean(0, np.float64),
           'std': values.std(0, np.float64), 'count': np.array([len(values)])}
  quantiles = np.quantile(values.astype(np.float64), _QUANTILES, 0)
  found |= {f'q{round(100 * q):02d}': value for q, value in zip(_QUANTILES, quantiles, strict=True)}
  return {name: value.tolist() for name, value in found.items()}


def _image_stats(frames: Sequence[np.ndarray]) -> dict[str, Any]:
  """Statistics of each channel, 0 to 1, in lists [3, 1, 1]."""
  pixels = np.concatenate([frame.reshape(-1, 3) for frame in frames]) / 255
  found = {name: np.reshape(value, (3, 1, 1)).tolist() for name, value in _stats(pixels).items() if name != 'count'}
  return found | {'count': [len(frames)]}


def _merged(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Merge the image statistics of episodes; quantiles are averages."""
  counts = np.array([part['count'][0] for part in parts])
  of = {name: np.array([part[name] for part in parts]) for name in parts[0] if name != 'count'}
  merged = {name: np.average(value, 0, counts) for name, value in of.items()}
  variance = np.average(of['std'] ** 2 + (of['mean'] - merged['mean']) ** 2, 0, counts)
  merged |= {'min': of['min'].min(0), 'max': of['max'].max(0), 'std': np.sqrt(variance)}
  return {name: value.tolist() for name, value in merged.items()} | {'count': [int(counts.sum())]}
