"""Tabletop environment: gymnasium contract, determinism, episode info."""
import functools
import hashlib
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from gymnasium.utils.env_checker import check_env

from rtjax import actions, envs
from rtjax.envs.tabletop import language, splits, tasks
from rtjax.envs.tabletop.env import HOLD_STEPS
from rtjax.envs.tabletop.world import PhysicsError

SMALL = {'image_size': (24, 32)}


@pytest.fixture
def env():
  env = envs.make('tabletop', **SMALL)
  yield env
  env.close()


def run_expert(env, seed, skill):
  """Run the expert through an episode; return the results of each step."""
  env.reset(seed=seed, options={'skill': skill})
  expert, steps = env.expert(), []
  while not steps or not (steps[-1][2] or steps[-1][3]):
    steps.append(env.step(expert(env.state)))
  return steps


@pytest.mark.filterwarnings('ignore')
def test_gymnasium_contract():
  env = envs.make('tabletop', **SMALL, multiview=True)
  check_env(env, skip_render_check=True)
  env.close()


def test_observation_holds_image_state_and_instruction(env):
  observation, info = env.reset(seed=1)
  assert observation['image'].shape == observation['wrist_image'].shape == (24, 32, 3)
  assert observation['instruction'] == info['instruction'] != ''
  state = observation['proprioception']
  np.testing.assert_allclose(state[:3], env.state.position, atol=1e-6)
  np.testing.assert_allclose(state[3:], [0, 0, 0, 1], atol=1e-3)
  assert env.action_spec is actions.ARM_7D and env.renderer_name == 'rays' and 3 <= env.control_hz <= 5


def test_multiview_observation_holds_all_cameras():
  env = envs.make('tabletop', **SMALL, multiview=True)
  observation, _ = env.reset(seed=1)
  assert observation['images'].shape == (6, 24, 32, 3)
  np.testing.assert_array_equal(observation['images'][0], observation['image'])
  np.testing.assert_array_equal(observation['images'][1], observation['wrist_image'])
  assert len({view.tobytes() for view in observation['images']}) == 6
  env = envs.make('tabletop', **SMALL, wrist=False)
  assert set(env.reset(seed=1)[0]) == {'image', 'proprioception', 'instruction'}


EPISODE = """
import hashlib
from rtjax import envs
env = envs.make('tabletop', image_size=(48, 64), seed=5)
digest = hashlib.sha256()
observation, info = env.reset()
expert = env.expert()
for _ in range(12):
  digest.update(observation['image'].tobytes() + observation['wrist_image'].tobytes())
  digest.update(observation['proprioception'].tobytes() + info['instruction'].encode())
  observation, _, _, _, info = env.step(expert(env.state))
print(digest.hexdigest())
"""


def test_same_seed_same_pixels_in_other_processes():
  digests = {subprocess.run([sys.executable, '-c', EPISODE], check=True, capture_output=True, text=True).stdout
             for _ in range(2)}
  assert len(digests) == 1


def test_same_seed_same_episode_after_others(env):
  def digest(seed):
    observation, info = env.reset(seed=seed)
    return hashlib.sha256(observation['image'].tobytes()).hexdigest(), info['objects'], info['instruction']

  first = digest(3)
  assert digest(4) != first
  env.step(env.action_space.sample())
  assert digest(3) == first


@pytest.mark.parametrize('direction', np.eye(6))
def test_actions_are_metres_and_radians_about_the_base_axes(env, direction):
  before, _ = env.reset(seed=2, options={'skill': 'open_drawer'})
  action = np.append(direction * ([0.04] * 3 + [0.2] * 3), 1).astype(np.float32)
  after, *_ = env.step(action)
  change = after['proprioception'] - before['proprioception']
  np.testing.assert_allclose(change[:3], action[:3], atol=0.004)
  np.testing.assert_allclose(change[3:6], action[3:6], atol=0.03)


def test_gripper_opens_above_one_half(env):
  env.reset(seed=2)
  openings = [env.step(np.array([0, 0, 0, 0, 0, 0, g], np.float32))[0]['proprioception'][6] for g in (0.4, 0.6)]
  np.testing.assert_allclose(openings, [0, 1], atol=0.1)


def test_out_of_bounds_actions_are_clipped_and_counted(env):
  def after(scale):
    env.reset(seed=2)
    observation, *_, info = env.step(np.array([scale, 0, 0, 0, 0, 0, 1], np.float32))
    return observation['proprioception'], info['clipped']

  inside, none = after(0.05)
  beyond, one = after(5.0)
  np.testing.assert_array_equal(inside, beyond)
  assert (none, one) == (0, 1)


@pytest.mark.parametrize('action, match', [
    (np.full(7, np.nan), 'NaN'), (np.array([np.inf, 0, 0, 0, 0, 0, 0]), 'infinite'), (np.zeros(6), r'shape \(6,\)')])
def test_invalid_actions_are_errors(env, action, match):
  env.reset(seed=0)
  with pytest.raises(ValueError, match=match):
    env.step(action)


