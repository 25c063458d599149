"""Tiny robot logs of the same episodes in each layout."""
import csv
import io
import pathlib
from typing import Any

import h5py
import numpy as np
from PIL import Image

from rtjax.data.convert import logs
from rtjax.data.convert.episode import LoggedEpisode, read_episode
from rtjax.data.convert.options import Options

HEIGHT, WIDTH = 12, 16


def episode(number: int, length: int = 6) -> dict[str, Any]:
  """Return the arrays of a valid episode."""
  draw = np.random.default_rng(number)
  action = draw.uniform(-0.02, 0.02, (length, 7)).astype(np.float32)
  action[:, 6] = np.arange(length) >= length // 2
  return {
      'images': draw.integers(0, 256, (length, HEIGHT, WIDTH, 3), np.uint8), 'action': action,
      'state': draw.normal(size=(length, 7)).astype(np.float32), 'instruction': f'take object {number}',
      'timestamp': 100 + 0.2 * np.arange(length)}


def encoded(pixels: np.ndarray, form: str = 'png') -> bytes:
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, form)
  return buffer.getvalue()


def write_npz(folder: pathlib.Path, episodes: dict[str, dict[str, Any]]) -> pathlib.Path:
  folder.mkdir(parents=True, exist_ok=True)
  for name, arrays in episodes.items():
    np.savez(folder / f'{name}.npz', **arrays)
  return folder


def write_hdf5(folder: pathlib.Path, episodes: dict[str, dict[str, Any]]) -> pathlib.Path:
  """Write a file per episode, with encoded images and instruction attribute."""
  folder.mkdir(parents=True, exist_ok=True)
  for name, arrays in episodes.items():
    with h5py.File(folder / f'{name}.hdf5', 'w') as file:
      images = [np.frombuffer(encoded(pixels), np.uint8) for pixels in arrays['images']]
      camera = file.create_dataset('observations/images/front', len(images), h5py.vlen_dtype(np.uint8))
      for step, image in enumerate(images):
        camera[step] = image
      file['observations/pose'] = arrays['state']
      file['action'], file['timestamp'] = arrays['action'], arrays['timestamp']
      file.attrs['task'] = arrays['instruction']
  return folder


HDF5_KEYS = ['--image', 'observations/images/front', '--state', 'observations/pose', '--instruction', '@task']


def write_hdf5_groups(path: pathlib.Path, episodes: dict[str, dict[str, Any]]) -> pathlib.Path:
  """One file, a group for each episode, as robomimic has them."""
  with h5py.File(path, 'w') as file:
    file['mask/train'] = np.array([b'demo_0'])
    for name, arrays in episodes.items():
      group = file.create_group(f'data/{name}')
      group['obs/front'], group['obs/pose'] = arrays['images'], arrays['state']
      group['actions'], group['timestamp'] = arrays['action'], arrays['timestamp']
      group['language'] = arrays['instruction']
  return path


GROUP_KEYS = ['--image', 'obs/front', '--state', 'obs/pose', '--instruction', 'language', '--action', 'actions']


def write_folders(folder: pathlib.Path, episodes: dict[str, dict[str, Any]]) -> pathlib.Path:
  """A folder per episode: images, steps.csv and instruction.txt."""
  for name, arrays in episodes.items():
    inside = folder / name
    inside.mkdir(parents=True)
    for step, pixels in enumerate(arrays['images']):
      (inside / f'{step:06d}.png').write_bytes(encoded(pixels))
    (inside / 'instruction.txt').write_text(arrays['instruction'] + '\n')
    columns = {f'action_{axis}': arrays['action'][:, i] for i, axis in enumerate(
        ('x', 'y', 'z', 'roll', 'pitch', 'yaw', 'gripper'))}
    columns |= {f'state[{i}]': arrays['state'][:, i] for i in range(7)} | {'timestamp': arrays['timestamp']}
    with (inside / 'steps.csv').open('w', newline='') as file:
      table = csv.writer(file)
      table.writerow(columns)
      table.writerows(zip(*columns.values(), strict=True))
  return folder


def read_first(path: pathlib.Path, **options: Any) -> LoggedEpisode:
  """Read the first episode of logs."""
  chosen = Options(path, task='x', **options)
  return read_episode(logs.find_logs(path, 'action')[0], chosen, chosen.spec())
