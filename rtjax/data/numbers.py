"""Checks of recorded numbers: not usable ones, and steps that do nothing."""
import numpy as np

from rtjax.actions import ActionSpec

LARGEST = 1e10
"""No unit makes an action, state or embedding larger; Unix seconds and encoder counts are smaller."""


def unusable(values: np.ndarray, largest: float = LARGEST) -> np.ndarray:
  """Return which numbers are NaN, infinite, or larger than `largest`."""
  return ~(np.isfinite(values) & (np.abs(values) <= largest))


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
