"""Meta-World as an environment, if it is installed."""
import os

import numpy as np
import pytest

pytest.importorskip('metaworld', reason="needs the extra 'metaworld', in a separate virtual environment")

from gymnasium.utils.env_checker import check_env

from rtjax import actions, envs
from rtjax.evaluation.closed_loop import agents, environment, evaluator

NO_IMAGES = {'image_size': (8, 8), 'renderer': 'none'}
gl = pytest.mark.skipif(not os.environ.get('MUJOCO_GL'), reason='needs OpenGL: set MUJOCO_GL to egl or osmesa')


def run_expert(env, seed, steps=500):
  """Run the expert; return the observations and the last info."""
  observations, act = [env.reset(seed=seed)[0]], env.unwrapped.expert()
  for _ in range(steps):
    observation, _, terminated, truncated, info = env.step(act(env.unwrapped.state))
    observations.append(observation)
    if terminated or truncated:
      break
  return observations, info


@pytest.mark.filterwarnings('ignore:.*Overriding environment:UserWarning')
def test_gymnasium_contract():
  check_env(envs.make('metaworld/reach-v3', **NO_IMAGES), skip_render_check=True)


@pytest.mark.parametrize(('task', 'instruction'), [('reach-v3', 'reach'), ('drawer-open-v3', 'drawer open')])
def test_scripted_expert_succeeds(task, instruction):
  env = envs.make(f'metaworld/{task}', **NO_IMAGES)
  for seed in range(3_000_000_000, 3_000_000_003):
    observations, info = run_expert(env, seed)
    assert info['success'] and info['moved'] > 0.05 and info['clipped'] == 0 and len(observations) < 200
    assert observations[0]['instruction'] == instruction


def test_seed_determines_the_initial_state():
  one, other = (envs.make('metaworld/pick-place-v3', **NO_IMAGES) for _ in range(2))
  run_expert(other, 7, 30)
  for seed in (3_000_000_000, 3_000_000_051):
    one.reset(seed=seed), other.reset(seed=seed)
    np.testing.assert_array_equal(one.state, other.state)
  starts = {tuple(one.reset(seed=seed) and one.state) for seed in (0, 1, 49, 50, 100)}
  assert len(starts) == 5


def test_actions_are_centimetres():
  env = envs.make('metaworld/reach-v3', **NO_IMAGES)
  env.reset(seed=0)
  x = [env.step(np.array([0.5, 0, 0, -1], np.float32))[0]['proprioception'][0] for _ in range(40)]
  assert x[39] - x[19] == pytest.approx(20 * 0.005, rel=0.1)  # after its acceleration
  assert env.step(np.array([2, 0, 0, -1], np.float32))[4]['clipped'] == 1
  for bad in (np.full(4, np.nan), np.zeros(7)):
    with pytest.raises(ValueError, match='expected 4 finite numbers'):
      env.step(bad)


def test_random_policy_is_evaluated_and_fails(tmp_path):
  name = 'metaworld/drawer-open-v3'
  env = environment.open_environment(name, environment.choose_splits(name, (), ()), NO_IMAGES)
  assert (env.action_spec, env.control_hz, env.max_steps) == (actions.METAWORLD, 80, 500)
  evaluation = evaluator.Evaluation(env, 2, agents.AgentSettings(2))
  report = evaluator.evaluate(evaluation, agents.RandomAgent(), [], ['expert'], tmp_path, 2)
  random, expert = (policy['summary'] for policy in report['policies'])
  assert (random['success']['successes'], expert['success']['successes']) == (0, 2)
  assert random['failures'] == {'timeout': 2} and random['jerk']['p50'] > expert['jerk']['p50'] > 0


def test_unknown_names():
  with pytest.raises(ValueError, match=r"unknown task of Meta-World 'raech-v3', .* Did you mean 'reach-v3'"):
    envs.make('metaworld/raech-v3')
  with pytest.raises(ValueError, match="renderer is 'rays', Meta-World has 'gl' and 'none'"):
    envs.make('metaworld/reach-v3', renderer='rays')
  with pytest.raises(ValueError, match="unknown split 'unseen'"):
    environment.choose_splits('metaworld/reach-v3', ('unseen',), ())
  with pytest.raises(ValueError, match=r"are translation \[3\] m, rotation .* are translation \[3\] cm"):
    agents.require_matching_actions(actions.ARM_7D, actions.METAWORLD, 'metaworld/reach-v3')


@gl
def test_images_show_the_arm_moving():
  env = envs.make('metaworld/reach-v3', image_size=(48, 64))
  observations, _ = run_expert(env, 0)
  first, last = (observations[i]['image'].astype(int) for i in (0, -1))
  assert first.shape == (48, 64, 3) and first.std() > 20 and np.abs(first - last).mean() > 1
  # The arm is red and stands at the far side of the table, in the upper half of an upright image.
  red = (first[..., 0] > 90) & (first[..., 1] < 50)
  assert red[:24].sum() > red[24:].sum() > 0
  repeated, _ = run_expert(env, 0, 1)
  np.testing.assert_array_equal(repeated[0]['image'], first)
  env.close()
