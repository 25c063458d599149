"""Description of a LeRobot dataset: the files of its folder `meta`.

    v2.0, v2.1   tasks.jsonl, episodes.jsonl; a parquet file, and a video per camera, for each episode
    v3.0         tasks.parquet, episodes/*/*.parquet; episodes lie one after another in few files of each

The layout is that of huggingface/lerobot, src/lerobot/datasets (utils.py, dataset_writer.py, and
v30/convert_dataset_v21_to_v30.py for the older one).
"""
import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rtjax.data.lerobot import parquet
from rtjax.runtime import limits

SPEC_FILE = 'meta/rtjax.json'
"""Written by rtjax.data.convert beside LeRobot's own files, which have no place for units and bounds."""

_VERSIONS = ('v2.0', 'v2.1', 'v3.0')
_COLUMNS = ('episode_index', 'length', 'data/chunk_index', 'data/file_index', 'dataset_from_index')


@dataclasses.dataclass(frozen=True)
class Clip:
  """Place of an episode in a video.

  Attributes:
    path: of the video, in the dataset's folder.
    start: seconds before the first frame.
    frames: frames of all episodes in the video.
  """
  path: str
  start: float
  frames: int


@dataclasses.dataclass(frozen=True)
class Row:
  """Place of an episode in the dataset.

  Attributes:
    index: its number in the dataset.
    length: steps.
    data: path of the parquet file, in the dataset's folder.
    first: row of the file that is its first step.
    clips: of each camera that is a video.
  """
  index: int
  length: int
  data: str
  first: int
  clips: Mapping[str, Clip]


@dataclasses.dataclass(frozen=True)
class Metadata:
  """Description of a dataset.

  Attributes:
    folder: of the dataset.
    name: of the dataset; LeRobot's own have that of their folder.
    version: of the layout.
    fps: steps a second.
    features: {name: {'dtype', 'shape', 'names', ...}}.
    cameras: {name of the view: feature}, without depth.
    tasks: {number: instruction}.
    splits: {name: [first, end)}.
    episodes: in order of their numbers.
    own: content of SPEC_FILE; empty for other datasets.
  """
  folder: pathlib.Path
  name: str
  version: str
  fps: float
  features: Mapping[str, Any]
  cameras: Mapping[str, str]
  tasks: Mapping[int, str]
  splits: Mapping[str, tuple[int, int]]
  episodes: list[Row]
  own: Mapping[str, Any]

  def path(self, name: str) -> pathlib.Path:
    """Return the path of a file inside the dataset's folder."""
    return limits.inside(self.folder, name)

  def is_video(self, feature: str) -> bool:
    return self.features[feature]['dtype'] == 'video'

  def image_size(self, feature: str) -> tuple[int, int] | None:
    """(height, width) of a camera; None if it is not declared."""
    shape, names = list(self.shape(feature)), self.features[feature].get('names')
    if len(shape) != 3:
      return None
    named = isinstance(names, list) and len(names) == 3
    first = names[0] in ('channel', 'channels') if named else shape[0] in (1, 3) and shape[2] not in (1, 3)
    return (shape[1], shape[2]) if first else (shape[0], shape[1])

  def shape(self, feature: str) -> tuple[int, ...]:
    return tuple(self.features[feature]['shape'])


def load(name: str) -> Metadata:
  """Read the description of a dataset.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged, beyond a bound or of another version, or describes what cannot be.
  """
  folder = pathlib.Path(name).expanduser()
  info = limits.json_object(limits.read_json(limits.inside(folder, 'meta/info.json')), f'{name}/meta/info.json')
  version, features = info.get('codebase_version'), _features(folder, info)
  if version not in _VERSIONS:
    raise ValueError(f'{name}: codebase_version in meta/info.json is {limits.short(version)}, expected one of '
                     f'{", ".join(_VERSIONS)}. Convert the dataset with the scripts of LeRobot.')
  own = limits.read_json(limits.inside(folder, SPEC_FILE)) if (folder / SPEC_FILE).exists() else {}
  own = limits.json_object(own, folder / SPEC_FILE)
  read_tasks, read_rows = (_tasks_v3, _rows_v3) if version == 'v3.0' else (_tasks_v2, _rows_v2)
  fps = info.get('fps')
  if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < 1e4:
    raise ValueError(f'{folder}/meta/info.json: fps is {limits.short(fps)}, expected steps a second.')
  videos = [key for key, feature in features.items() if feature['dtype'] == 'video' and not _is_depth(feature)]
  rows = sorted(read_rows(folder, info, videos), key=lambda row: row.index)
  if not rows or [row.index for row in rows] != list(range(len(rows))):
    raise ValueError(f'{name}: meta describes {len(rows)} episodes, expected one or more, numbered from 0 on.')
  return Metadata(
      folder, limits.check_name(own.get('name', folder.resolve().name), f'name in {folder / SPEC_FILE}'), version,
      float(fps), features, _cameras(features), read_tasks(folder), _splits(folder, info, len(rows)), rows, own)


