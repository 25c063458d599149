"""Bounds of actions from recorded ones."""
import dataclasses
from collections.abc import Sequence

import numpy as np

from rtjax.actions import ActionField, ActionSpec

_OUTSIDE = 0.001  # share of the steps beyond each bound: outliers would make every bin wider


def from_quantiles(spec: ActionSpec, episodes: Sequence[np.ndarray]) -> ActionSpec:
  """Return the ActionSpec with the bounds of recorded actions.

  At most 0.1 % of the steps lie beyond each bound. Symmetric bounds stay symmetric, for mirrored images. Classes, the
  opening of the gripper (0 to 1) and numbers that never change keep their bounds.

  Args:
    episodes: actions of each, float32 [steps, A].
  """
  recorded = np.concatenate(episodes)
  low = np.quantile(recorded, _OUTSIDE, 0, method='lower')
  high = np.quantile(recorded, 1 - _OUTSIDE, 0, method='higher')
  fields, at = [], 0
  for field in spec.fields:
    part = slice(at, at := at + field.size)
    kept = field.kind == 'classes' or field.name == 'gripper'
    fields.append(field if kept else _fitted(field, low[part], high[part]))
  return dataclasses.replace(spec, fields=tuple(fields))


def _fitted(field: ActionField, low: np.ndarray, high: np.ndarray) -> ActionField:
  was_low, was_high = np.asarray(field.low), np.asarray(field.high)
  largest = np.maximum(np.abs(low), np.abs(high))
  symmetric = was_low == -was_high
  low, high = np.where(symmetric, -largest, low), np.where(symmetric, largest, high)
  low, high = np.where(low < high, (low, high), (was_low, was_high)).astype(float)
  return dataclasses.replace(field, low=tuple(low.tolist()), high=tuple(high.tolist()))
