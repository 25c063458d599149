"""Feature structures of public RLDS datasets in the layout of kpertsch/rlds_dataset_builder, and of others' own."""
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

Values = Mapping[str, Any]
"""Features of one step by path: arrays, uint8 [H, W, 3] images, texts, booleans."""


def write(folder: pathlib.Path, name: str, steps: int, step: Callable[[int], Values], count: int = 1) -> str:
  """Write `count` equal episodes whose step t is `step(t)`; the types of step 0 are those of the features."""
  features = tfds.features.FeaturesDict({'steps': tfds.features.Dataset(_nest(step(0), _feature))})
  episode = {'steps': [_nest(step(t), lambda value: value) for t in range(steps)]}
  builder = tfds.dataset_builders.store_as_tfds_dataset(
      name, '1.0.0', features, {'train': [(i, episode) for i in range(count)]}, data_dir=folder, disable_shuffling=True)
  return str(builder.data_dir)


def _nest(values: Values, convert: Callable[[Any], Any]) -> dict[str, Any]:
  """Nest by the first folder alone, since TFDS's names may hold a '/' themselves."""
  nested: dict[str, Any] = {}
  for path, value in values.items():
    folder, _, leaf = path.partition('/')
    if leaf:
      nested.setdefault(folder, {})[leaf] = convert(value)
    else:
      nested[folder] = convert(value)
  return nested


def _feature(value: Any) -> Any:
  if isinstance(value, str | bytes):
    return tfds.features.Text()
  array = np.asarray(value)
  if array.dtype == np.uint8 and array.ndim == 3:
    return tfds.features.Image(shape=array.shape, encoding_format='jpeg')
  return tfds.features.Tensor(shape=array.shape, dtype=array.dtype)
