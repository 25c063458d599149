"""Checks of recorded numbers: not usable ones, and steps that do nothing."""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.runtime.numbers import unusable

LEAST_FAR = 1e4
"""Numbers that rarely change, and whose unit is unknown, may leap so far."""
MIDDLE = (0.02, 0.98)
"""Shares of the numbers below the middle 96 %, and below its end."""
_FAR = 1000


@dataclasses.dataclass(frozen=True, order=True)
class FarNumber:
  """The first absurd number of a column.

  Attributes:
    episode: its name or number.
    step: its step.
    value: the number.
    count: such numbers in the column.
  """
  episode: Any
  step: int
  value: float
  count: int


def far_numbers(episodes: Mapping[Any, np.ndarray], names: Sequence[str],
                least: float | np.ndarray = LEAST_FAR) -> list[str]:
  """Describe the first absurd number of each column.

  It is beyond the middle 96 % by more than 1000 times their range, and by more than `least`. Numbers that are
  `unusable` are left out.

  Args:
    episodes: [steps, n] of each, by its name or number.
    names: of the columns.
    least: a number, or one for each column.
  """
  if not any(map(len, episodes.values())):
    return []
  values = np.concatenate(list(episodes.values()))
  low, high = np.quantile(values, MIDDLE[0], 0, method='higher'), np.quantile(values, MIDDLE[1], 0, method='lower')
  return describe_far(find_far(episodes, low, high, least), names, low, high)


def find_far(episodes: Mapping[Any, np.ndarray], low: np.ndarray, high: np.ndarray,
             least: float | np.ndarray) -> dict[int, FarNumber]:
  """Return the first absurd number of each column that has any.

  Args:
    episodes, least: as `far_numbers` takes them; at least one step.
    low, high: bounds of the middle 96 % of each column.
  """
  values, ends = np.concatenate(list(episodes.values())), np.cumsum(list(map(len, episodes.values())))
  most = np.maximum(_FAR * (high - low), least)
  far, found = ((values < low - most) | (values > high + most)) & ~unusable(values), {}
  for column in np.flatnonzero(far.any(0)).tolist():
    rows = np.flatnonzero(far[:, column])
    number = int(np.searchsorted(ends, rows[0], 'right'))
    name, episode = list(episodes.items())[number]
    found[column] = FarNumber(name, int(rows[0] - ends[number] + len(episode)), float(values[rows[0], column]),
                              len(rows))
  return found


def describe_far(found: Mapping[int, FarNumber], names: Sequence[str], low: np.ndarray, high: np.ndarray) -> list[str]:
  """Describe the results of `find_far`, which has the same bounds."""
  return [f'{names[column]} is {number.value:g} in episode {number.episode}, step {number.step}'
          + (f' (and {number.count - 1} more steps)' if number.count > 1 else '')
          + f', and {low[column]:g} to {high[column]:g} in nearly all others'
          for column, number in sorted(found.items())]


def far_rule(spec: ActionSpec) -> tuple[list[str], np.ndarray]:
  """Return the names of the actions' columns, and `least`: 100 times the bounds."""
  low, high = spec.bounds
  return [f'action {name}' for name in spec.dimension_names], 50 * (high - low)


def still_steps(actions: np.ndarray, spec: ActionSpec) -> np.ndarray:
  """Return in which steps nothing moves: bool [steps].

  In these every number with a unit is within half a bin of zero. For an ActionSpec whose numbers with a unit are
  changes; without units no step counts.
  """
  changes = np.array([unit != '' for unit in spec.dimension_units])
  return np.all((np.abs(actions) < _half_bin(spec)) | ~changes, -1) & changes.any()


def idle_steps(actions: np.ndarray, spec: ActionSpec) -> np.ndarray:
  """Return which steps do nothing: bool [steps].

  They are still, and every number without a unit (gripper, class) is within half a bin of the step before.
  """
  changes = np.array([unit != '' for unit in spec.dimension_units])
  same = np.abs(np.diff(actions, axis=0, prepend=actions[:1])) < _half_bin(spec)
  return still_steps(actions, spec) & np.all(same | changes, -1)


def _half_bin(spec: ActionSpec) -> np.ndarray:
  low, high = spec.bounds
  return (high - low) / np.concatenate([[f.bins - 1] * f.size for f in spec.fields]) / 2