def _features(folder: pathlib.Path, info: dict[str, Any]) -> dict[str, Any]:
  features = limits.json_object(info.get('features'), f'features in {folder}/meta/info.json')
  for name, feature in features.items():
    declared = limits.json_object(feature, f'{name!r} in {folder}/meta/info.json')
    shape = declared.get('shape')
    if not isinstance(declared.get('dtype'), str) or not isinstance(shape, list) or not all(
        isinstance(size, int) and 0 < size <= limits.IMAGE_PIXELS for size in shape):
      raise ValueError(f'{folder}/meta/info.json: {name!r} is {limits.short(feature)}, expected a dtype and a shape.')
  return features


def _is_depth(feature: Mapping[str, Any]) -> bool:
  marks = [mark for mark in (feature.get('info'), feature.get('video_info')) if isinstance(mark, dict)]
  return any(mark.get(key) for mark in marks for key in ('is_depth_map', 'video.is_depth_map'))


def _cameras(features: Mapping[str, Any]) -> dict[str, str]:
  """Return the colour cameras by the last part of their names."""
  keys = [key for key, f in features.items() if f['dtype'] in ('video', 'image') and not _is_depth(f)]
  names = [re.sub(r'^observation\.(images?\.)?', '', key) for key in keys]
  return dict(zip(names if len(set(names)) == len(names) else keys, keys, strict=True))


def _splits(folder: pathlib.Path, info: dict[str, Any], episodes: int) -> dict[str, tuple[int, int]]:
  declared = limits.json_object(info.get('splits') or {'train': f'0:{episodes}'}, f'splits in {folder}/meta/info.json')
  splits = {}
  for name, part in declared.items():
    match = re.fullmatch(r'(\d{1,12}):(\d{1,12})', part) if isinstance(part, str) else None
    if not match or not int(match[1]) <= int(match[2]) <= episodes:
      raise ValueError(f'{folder}/meta/info.json: split {name!r} is {limits.short(part)}, expected FIRST:END of the '
                       f'{episodes} episodes.')
    splits[name] = int(match[1]), int(match[2])
  return splits


def _tasks_v2(folder: pathlib.Path) -> dict[int, str]:
  return {_number(task, 'task_index', 'meta/tasks.jsonl'): str(task.get('task', ''))
          for task in _json_lines(folder, 'meta/tasks.jsonl')}


def _tasks_v3(folder: pathlib.Path) -> dict[int, str]:
  path = limits.inside(folder, 'meta/tasks.parquet')
  table = parquet.read(path)
  texts = [name for name in table.column_names if name != 'task_index']  # the index of a data frame has several names
  if 'task_index' not in table.column_names or len(texts) != 1:
    raise ValueError(f'{path} has the columns {table.column_names}, expected task_index and the instructions.')
  numbers = parquet.numbers(table['task_index'], 1, f'task_index of {path}')[:, 0].tolist()
  return dict(zip(numbers, map(str, table[texts[0]].to_pylist()), strict=True))


