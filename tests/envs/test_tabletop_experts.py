"""Scripted experts: they succeed, have no memory, and recover."""
import numpy as np
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from rtjax import envs
from rtjax.envs.tabletop import tasks

NOISE = np.array([0.004] * 3 + [0.02] * 3 + [0])


@pytest.fixture(scope='module')
def env():
  return envs.make('tabletop', image_size=(8, 8), renderer='none')


def succeeds(env, seed, skill, disturb=lambda step, action: action):
  env.reset(seed=seed, options={'skill': skill})
  expert = env.expert()
  for step in range(env.max_steps):
    *_, terminated, _, info = env.step(disturb(step, expert(env.state)))
    if terminated:
      break
  return info['success']


@pytest.mark.parametrize('skill', tasks.SKILLS)
def test_succeeds_with_noise(env, skill):
  rng = np.random.default_rng(0)
  noisy = [succeeds(env, seed, skill, lambda _, action: action + NOISE * rng.normal(size=7)) for seed in range(10)]
  assert sum(noisy) >= 9


@pytest.mark.slow
@pytest.mark.parametrize('skill', tasks.SKILLS)
def test_succeeds_in_95_percent_of_200(env, skill):
  rng = np.random.default_rng(0)
  noisy = [succeeds(env, seed, skill, lambda _, action: action + NOISE * rng.normal(size=7)) for seed in range(200)]
  assert np.mean(noisy) >= 0.95


@pytest.mark.parametrize('skill', tasks.SKILLS)
def test_recovers_from_a_push_and_an_opening_gripper(env, skill):
  def disturb(step, action):
    if 4 <= step < 7:
      return np.array([0.03, -0.03, 0.04, 0, 0, 0.2, action[6]])
    return np.append(action[:6], 1.0) if step == 11 else action

  assert sum(succeeds(env, seed, skill, disturb) for seed in range(20, 26)) >= 5


@pytest.mark.parametrize('skill', tasks.SKILLS)
def test_is_stateless_and_within_bounds(env, skill):
  """The action depends on the state alone and needs no clipping."""
  env.reset(seed=3, options={'skill': skill})
  expert, states, taken = env.expert(), [], []
  for _ in range(12):
    states.append(env.state)
    taken.append(expert(env.state))
    env.step(taken[-1])
  fresh = env.expert()
  for index in reversed(range(len(states))):
    np.testing.assert_array_equal(fresh(states[index]), taken[index])
  assert not env.action_spec.clipped(np.array(taken)).any()
  assert set(np.array(taken)[:, 6]) <= {0.0, 1.0}


def test_picks_toy_animals():
  animals = envs.make('tabletop', split='reasoning_kind', image_size=(8, 8), renderer='none')
  assert sum(succeeds(animals, seed, 'pick') for seed in range(8)) >= 7