def test_unstable_physics_ends_the_episode(env, monkeypatch):
  env.reset(seed=0)

  def unstable(*_):
    raise PhysicsError('boom')

  monkeypatch.setattr(env._world, 'step', unstable)
  *_, reward, terminated, truncated, info = env.step(np.zeros(7, np.float32))
  assert (reward, terminated, truncated, info['success'], info['failure']) == (0, True, False, False, 'physics')


def test_non_finite_state_ends_the_episode(env):
  env.reset(seed=0)
  env._world.data.qvel[0] = np.nan
  *_, info = env.step(np.zeros(7, np.float32))
  assert info['failure'] == 'physics'


def test_episode_is_truncated_after_max_steps(env):
  env.max_steps = 3
  env.reset(seed=0, options={'skill': 'pick'})
  ends = [env.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))[2:4] for _ in range(3)]
  assert ends == [(False, False), (False, False), (False, True)]


def test_success_must_hold(env):
  steps = run_expert(env, 1000, 'open_drawer')
  done = tasks.success(env.episode.task, env.state, env._start)
  assert [s[1] for s in steps] == [0] * (len(steps) - 1) + [1]
  assert steps[-1][2] and steps[-1][4]['success'] and done
  assert all(not s[4]['success'] for s in steps[:-1])
  assert HOLD_STEPS == 3


def test_info_describes_the_episode(env):
  steps = run_expert(env, 1000, 'pick')
  info, name = steps[-1][4], env.episode.task.target.name
  assert info['grasped'] == name and info['touched'] == [name] and not info['dropped']
  assert info['displaced'][name] > tasks.LIFT
  assert all(info['displaced'][other] < 0.01 for other in info['displaced'] if other != name)
  assert info['moved'] > info['displaced'][name]
  env.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))  # release
  assert not env._info()['dropped'] and env.state.held is None


def test_lost_object_counts_as_dropped(env):
  run_expert(env, 1000, 'pick')
  held = env._world.data.body(env.state.held)
  joint = env._world.model.body(held.id).jntadr[0]
  env._world.data.qpos[env._world.model.jnt_qposadr[joint]] += 0.3  # out of the closed fingers
  *_, info = env.step(np.zeros(7, np.float32))
  assert info['dropped'] and info['grasped'] is None


def test_doing_nothing_does_not_succeed(env):
  for seed, skill in enumerate(tasks.SKILLS):
    env.reset(seed=seed, options={'skill': skill})
    infos = [env.step(np.array([0, 0, 0, 0, 0, 0, 1], np.float32))[4] for _ in range(HOLD_STEPS + 1)]
    assert not infos[-1]['success'], skill
    assert max(infos[-1]['displaced'].values()) < 0.01


@pytest.mark.parametrize('settings, match', [
    ({'split': 'unseen_object'}, "Did you mean 'unseen_objects'"), ({'renderer': 'ray'}, "Did you mean 'rays'"),
    ({'image_size': (96,)}, 'image_size')])
def test_invalid_settings_are_errors(settings, match):
  with pytest.raises(ValueError, match=match):
    envs.make('tabletop', **settings)


def test_unknown_names_and_missing_reset_are_errors(env):
  with pytest.raises(ValueError, match="Did you mean 'tabletop'"):
    envs.make('tabeltop')
  with pytest.raises(ValueError, match='skill is'):
    env.reset(options={'skill': 'fly'})
  with pytest.raises(RuntimeError, match='before reset'):
    env.step(np.zeros(7, np.float32))


def test_instructions_fit_the_observation_space(env):
  space = env.observation_space['instruction']
  for skill in tasks.SKILLS:
    possible = splits.tasks(skill) + splits.tasks(skill, 'object')
    for task in possible[::37]:
      for seen in (True, False):
        assert all(text in space for text in language.instructions(task, seen))


def test_different_renderer_warns():
  with pytest.warns(UserWarning, match="trained on images of the renderer .'gl'."):
    envs.warn_if_renderer_differs({'a': {'renderer': 'gl'}, 'b': {'renderer': None}}, 'rays')


@pytest.mark.filterwarnings('error')
def test_same_renderer_does_not_warn():
  envs.warn_if_renderer_differs({'a': {'renderer': 'rays'}, 'b': {}}, 'rays')


def test_skills_without_demonstrations_warn():
  learned = {'a': {'skills': ['pick']}, 'b': {'skills': ['knock']}}
  with pytest.warns(UserWarning, match=r'learned knock, pick; open, close are new to it.*--skills knock pick'):
    envs.warn_if_skills_are_new(learned, ['pick', 'open', 'close'])


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('statistics', [{}, {'a': {'skills': ['pick']}, 'b': {}}, {'a': {'skills': ['pick', 'open']}}])
def test_known_or_unknown_skills_do_not_warn(statistics):
  envs.warn_if_skills_are_new(statistics, ['pick', 'open'])


def test_vector_environment_equals_single_ones():
  vector = envs.make_vector(functools.partial(envs.make, 'tabletop', **SMALL), 2)
  try:
    observation, info = vector.reset(seed=[7, 8])
    for index, seed in enumerate((7, 8)):
      env = envs.make('tabletop', **SMALL)
      alone, _ = env.reset(seed=seed)
      np.testing.assert_array_equal(observation['image'][index], alone['image'])
      assert observation['instruction'][index] == alone['instruction'] == info['instruction'][index]
  finally:
    vector.close()
