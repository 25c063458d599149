"""ActionSpec and adapter of a LeRobot dataset."""
from collections.abc import Mapping
from typing import Any

import numpy as np

from rtjax.actions import ActionField, ActionSpec
from rtjax.data import bounds
from rtjax.data.lerobot import parquet
from rtjax.data.lerobot.metadata import Metadata, load
from rtjax.data.rlds import adapters
from rtjax.data.rlds.adapter import Adapter
from rtjax.runtime.numbers import unusable

TASK = 'task'
"""Name under which an adapter finds the instruction of each step."""


def recorded_spec(name: str) -> ActionSpec:
  """Return the ActionSpec of a dataset.

  It is the one that rtjax.data.convert wrote. For others, there is a field for each named number of `action`, and at
  most 0.1 % of the steps lie beyond each bound; `rate` is the dataset's.

  Raises:
    FileNotFoundError, ValueError: the dataset cannot be read.
  """
  metadata = load(name)
  stored = adapters.stored_spec(metadata.own)
  if stored:
    return stored
  paths = sorted({row.data for row in metadata.episodes})
  size = action_size(metadata)
  values = np.concatenate([parquet.numbers(parquet.read(metadata.path(path), ['action'])['action'], size,
                                           f'{name}: action in {path}') for path in paths]).astype(np.float32)
  if unusable(values).any():
    row, number = np.argwhere(unusable(values))[0]
    raise ValueError(f'{name}: action {number} of row {row} is {values[row, number]:g}. Expected finite numbers of '
                     'sensible size. Fix or remove the episode.')
  return bounds.from_quantiles(_widest(field_sizes(metadata), values, metadata.fps), [values])


def _widest(fields: Mapping[str, int], values: np.ndarray, rate: float) -> ActionSpec:
  low, high = values.min(0).astype(float), values.max(0).astype(float)
  low, high = np.where(low < high, (low, high), (low - 1, high + 1))
  ends = np.cumsum(list(fields.values()))
  return ActionSpec(tuple(
      ActionField(name, size, tuple(low[end - size:end].tolist()), tuple(high[end - size:end].tolist()))
      for (name, size), end in zip(fields.items(), ends, strict=True)), rate=rate)


def action_size(metadata: Metadata) -> int:
  """Return the count of numbers of an action.

  Raises:
    ValueError: the dataset has no feature `action`.
  """
  if 'action' not in metadata.features:
    raise ValueError(f"{metadata.folder}: there is no feature 'action', it has {sorted(metadata.features)}.")
  return int(np.prod(metadata.shape('action')))


def field_sizes(metadata: Metadata) -> dict[str, int]:
  """Return the fields of an action and their sizes.

  There is one for each name, or 'action' without usable names.
  """
  size, names = action_size(metadata), metadata.features['action'].get('names')
  flat = _flat(names)
  return dict.fromkeys(flat, 1) if len(flat) == len(set(flat)) == size else {'action': size}


def _flat(names: Any) -> list[str]:
  """Return the names in a list, in groups, or by place."""
  if isinstance(names, dict):
    if all(isinstance(place, int) for place in names.values()):
      return sorted(names, key=names.__getitem__)
    return [name for group in names.values() for name in _flat(group)]
  return [str(name) for name in names] if isinstance(names, list) else []


def adapter(metadata: Metadata) -> Adapter:
  """Return the user's adapter, or one by the features."""
  found = adapters.registered(metadata.name, [*metadata.features, TASK])
  if found:
    return found
  spec = adapters.stored_spec(metadata.own)
  sizes = {field.name: field.size for field in spec.fields} if spec else field_sizes(metadata)
  cameras = dict(metadata.cameras)
  main = cameras.pop('image', None) or (next(iter(cameras.values())) if len(cameras) == 1 else '')
  return Adapter(metadata.name, adapters.by_sizes(sizes), image=main, instruction=TASK, embedding=None, views=cameras,
                 proprioception='observation.state' if 'observation.state' in metadata.features else None)

