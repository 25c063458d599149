"""Benchmark of the input pipeline against bare decoding.

    python bench/input_pipeline.py                       # generated 256x320 JPEG episodes in a temporary folder
    python bench/input_pipeline.py --dataset FOLDER      # any dataset that rtjax has an adapter for

Both decode the same images with the same number of threads. At a stride of T each frame is decoded once per epoch, so
that `ratio`, of the frames per second, is 1 for a pipeline without overhead. Both are measured alternately, `--repeats`
times; medians are printed, as one JSON line. `cpu_ratio` is the ratio of CPU times per frame, which other programs on
the machine disturb less.
"""
import argparse
import concurrent.futures
import itertools
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from rtjax import actions, data
from rtjax.data import images
from rtjax.data.rlds.episodes import Dataset
from rtjax.data.tf import tfds

_HEIGHT, _WIDTH = 256, 320


def main() -> None:
  parser = argparse.ArgumentParser(description='Benchmark of the input pipeline: one JSON line.')
  parser.add_argument('--dataset', help='folder or TFDS name; without it, episodes are generated')
  parser.add_argument('--split', default='train')
  parser.add_argument('--action-spec', default='arm7d', choices=sorted(actions.SPECS))
  parser.add_argument('--window', type=int, default=6, help='frames of a window, and stride')
  parser.add_argument('--batch', type=int, default=32)
  parser.add_argument('--threads', type=int, default=0, help='decoding threads; 0: one per core')
  parser.add_argument('--seconds', type=float, default=2, help='of each measurement')
  parser.add_argument('--repeats', type=int, default=10)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    print(json.dumps(measure(options.dataset or generate_episodes(folder), options)))


def measure(name: str, options: argparse.Namespace) -> dict[str, object]:
  spec = actions.get(options.action_spec)
  dataset = Dataset(name, options.split, spec)
  episodes = min(dataset.num_records, 256)
  config = data.DataConfig(split=f'{options.split}[:{episodes}]', stride=options.window, threads=options.threads,
                           shuffle_episodes=episodes // 2 + 1)  # two groups, so that reading never pauses
  stored = [image for e in itertools.islice(dataset.read(dataset.chunks(64)), 64) for image in e.images]
  bare, streamed = [], []
  with data.TrainingStream([name], config, spec, window=options.window, horizon=1, batch_size=options.batch,
                           seed=0) as stream:
    for _ in range(options.repeats):
      bare.append(decoding(images.decode_image, stored, config.num_threads(), options.seconds))
      streamed.append(streaming(stream, options.seconds))
  frames, bare_frames = median(s['frames'] for s in streamed), median(b['frames'] for b in bare)
  return {
      'benchmark': 'input_pipeline', 'dataset': options.dataset or 'generated',
      'image': [*(dataset.image_size or ()), 3], 'bytes_per_image': round(statistics.mean(map(len, stored))),
      'window': options.window, 'batch': options.batch, 'threads': config.num_threads(),
      'windows_per_second': median(s['windows'] for s in streamed), 'frames_per_second': frames,
      'bare_frames_per_second': bare_frames,
      'ratio': median((s['frames'] / b['frames'] for s, b in zip(streamed, bare, strict=True)), 3),
      'cpu_ratio': median((b['cpu'] / s['cpu'] for s, b in zip(streamed, bare, strict=True)), 3)}


def median(values: Iterable[float], digits: int = 1) -> float:
  return round(statistics.median(values), digits)


def decoding(decode: Callable[[bytes], object], stored: list[bytes], threads: int, seconds: float) -> dict[str, float]:
  """Measure bare decoding: images per second, CPU seconds per image."""
  cpu, start = time.process_time(), time.perf_counter()

  def work(part: int) -> int:
    encoded = itertools.cycle(stored[part::threads])
    done = 0
    while time.perf_counter() < start + seconds:
      decode(next(encoded))
      done += 1
    return done

  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    frames = sum(pool.map(work, range(threads)))
  return {'frames': frames / (time.perf_counter() - start), 'cpu': (time.process_time() - cpu) / frames}


def streaming(stream: data.TrainingStream, seconds: float) -> dict[str, float]:
  """Measure the stream: frames and windows per second, CPU per frame."""
  frames = windows = 0
  for _ in range(2):  # prefetched before the measurement
    next(stream)
  cpu, start = time.process_time(), time.perf_counter()
  while time.perf_counter() < start + seconds:
    batch = next(stream)
    frames += int(batch['frame_mask'].sum())  # without padding
    windows += len(batch['frame_mask'])
  elapsed = time.perf_counter() - start
  return {'frames': frames / elapsed, 'windows': windows / elapsed, 'cpu': (time.process_time() - cpu) / frames}


def generate_episodes(folder: str, episodes: int = 48, length: int = 38) -> str:
  """Write episodes with JPEG images of about 30 kB, as RT-1's own."""
  rng = np.random.default_rng(0)
  noise = [noise_image(rng) for _ in range(16)]

  def steps(number: int) -> list[dict[str, object]]:
    embedding = rng.normal(size=512).astype(np.float32)
    shifts = np.cumsum(rng.integers(-3, 4, (length, 2)), 0)
    return [{'action': rng.uniform(-0.02, 0.02, 7).astype(np.float32),
             'observation': {'image_0': np.roll(noise[number % len(noise)], shift, (0, 1)),
                             'state': rng.normal(size=7).astype(np.float32)},
             'language_instruction': 'pick up the red cube', 'language_embedding': embedding,
             'is_last': t == length - 1} for t, shift in enumerate(shifts)]

  vector = tfds.features.Tensor(shape=(7,), dtype=np.float32)
  features = tfds.features.FeaturesDict({'steps': tfds.features.Dataset({
      'action': vector, 'observation': {
          'image_0': tfds.features.Image(shape=(_HEIGHT, _WIDTH, 3), encoding_format='jpeg'), 'state': vector},
      'language_instruction': tfds.features.Text(),
      'language_embedding': tfds.features.Tensor(shape=(512,), dtype=np.float32), 'is_last': np.bool_})})
  builder = tfds.dataset_builders.store_as_tfds_dataset(
      'bridge_dataset', '1.0.0', features, {'train': ((i, {'steps': steps(i)}) for i in range(episodes))},
      data_dir=folder, download_config=tfds.download.DownloadConfig(num_shards=4))
  return str(builder.data_dir)


def noise_image(rng: np.random.Generator) -> np.ndarray:
  """Return noise of four scales, uint8 [H, W, 3]."""
  total = np.full((_HEIGHT, _WIDTH, 3), 128.0)
  for cells, strength in ((4, 80), (16, 40), (64, 20), (128, 8)):
    for channel in range(3):
      noise = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
      total[..., channel] += strength * np.asarray(noise.resize((_WIDTH, _HEIGHT), Image.Resampling.BILINEAR))
  return np.clip(total, 0, 255).astype(np.uint8)


if __name__ == '__main__':
  main()
