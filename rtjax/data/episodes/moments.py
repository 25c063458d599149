"""Exact moments and quantiles of float32 numbers, from parts in any order.

A sum is an integer, so that it does not depend on the order of its terms; it is rounded once, at the end. Quantiles
take two passes: the first counts the numbers by the upper half of their bits, the second by all bits, but only those
near a wanted rank.
"""
import collections
import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np

# Of float64: the least exponent of `frexp` is -1073, and a fraction has 53 bits.
_BITS, _UNIT = 53, 1073 + 53

Counts = list['collections.Counter[int]']
"""Numbers of each column, by their first or by all bits as an integer of the same order."""


@dataclasses.dataclass(frozen=True)
class Moments:
  """Sums over the rows of [n, A] numbers.

  Attributes:
    count: n.
    sums, squares: int [A] (object), in units of 2**-1126.
    low, high: float32 [A].
  """
  count: int
  sums: np.ndarray
  squares: np.ndarray
  low: np.ndarray
  high: np.ndarray

  @classmethod
  def of(cls, values: np.ndarray, repeats: np.ndarray | None = None) -> 'Moments':
    """Return those of float32 [n, A], n > 0; each row counts `repeats` times."""
    repeats = np.ones(len(values), np.int64) if repeats is None else repeats
    wide = values.astype(np.float64)  # which holds the square of a float32 exactly
    return cls(int(repeats.sum()), _sums(wide, repeats), _sums(wide ** 2, repeats), values.min(0), values.max(0))

  def __add__(self, other: 'Moments') -> 'Moments':
    return Moments(self.count + other.count, self.sums + other.sums, self.squares + other.squares,
                   np.minimum(self.low, other.low), np.maximum(self.high, other.high))

  @property
  def mean(self) -> list[float]:
    return [total / (self.count << _UNIT) for total in self.sums]

  @property
  def std(self) -> list[float]:
    # Integers: a difference of nearly equal squares loses nothing.
    return [math.sqrt((self.count * (squares << _UNIT) - total ** 2) / (self.count ** 2 << 2 * _UNIT))
            for total, squares in zip(self.sums, self.squares, strict=True)]


def _sums(values: np.ndarray, repeats: np.ndarray) -> np.ndarray:
  """Return the sums of the columns of float64 [n, A]: int [A] (object)."""
  fractions, exponents = np.frexp(values)
  whole = np.ldexp(fractions, _BITS).astype(np.int64)
  total = np.zeros(values.shape[1], object)
  for exponent in np.unique(exponents):
    chosen = np.where(exponents == exponent, whole, 0)
    # In halves, of which 2**31 can be added in 64 bits.
    upper, lower = (repeats @ part for part in (chosen >> 32, chosen & 0xffffffff))
    total += (upper.astype(object) * 2 ** 32 + lower.astype(object)) * 2 ** (int(exponent) - _BITS + _UNIT)
  return total


def merge(counts: Iterable[Counts]) -> Counts:
  """Add the counts of parts, column by column."""
  def add(a: 'collections.Counter[int]', b: 'collections.Counter[int]') -> 'collections.Counter[int]':
    a.update(b)
    return a

  return [functools.reduce(add, columns, collections.Counter()) for columns in zip(*counts, strict=True)]


def coarse(values: np.ndarray) -> Counts:
  """Count float32 [n, A] by the upper 16 bits."""
  return [_count(column >> 16) for column in _keys(values).T]


def fine(values: np.ndarray, near: Sequence[dict[int, int]]) -> Counts:
  """Count float32 [n, A] near the ranks by all bits.

  Args:
    near: of each column, the result of `near`.
  """
  return [_count(column[np.isin(column >> 16, list(bins))]) for column, bins in zip(_keys(values).T, near, strict=True)]


def near(counts: Counts, ranks: Iterable[int]) -> list[dict[int, int]]:
  """Return the coarse bins with the ranks: {bin: numbers below it}."""
  return [{bin: begin for bin, begin, end in _spans(column) if any(begin <= rank < end for rank in ranks)}
          for column in counts]


def at_ranks(counts: Counts, near: Sequence[dict[int, int]], ranks: Iterable[int]) -> dict[int, np.ndarray]:
  """Return the number of each rank in each column, float32 [A].

  Args:
    counts: result of `fine`.
    near: its argument.
    ranks: places in ascending order, from 0.
  """
  def column(counted: 'collections.Counter[int]', bins: dict[int, int]) -> dict[int, float]:
    spans = [span for bin, below in bins.items() for span in _spans({key: n for key, n in counted.items()
                                                                     if key >> 16 == bin}, below)]
    return {rank: _number(key) for rank in ranks for key, begin, end in spans if begin <= rank < end}

  found = [column(*both) for both in zip(counts, near, strict=True)]
  return {rank: np.array([numbers[rank] for numbers in found], np.float32) for rank in ranks}


def quantile_ranks(count: int, share: float) -> tuple[int, int]:
  """Return the ranks on both sides of a quantile of `count` numbers."""
  return math.floor(share * (count - 1)), math.ceil(share * (count - 1))


def quantile(numbers: dict[int, np.ndarray], count: int, share: float) -> list[float]:
  """Interpolate a quantile between the numbers of its ranks."""
  low, high = (numbers[rank].astype(np.float64) for rank in quantile_ranks(count, share))
  return (low + (high - low) * (share * (count - 1) % 1)).tolist()


def _spans(counted: dict[int, int], begin: int = 0) -> Iterable[tuple[int, int, int]]:
  """Yield keys in order with their first rank and their end."""
  for key in sorted(counted):
    yield key, begin, (begin := begin + counted[key])


def _count(keys: np.ndarray) -> 'collections.Counter[int]':
  found, counts = np.unique(keys, return_counts=True)
  return collections.Counter(dict(zip(found.tolist(), counts.tolist(), strict=True)))


def _keys(values: np.ndarray) -> np.ndarray:
  """Return integers in the order of float32 numbers, from their bits."""
  bits = (values + np.float32(0)).view(np.int32).astype(np.int64)  # the sum makes -0 to 0
  return np.where(bits < 0, -(bits & 0x7fffffff), bits)


def _number(key: int) -> float:
  return math.copysign(1, key) * float(np.int32(abs(key)).view(np.float32))
