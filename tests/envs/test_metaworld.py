"""Meta-World as an environment, if it is installed.

Images are rendered in other processes: Mesa's OpenGL and TensorFlow, which other tests import, crash in one.
"""
import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('metaworld', reason="needs the extra 'metaworld', in a separate virtual environment")

import metaworld
from gymnasium.utils.env_checker import check_env
from helpers.paths import ROOT

from rtjax import actions, envs
from rtjax.envs.metaworld_tasks import SUITES
from rtjax.evaluation.closed_loop import agents, environment, evaluator

pytestmark = pytest.mark.benchmarks

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


def run_eval(*options, **variables):
  """Run eval.py with two episodes of the expert."""
  command = [sys.executable, ROOT / 'eval.py', 'expert', '--episodes', '2', '--environments', '1', *options]
  return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables})


@pytest.mark.filterwarnings('ignore:.*Overriding environment:UserWarning')
@pytest.mark.parametrize('name', ['reach-v3', 'mt10'])
def test_gymnasium_contract(name):
  check_env(envs.make(f'metaworld/{name}', **NO_IMAGES), skip_render_check=True)


def test_suites_are_those_of_meta_world():
  assert set(SUITES['mt10']) == set(metaworld.env_dict.MT10_V3)
  assert set(SUITES['mt50']) == set(metaworld.env_dict.MT50_V3)


def test_skill_or_seed_selects_the_task():
  env, single = envs.make('metaworld/mt10', **NO_IMAGES), envs.make('metaworld/drawer-open-v3', **NO_IMAGES)
  observation, info = env.reset(seed=3_000_000_014)
  assert info['skill'] == 'drawer-open-v3' and observation['instruction'] == 'Open a drawer'
  for seed in (3_000_000_003, 3_000_000_051):
    other, info = env.reset(seed=seed, options={'skill': 'reach-v3'})
    assert (info['skill'], other['instruction']) == ('reach-v3', 'Reach a goal position')
    env.reset(seed=seed, options={'skill': 'drawer-open-v3'}), single.reset(seed=seed)
    np.testing.assert_array_equal(env.unwrapped.state, single.unwrapped.state)
  assert run_expert(env, 3_000_000_004)[1]['success']
  with pytest.raises(ValueError, match="unknown skill 'sweep-v3'"):
    env.reset(seed=0, options={'skill': 'sweep-v3'})


def test_camera_is_lerobots():
  """LeRobot moves the camera 'corner2' and keeps its orientation and angle."""
  model = envs.make('metaworld/reach-v3', **NO_IMAGES).unwrapped._env.model
  ours, theirs = model.camera('corner4'), model.camera('corner2')
  np.testing.assert_allclose(ours.pos, [0.75, 0.075, 0.7])
  np.testing.assert_allclose(ours.quat, theirs.quat)
  assert ours.fovy == theirs.fovy


@pytest.mark.parametrize(('task', 'instruction'), [
    ('reach-v3', 'Reach a goal position'), ('drawer-open-v3', 'Open a drawer')])
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
  assert env.settings['shadow_map'] == env.settings['multisampling'] == 0 and env.settings['camera'] == 'corner4'
  evaluation = evaluator.Evaluation(env, 2, agents.AgentSettings(2))
  report = evaluator.evaluate(evaluation, agents.RandomAgent(), [], ['expert'], tmp_path, 2)
  random, expert = (policy['summary'] for policy in report['policies'])
  assert (random['success']['successes'], expert['success']['successes']) == (0, 2)
  assert random['failures'] == {'timeout': 2} and random['jerk']['p50'] > expert['jerk']['p50'] > 0


def test_unknown_names():
  with pytest.raises(ValueError, match=r"unknown task or suite .* 'raech-v3', .* Did you mean 'reach-v3'"):
    envs.make('metaworld/raech-v3')
  with pytest.raises(ValueError, match="renderer is 'rays', Meta-World has 'gl' and 'none'"):
    envs.make('metaworld/reach-v3', renderer='rays')
  with pytest.raises(ValueError, match="unknown split 'unseen'"):
    environment.choose_splits('metaworld/reach-v3', ('unseen',), ())
  with pytest.raises(ValueError, match=r"are translation \[3\] m, rotation .* are translation \[3\] cm"):
    agents.require_matching_actions(actions.ARM_7D, actions.METAWORLD, 'metaworld/reach-v3')


def test_opengl_that_does_not_load_names_its_packages(tmp_path):
  result = run_eval('--env', 'metaworld/mt10', '--output', tmp_path, MUJOCO_GL='nonsense')
  assert result.returncode == 2
  assert 'MUJOCO_GL: nonsense' in result.stderr and 'apt-get install libegl1' in result.stderr


@gl
def test_smoke_episodes(tmp_path):
  result = run_eval('--env', 'metaworld/mt10', '--skills', 'reach-v3', 'drawer-close-v3', '--output', tmp_path)
  assert result.returncode == 0, result.stderr
  report = json.loads((tmp_path / 'report.json').read_text())
  by_skill = report['policies'][0]['summary']['by_skill']
  assert {skill: rate['successes'] for skill, rate in by_skill.items()} == {'reach-v3': 1, 'drawer-close-v3': 1}
  assert report['protocol']['settings']['renderer'] == 'gl' and report['protocol']['settings']['shadow_map'] == 0


FRAMES = """
import sys, numpy as np
from rtjax import envs
env = envs.make('metaworld/reach-v3', image_size=(48, 64))
frames = []
for _ in range(2):
  frames.append(env.reset(seed=0)[0]['image'])
  frames += [env.step(np.array([1, 1, 0, -1], np.float32))[0]['image'] for _ in range(30)]
env.close()
np.save(sys.argv[1], frames)
"""


@gl
def test_images_show_the_arm_moving(tmp_path):
  subprocess.run([sys.executable, '-c', FRAMES, tmp_path / 'frames.npy'], check=True)
  frames = np.load(tmp_path / 'frames.npy')
  first, last = frames[0].astype(int), frames[30].astype(int)
  assert first.shape == (48, 64, 3) and first.std() > 20 and np.abs(first - last).mean() > 1
  # The arm is red and stands at the far side of the table, in the upper half of an upright image.
  red = (first[..., 0] > 90) & (first[..., 1] < 50)
  assert red[:24].sum() > red[24:].sum() > 0
  np.testing.assert_array_equal(frames[:31], frames[31:])
