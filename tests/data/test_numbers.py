"""Unusable numbers, and steps that do nothing."""
import numpy as np

from rtjax import actions
from rtjax.data import numbers


def test_unusable_numbers():
  values = np.float32([0, -1.7e9, np.nan, np.inf, -np.inf, 1e30, -1e11])
  assert numbers.unusable(values).tolist() == [False] * 2 + [True] * 5
  assert numbers.unusable(np.array([1.7e18]), np.inf).tolist() == [False]


def test_still_and_idle_steps():
  """Bins of arm7d: 0.39 mm, 2 mrad and 1/255 of the gripper's opening."""
  steps = np.zeros((6, 7))
  steps[1, 0], steps[2, 0] = 0.00019, -0.0002
  steps[3, 4] = 0.00097
  steps[4:, 6] = 1
  assert numbers.still_steps(steps, actions.ARM_7D).tolist() == [True, True, False, True, True, True]
  assert numbers.idle_steps(steps, actions.ARM_7D).tolist() == [True, True, False, True, False, True]


def test_no_step_is_idle_without_units():
  spec = actions.ActionSpec((actions.ActionField('joints', 2),))
  assert not numbers.idle_steps(np.zeros((3, 2)), spec).any()
  assert numbers.idle_steps(np.zeros((0, 7)), actions.ARM_7D).shape == (0,)
