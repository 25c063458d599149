"""Features of RLDS steps: their types, and their arrays in a record."""
from collections.abc import Iterator
from typing import Any

import numpy as np

from rtjax.data.tf import tfds
from rtjax.runtime import limits


def leaves(feature: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
  """Yield path and feature of each leaf of a step."""
  if isinstance(feature, tfds.features.FeaturesDict):
    for key, value in feature.items():
      yield from leaves(value, (*path, key))
  else:
    yield '/'.join(path), feature


def nest(flat: dict[str, Any]) -> dict[str, Any]:
  """Return nested dicts of what stands under '/'-separated paths."""
  nested: dict[str, Any] = {}
  for path, value in flat.items():
    *folders, leaf = path.split('/')
    inner = nested
    for key in folders:
      inner = inner.setdefault(key, {})
    inner[leaf] = value
  return nested


def describe(feature: Any) -> str:
  """Type and shape of a feature, such as 'float32 [7]'."""
  if dtype_kind(feature) == 'O' or feature.shape is None:
    return 'text'
  return f'{np.dtype(feature.np_dtype).name} {[size or "any" for size in feature.shape]}'.replace("'", '')


def dtype_kind(feature: Any) -> str:
  """NumPy's letter for the dtype of a feature; 'O' for text."""
  return np.dtype(feature.np_dtype).kind


def parse(stored: Any, feature: Any) -> np.ndarray:
  """One feature of an episode, [steps, ...]; images and texts stay bytes."""
  kind = stored.WhichOneof('kind')
  values = getattr(stored, kind).value if kind else []
  if isinstance(feature, tfds.features.Image):
    return np.array(values, object)
  if kind == 'bytes_list' and dtype_kind(feature) != 'O':  # a tensor that TFDS stored as bytes or compressed
    if getattr(feature, '_encoding', None) == tfds.features.Encoding.ZLIB:
      for value in values:
        limits.check_inflated(value, limits.array_bytes(feature.shape, feature.np_dtype))
    values = [feature.decode_example_np(value) for value in values]
  return np.array(values, feature.np_dtype).reshape(-1, *feature.shape)


def at(steps: dict[str, Any], path: str) -> Any:
  """Return the entry of nested dicts at a path."""
  for key in path.split('/'):
    steps = steps[key]
  return steps
