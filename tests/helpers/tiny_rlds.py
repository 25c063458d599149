"""Tiny RLDS datasets in bridge_dataset's layout, whose numbers encode episode and step."""
import json
import pathlib
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rtjax import actions
from rtjax.data import DataConfig, TrainingStream
from rtjax.data.rlds.episodes import Dataset
from rtjax.data.windows import WindowConfig, window_ends

IMAGE = (8, 10, 3)
LENGTHS = [3, 7, 1, 12, 5, 9, 2, 4, 6, 8, 11, 10, 1, 2, 3, 14, 5, 6, 7, 2]


def action(episode: int, step: int) -> np.ndarray:
  return np.float32([episode * 1e-3, step * 1e-3, 0, 0, 0, 0, step % 2])


def image(episode: int, step: int, shape: tuple[int, int, int] = IMAGE) -> np.ndarray:
  return np.broadcast_to(np.uint8([episode, step, 255]), shape)


def embedding(episode: int, step: int) -> np.ndarray:
  return np.full(512, episode + step / 100, np.float32)


def features(image_feature: Any = None) -> tfds.features.FeaturesDict:
  image_feature = image_feature or tfds.features.Image(shape=IMAGE, encoding_format='png')
  return tfds.features.FeaturesDict({'steps': tfds.features.Dataset({
      'action': tfds.features.Tensor(shape=(7,), dtype=np.float32),
      'observation': {'image_0': image_feature, 'state': tfds.features.Tensor(shape=(2,), dtype=np.float32)},
      'language_instruction': tfds.features.Text(),
      'language_embedding': tfds.features.Tensor(shape=(512,), dtype=np.float32),
      'is_last': np.bool_,
  })})


def steps(episode: int, length: int, shape: tuple[int, int, int] = IMAGE, **changed: Any) -> list[dict[str, Any]]:
  """Return the steps of one episode; `changed` replaces top-level entries of each."""
  return [{
      'action': action(episode, t), 'observation': {'image_0': image(episode, t, shape), 'state': [episode, t]},
      'language_instruction': f'task {episode}', 'language_embedding': embedding(episode, t),
      'is_last': t == length - 1} | changed for t in range(length)]


def write(folder: pathlib.Path, episodes: Sequence[list[dict[str, Any]]], *, shards: int = 1, split: str = 'train',
          layout: tfds.features.FeaturesDict | None = None, name: str = 'bridge_dataset') -> str:
  """Write episodes in this order, and return the dataset's folder."""
  builder = tfds.dataset_builders.store_as_tfds_dataset(
      name, '1.0.0', layout or features(), {split: [(i, {'steps': e}) for i, e in enumerate(episodes)]},
      data_dir=folder, disable_shuffling=True, download_config=tfds.download.DownloadConfig(num_shards=shards))
  return str(builder.data_dir)


def write_lengths(folder: pathlib.Path, lengths: Sequence[int], shards: int = 1, **options: Any) -> str:
  return write(folder, [steps(i, length) for i, length in enumerate(lengths)], shards=shards, **options)


def changed(dataset: str, folder: pathlib.Path, file: str, change: Callable[[Any], object]) -> str:
  """Copy a dataset into `folder`, with one JSON file changed in place by `change`."""
  copy = pathlib.Path(shutil.copytree(dataset, folder / 'data'))
  content = json.loads((copy / file).read_text())
  change(content)
  (copy / file).write_text(json.dumps(content))
  return str(copy)


def step_features(content: dict[str, Any]) -> dict[str, Any]:
  """Return the features of steps in the content of a features.json."""
  return content['featuresDict']['features']['steps']['sequence']['feature']['featuresDict']['features']


def read(dataset: str) -> list[Any]:
  return list(Dataset(dataset, 'train', actions.ARM_7D).read_all())


def stream(datasets: str | list[str], config: DataConfig | None = None, **options: Any) -> TrainingStream:
  """Return a training stream of small batches."""
  options = {'window': 4, 'horizon': 1, 'batch_size': 8, 'seed': 0} | options
  return TrainingStream([datasets] if isinstance(datasets, str) else datasets, config or DataConfig(shuffle_episodes=6),
                        actions.ARM_7D, **options)


def draw(datasets, count, **options):
  """Return the first `count` windows of a stream as (episode, end)."""
  with stream(datasets, batch_size=1, **options) as opened:
    return [windows_of(next(opened))[0] for _ in range(count)]


def all_windows(config=None, lengths=LENGTHS):
  """Return all windows of a dataset in order as (episode, end)."""
  return [(i, int(end)) for i, length in enumerate(lengths) for end in window_ends(length, config or WindowConfig(4))]


def own_threads():
  """Names of the pipeline's running threads."""
  return [t.name for t in threading.enumerate() if t.name.startswith('rtjax')]


def windows_of(batch):
  """Return the windows of a batch as (episode, end)."""
  return list(zip(batch['episodes'].tolist(), batch['steps'].tolist(), strict=True))
