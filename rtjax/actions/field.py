"""One field of an action: its numbers, bounds and tokens."""
import dataclasses
from typing import Literal

import jax
import numpy as np

Array = jax.Array | np.ndarray

MOST_NUMBERS, MOST_BINS = 1024, 2 ** 13
"""Bounds of an ActionSpec, which may be of a stranger's dataset: tables of bins times bins are made from it."""


@dataclasses.dataclass(frozen=True)
class ActionField:
  """One named part of an action.

  Attributes:
    name: key in action dicts.
    size: count of numbers; for `classes` one per class (one-hot).
    low, high: bounds of each number, in `unit`; a single number applies to all. Unused for `classes`.
    bins: tokens that a number can take (`continuous`), or count of classes (`classes`).
    kind: 'continuous' or 'classes'.
    unit: for reports ('m', 'rad', '').
    frame: coordinate frame of the numbers ('base', 'gripper', ...).
    mirror: factor of each number when the image is mirrored left to right; a single number applies to all.
    fallback: class that a token beyond the classes decodes to (`classes` only).
  """
  name: str
  size: int
  low: float | tuple[float, ...] = -1.0
  high: float | tuple[float, ...] = 1.0
  bins: int = 256
  kind: Literal['continuous', 'classes'] = 'continuous'
  unit: str = ''
  frame: str = ''
  mirror: float | tuple[float, ...] = 1.0
  fallback: int = 0

  def __post_init__(self):
    for key, value, least, most in (('size', self.size, 1, MOST_NUMBERS), ('bins', self.bins, 2, MOST_BINS)):
      if not least <= value <= most:
        raise ValueError(f'ActionField {self.name!r}: {key} is {value}, expected {least} to {most}.')
    for key in ('low', 'high', 'mirror'):
      value = getattr(self, key)
      value = tuple(map(float, value)) if isinstance(value, (tuple, list)) else (float(value),) * self.size
      if len(value) != self.size:
        raise ValueError(f'ActionField {self.name!r}: {key} has {len(value)} numbers, size is {self.size}.')
      object.__setattr__(self, key, value)
    if self.kind not in ('continuous', 'classes'):
      raise ValueError(f"ActionField {self.name!r}: kind is {self.kind!r}, expected 'continuous' or 'classes'.")
    if not np.isfinite((self.low, self.high, self.mirror)).all():
      raise ValueError(f'ActionField {self.name!r}: low {self.low}, high {self.high} and mirror {self.mirror} must be '
                       'finite numbers.')
    with np.errstate(over='ignore'):
      low, high = np.array((self.low, self.high)).astype(np.float32)
    if self.kind == 'continuous' and not (np.all(low < high) and np.isfinite((low, high)).all()):
      raise ValueError(f'ActionField {self.name!r}: low {self.low} must be below high {self.high}, also in float32.')
    if self.kind == 'classes' and self.bins != self.size:
      raise ValueError(f'ActionField {self.name!r}: {self.bins} classes need as many numbers, size is {self.size}.')
    if not 0 <= self.fallback < self.bins:
      raise ValueError(f'ActionField {self.name!r}: fallback is {self.fallback}, expected a class, 0 to '
                       f'{self.bins - 1}.')

  @property
  def num_tokens(self) -> int:
    return 1 if self.kind == 'classes' else self.size


def classes(name: str, count: int, fallback: int = 0) -> ActionField:
  """Return a field of `count` exclusive classes, one-hot in the raw action."""
  return ActionField(name, count, 0.0, 1.0, count, 'classes', fallback=fallback)
