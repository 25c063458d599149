"""Errors of an environment as failed episodes, in one process."""
import numpy as np
import pytest

pytest.importorskip('gymnasium', reason="needs the extra 'sim'")

from helpers import toy_env

from rtjax.evaluation.closed_loop.error_catching import ErrorCatchingEnv
from rtjax.evaluation.closed_loop.protocol import EpisodeId

FORWARD = np.array([0.03, 0, 0, 0, 0, 0, 1], np.float32)


def start(env, digit, split='seen'):
  env.episode = EpisodeId(split, 'pick', digit)
  observation, wrapped = env.reset()
  return observation, wrapped['info'][0]


def test_error_ends_one_episode_only():
  env = ErrorCatchingEnv(toy_env.ToyEnv, 'seen')
  start(env, toy_env.STEP_RAISES)
  assert env.step(FORWARD)[2:4] == (False, False)
  *_, terminated, truncated, wrapped = env.step(FORWARD)
  assert terminated and not truncated
  assert wrapped['info'] == [{'success': False, 'failure': 'error', 'message': 'ZeroDivisionError: boom'}]
  assert env.step(FORWARD)[2:] == (True, False, {}) and not env.expert().any()
  _, info = start(env, 0)
  assert 'failure' not in info and env.expert().any()
  *_, terminated, _, wrapped = env.step(FORWARD)
  assert terminated and wrapped['info'][0]['success']


def test_error_at_the_start():
  env = ErrorCatchingEnv(toy_env.ToyEnv, 'seen')
  _, info = start(env, toy_env.RESET_RAISES)
  assert (info['failure'], info['message']) == ('error', 'RuntimeError: no usable start')


def test_observation_that_is_not_finite():
  env = ErrorCatchingEnv(toy_env.ToyEnv, 'seen')
  start(env, toy_env.NAN)
  env.step(FORWARD)
  observation, _, terminated, _, wrapped = env.step(FORWARD)
  assert terminated and wrapped['info'][0]['failure'] == 'physics' and 'proprioception' in wrapped['info'][0]['message']
  assert np.isfinite(observation['proprioception']).all()


def test_split_is_opened_when_it_changes():
  env = ErrorCatchingEnv(toy_env.ToyEnv, 'seen')
  assert start(env, 0, 'unseen_objects')[0]['instruction'] == 'pick the unseen_objects object'
  assert start(env, 0, 'seen')[0]['instruction'] == 'pick the seen object'


def test_reset_without_an_episode_starts_none():
  env = ErrorCatchingEnv(toy_env.ToyEnv, 'seen')
  observation, info = env.reset()
  assert info == {} and env.observation_space.contains(observation)