def _rows_v2(folder: pathlib.Path, info: dict[str, Any], videos: list[str]) -> Iterator[Row]:
  size = _number(info, 'chunks_size', 'meta/info.json')
  for episode in _json_lines(folder, 'meta/episodes.jsonl'):
    index, length = (_number(episode, key, 'meta/episodes.jsonl') for key in ('episode_index', 'length'))
    place = {'episode_chunk': index // max(size, 1), 'episode_index': index}
    clips = {key: Clip(_fill(info, 'video_path', place | {'video_key': key}), 0, length) for key in videos}
    yield Row(index, length, _fill(info, 'data_path', place), 0, clips)


def _rows_v3(folder: pathlib.Path, info: dict[str, Any], videos: list[str]) -> Iterator[Row]:
  found = [row for path in sorted((folder / 'meta/episodes').glob('*/*.parquet'))
           for row in _episode_table(limits.inside(folder, path.relative_to(folder)), videos)]
  first: dict[tuple[int, int], int] = {}
  frames: dict[tuple[str, int, int], int] = {}
  for row in found:
    place = row['data/chunk_index'], row['data/file_index']
    first[place] = min(first.get(place, row['dataset_from_index']), row['dataset_from_index'])
    for key in videos:
      video = key, row[f'videos/{key}/chunk_index'], row[f'videos/{key}/file_index']
      frames[video] = frames.get(video, 0) + row['length']
  for row in found:
    place = row['data/chunk_index'], row['data/file_index']
    clips = {key: _clip_v3(info, row, key, frames) for key in videos}
    yield Row(row['episode_index'], row['length'], _fill(info, 'data_path', _indices(*place)),
              row['dataset_from_index'] - first[place], clips)


def _clip_v3(info: dict[str, Any], row: dict[str, Any], key: str, frames: dict[tuple[str, int, int], int]) -> Clip:
  place = row[f'videos/{key}/chunk_index'], row[f'videos/{key}/file_index']
  path = _fill(info, 'video_path', _indices(*place) | {'video_key': key})
  start, end = (row[f'videos/{key}/{side}_timestamp'] for side in ('from', 'to'))
  recorded = (end - start) * info['fps']
  if not abs(recorded - row['length']) < 1:
    raise ValueError(f'episode {row["episode_index"]} has {row["length"]} steps in '
                     f'{_fill(info, "data_path", _indices(row["data/chunk_index"], row["data/file_index"]))} and '
                     f'{recorded:.1f} frames in {path}, by meta/episodes. Record or convert it again.')
  return Clip(path, start, frames[key, *place])


def _episode_table(path: pathlib.Path, videos: list[str]) -> list[dict[str, Any]]:
  clips = [f'videos/{key}/{part}' for key in videos for part in (
      'chunk_index', 'file_index', 'from_timestamp', 'to_timestamp')]
  table = parquet.read(path, [*_COLUMNS, *clips])
  columns = {name: parquet.numbers(table[name], 1, f'{name!r} of {path}')[:, 0].tolist() for name in table.column_names}
  rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
  for row in rows:
    if any(not isinstance(value, int) or not 0 <= value <= 2 ** 40 for name, value in row.items()
           if not name.endswith('_timestamp')):
      raise ValueError(f'{path}: {limits.short(row)} is no episode, expected counts and places of 0 and more.')
  return rows


def _indices(chunk: int, file: int) -> dict[str, int]:
  return {'chunk_index': chunk, 'file_index': file}


def _fill(info: dict[str, Any], template: str, values: Mapping[str, Any]) -> str:
  """Fill in a path whose fields are names and widths alone."""
  text = info.get(template)

  def value(match: re.Match[str]) -> str:
    if match[1] not in values:
      raise ValueError(f'meta/info.json: {template} is {limits.short(text)}, expected fields of {sorted(values)}.')
    return str(values[match[1]]).zfill(int(match[2] or 0))

  filled = re.sub(r'\{(\w+)(?::0?(\d)d)?\}', value, text) if isinstance(text, str) else '{'
  if '{' in filled:
    raise ValueError(f'meta/info.json: {template} is {limits.short(text)}, expected a path with fields such as '
                     '{episode_index:06d}.')
  return filled


def _json_lines(folder: pathlib.Path, name: str) -> Iterator[dict[str, Any]]:
  path = limits.inside(folder, name)
  for number, line in limits.lines(path):
    if line.strip():
      yield limits.json_object(limits.parse_json(line, f'line {number} of {path}'), f'line {number} of {path}')


def _number(entry: Mapping[str, Any], key: str, source: str) -> int:
  value = entry.get(key)
  if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limits.RECORDS:
    raise ValueError(f'{source}: {key} is {limits.short(value)}, expected a count.')
  return value
