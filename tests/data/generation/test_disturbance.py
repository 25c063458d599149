"""Random events and disturbances of executed actions."""
import itertools

import numpy as np
import pytest

from rtjax.data.generation.disturbance import ArmDisturbance, RandomEvent, check_strength

QUIET = 0.0, (1, 2)


def disturbance(strength=1.0, noise=0.0, push=(0.0, (1, 2), 0.5), slip=QUIET, seed=0):
  return ArmDisturbance(np.random.default_rng(seed), strength, np.full(4, noise), push, slip)


def test_an_event_lasts_between_its_bounds_with_one_value():
  event = RandomEvent(rng := np.random.default_rng(0), 0.05, (2, 5), lambda: rng.uniform(1, 2))
  runs = [(value, len(list(run))) for value, run in itertools.groupby(event() for _ in range(5000))]
  # The step in which it begins counts besides those drawn.
  lengths = {length for value, length in runs if value is not None}
  assert lengths == {3, 4, 5, 6}
  share = sum(length for value, length in runs if value is not None) / 5000
  assert 0.13 < share < 0.25


def test_no_event_without_a_chance():
  event = RandomEvent(np.random.default_rng(0), 0.0, (1, 3))
  assert all(event() is None for _ in range(100))


def test_strength_zero_executes_the_action():
  disturb = disturbance(0.0, noise=0.2, push=(1.0, (1, 2), 0.5), slip=(1.0, (1, 2)))
  np.testing.assert_allclose(disturb(np.array([0.2, -1, 1, 0.6])), [0.2, -1, 1, 0.6], rtol=1e-6)


def test_pushes_leave_the_gripper_alone_and_slips_turn_it():
  action = np.array([0.9, 0, 0, 0.6], np.float32)
  pushed = np.array([disturbance(push=(1.0, (1, 2), 0.5), seed=seed)(action) for seed in range(50)])
  assert (pushed[:, 3] == np.float32(0.6)).all() and np.abs(pushed[:, 1:3]).max() > 0.3
  assert pushed.max() == 1  # clipped
  np.testing.assert_array_equal(disturbance(slip=(1.0, (1, 2)))(action), action * np.float32([1, 1, 1, -1]))


@pytest.mark.parametrize('strength', [-0.1, float('nan'), float('inf')])
def test_unusable_strengths(strength):
  with pytest.raises(ValueError, match=r'--disturbance is .*, expected a finite number'):
    check_strength(strength)
