"""Bounds from recorded actions."""
import numpy as np
import pytest

from rtjax import actions
from rtjax.data.bounds import from_quantiles

DRAW = np.random.default_rng(0)


def recorded(steps, scale=0.15):
  motion = DRAW.uniform(-scale, scale, (steps, 7))
  motion[:, 6] = DRAW.integers(0, 2, steps)
  motion[:, 5] = 0  # never turns
  return motion.astype(np.float32)


@pytest.mark.parametrize('steps', [5, 30, 2000])
def test_hardly_a_step_lies_beyond(steps):
  episodes = [recorded(steps), recorded(steps)]
  spec = from_quantiles(actions.ARM_7D, episodes)
  assert spec.clipped(np.concatenate(episodes)).mean(0).max() <= 0.0025
  low, high = spec.bounds
  assert np.all(high[:5] <= 0.15) and np.array_equal(low[:6], -high[:6])
  np.testing.assert_array_equal([low[5:], high[5:]], [side[5:] for side in actions.ARM_7D.bounds])
  assert spec.fields[0].unit == 'm' and spec.fields[0].mirror == (1, -1, 1)


def test_an_outlier_does_not_widen_the_bins():
  motion = recorded(2000)
  motion[7, 0] = 50
  assert from_quantiles(actions.ARM_7D, [motion]).bounds[1][0] < 0.16


def test_bounds_that_are_not_symmetric_follow_each_side_and_classes_stay():
  spec = actions.ActionSpec((actions.ActionField('joint', 1, 0.0, 1.0), actions.classes('grip', 2)))
  numbers = np.float32([[2, 0, 1], [3, 1, 0], [4, 0, 1]])
  fitted = from_quantiles(spec, [numbers])
  assert (fitted.fields[0].low, fitted.fields[0].high) == ((2.0,), (4.0,)) and fitted.fields[1] == spec.fields[1]
