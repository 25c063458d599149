"""Checks of recorded numbers: not usable ones, and steps that do nothing."""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.runtime.numbers import unusable

LEAST_FAR = 1e4
"""Numbers that rarely change, and whose unit is unknown, may leap so far."""
_FAR = 1000


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
  values, ends = np.concatenate(list(episodes.values())), np.cumsum(list(map(len, episodes.values())))
  low, high = np.quantile(values, 0.02, 0, method='higher'), np.quantile(values, 0.98, 0, method='lower')
  most = np.maximum(_FAR * (high - low), least)
  far, found = ((values < low - most) | (values > high + most)) & ~unusable(values), []
  for column in np.flatnonzero(far.any(0)).tolist():
    row, *others = np.flatnonzero(far[:, column])
    number = int(np.searchsorted(ends, row, 'right'))
    name, episode = list(episodes.items())[number]
    step, more = row - ends[number] + len(episode), f' (and {len(others)} more steps)' if others else ''
    found.append(f'{names[column]} is {values[row, column]:g} in episode {name}, step {step}{more}, and '
                 f'{low[column]:g} to {high[column]:g} in nearly all others')
  return found


def far_actions(episodes: Mapping[Any, np.ndarray], spec: ActionSpec) -> list[str]:
  """Describe absurd actions as `far_numbers` does, also beyond 100 times the bounds."""
  low, high = spec.bounds
  return far_numbers(episodes, [f'action {name}' for name in spec.dimension_names], 50 * (high - low))


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
