"""Numbers that no robot or dataset means."""
import numpy as np

LARGEST = 1e10
"""No unit makes an action, state or embedding larger; Unix seconds and encoder counts are smaller."""


def unusable(values: np.ndarray, largest: float = LARGEST) -> np.ndarray:
  """Return which numbers are NaN, infinite, or larger than `largest`."""
  return ~(np.isfinite(values) & (np.abs(values) <= largest))
