"""Tiny LeRobot datasets of versions 2.1 and 3.0, whose numbers and grey values encode episode and step.

Written by pyarrow and PyAV alone, file by file as huggingface/lerobot does.
"""
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rtjax.data import DataConfig

LENGTHS = [5, 9, 3, 12, 7, 4]
FPS = 10
SIZE = (32, 48)
CAMERAS = {'top': 0, 'wrist': 100}
JOINTS = ['shoulder.pos', 'elbow.pos', 'gripper.pos']
OLD_PLACE = 'chunk-{episode_chunk:03d}/episode_{episode_index:06d}'
CONFIG = DataConfig(encoder='hashed-ngrams/1', camera='top', shuffle_episodes=3)


def action(episode: int, step: int) -> np.ndarray:
  return np.float32([episode, step / 10, step % 2])


def grey(episode: int, step: int, camera: str = 'top') -> int:
  return 20 + 15 * episode + step + CAMERAS[camera]


def task(episode: int) -> str:
  return f'task {episode % 2}'


def image(episode: int, step: int, camera: str = 'top') -> np.ndarray:
  return np.full((*SIZE, 3), grey(episode, step, camera), np.uint8)


def write_video(path: pathlib.Path, frames: Sequence[np.ndarray], **options: str) -> None:
  import av
  path.parent.mkdir(parents=True, exist_ok=True)
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('libx264', rate=FPS, options={'crf': '5', 'g': '4', 'bf': '2'} | options)
    stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], 'yuv420p'
    for frame in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
    container.mux(stream.encode())


def write(folder: pathlib.Path, version: str = 'v3.0', kind: str = 'video', lengths: Sequence[int] = LENGTHS,
          names: Any = None) -> pathlib.Path:
  """Write a dataset; in version 3 three episodes share each file."""
  episodes = list(enumerate(lengths))
  groups = [episodes[i:i + 3] for i in range(0, len(episodes), 3)] if version == 'v3.0' else [[e] for e in episodes]
  rows: list[dict[str, Any]] = []
  total = 0
  for file, group in enumerate(groups):
    place = f'chunk-000/file-{file:03d}' if version == 'v3.0' else f'chunk-000/episode_{file:06d}'
    tables, start = [], 0
    for number, length in group:
      tables.append(_table(number, length, total, kind))
      row = {'episode_index': number, 'tasks': [task(number)], 'length': length}
      if version == 'v3.0':
        row |= {'data/chunk_index': 0, 'data/file_index': file, 'dataset_from_index': total,
                'dataset_to_index': total + length}
        for camera in CAMERAS if kind == 'video' else ():
          key = f'videos/observation.images.{camera}'
          row |= {f'{key}/chunk_index': 0, f'{key}/file_index': file, f'{key}/from_timestamp': start / FPS,
                  f'{key}/to_timestamp': (start + length) / FPS}
      rows.append(row)
      total, start = total + length, start + length
    data = folder / f'data/{place}.parquet'
    data.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(data, tables[0].schema) as writer:
      for table in tables:
        writer.write_table(table)
    for camera in CAMERAS if kind == 'video' else ():
      frames = [image(number, t, camera) for number, length in group for t in range(length)]
      key = f'observation.images.{camera}'
      path = f'videos/{key}/{place}.mp4' if version == 'v3.0' else f'videos/chunk-000/{key}/{place[10:]}.mp4'
      write_video(folder / path, frames)
  _write_meta(folder, version, kind, rows, total, names if names is not None else JOINTS)
  return folder


def _table(number: int, length: int, first: int, kind: str) -> pa.Table:
  def vectors(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])

  steps = np.arange(length)
  actions = np.stack([action(number, t) for t in steps])
  columns = {'action': vectors(actions), 'observation.state': vectors(2 * actions),
             'timestamp': pa.array((steps / FPS).astype(np.float32)), 'frame_index': pa.array(steps),
             'episode_index': pa.array(np.full(length, number)), 'index': pa.array(first + steps),
             'task_index': pa.array(np.full(length, number % 2))}
  for camera in CAMERAS if kind == 'image' else ():
    columns[f'observation.images.{camera}'] = pa.array(
        [{'bytes': _png(image(number, t, camera)), 'path': f'frame-{t:06d}.png'} for t in steps])
  return pa.table(columns)


def _png(pixels: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


def _write_meta(folder: pathlib.Path, version: str, kind: str, rows: list[dict[str, Any]], total: int, names: Any
                ) -> None:
  def number(dtype: str, size: int, names: Any = None) -> dict[str, Any]:
    return {'dtype': dtype, 'shape': [size], 'names': names}

  features = {'action': number('float32', 3, names), 'observation.state': number('float32', 3),
              'timestamp': number('float32', 1)}
  features |= {key: number('int64', 1) for key in ('frame_index', 'episode_index', 'index', 'task_index')}
  features |= {f'observation.images.{camera}': {
      'dtype': kind, 'shape': [*SIZE, 3], 'names': ['height', 'width', 'channels']} for camera in CAMERAS}
  new = version == 'v3.0'
  place = 'chunk-{chunk_index:03d}/file-{file_index:03d}'
  info = {
      'codebase_version': version, 'robot_type': 'arm', 'total_episodes': len(rows), 'total_frames': total,
      'chunks_size': 1000, 'fps': FPS, 'splits': {'train': f'0:{len(rows)}'}, 'features': features,
      'data_path': f'data/{place}.parquet' if new else f'data/{OLD_PLACE}.parquet',
      'video_path': 'videos/{video_key}/' + place + '.mp4' if new else
                    'videos/' + OLD_PLACE.replace('/', '/{video_key}/') + '.mp4'}
  meta = folder / 'meta'
  meta.mkdir()
  (meta / 'info.json').write_text(json.dumps(info))
  tasks = [{'task_index': i, 'task': task(i)} for i in range(2)]
  if new:
    (meta / 'episodes/chunk-000').mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), meta / 'episodes/chunk-000/file-000.parquet')
    pq.write_table(pa.table({'task_index': [0, 1], '__index_level_0__': [t['task'] for t in tasks]}),
                   meta / 'tasks.parquet')
  else:
    for file, lines in (('episodes', rows), ('tasks', tasks)):
      (meta / f'{file}.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))


def change_info(folder: pathlib.Path, **changed: Any) -> None:
  """Change entries of meta/info.json."""
  path = folder / 'meta/info.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changed))
