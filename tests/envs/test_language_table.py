"""Language-Table as an environment, on a clone in miniature; and on the real one where there is one."""
import importlib.util
import os
import sys

import numpy as np
import pytest

pytest.importorskip('gymnasium', reason="needs the extra 'sim' or 'language_table'")

from gymnasium.utils.env_checker import check_env
from helpers import fake_language_table

from rtjax import actions, envs
from rtjax.envs import language_table_source as source
from rtjax.evaluation.closed_loop import agents, environment, evaluator

NAME = 'language_table'


@pytest.fixture
def forget():
  """Forget the imported clone before and after a test."""
  fake_language_table.forget()
  yield
  fake_language_table.forget()


@pytest.fixture
def clone(tmp_path, forget):
  return fake_language_table.write(tmp_path / 'clone')


def run_oracle(env, seed, skill, steps=200):
  observations, info = [env.reset(seed=seed, options={'skill': skill})[0]], {}
  for _ in range(steps):
    observation, _, terminated, truncated, info = env.step(env.expert()(env.state))
    observations.append(observation)
    if terminated or truncated:
      break
  return observations, info


def test_gymnasium_contract(clone):
  check_env(envs.make(NAME, path=str(clone), image_size=(18, 32)), skip_render_check=True)


def test_oracle_succeeds_and_the_instruction_comes_from_its_bytes(clone):
  env = envs.make(NAME, path=str(clone), renderer='none')
  observations, info = run_oracle(env, 3_000_000_000, 'blocktoblock')
  assert info['success'] and info['task'] == 'blocktoblock: red moon, blue cube' and info['clipped'] == 0
  assert observations[0]['instruction'] == 'bloc the red moon to the blue cube'
  assert info['touched'] == ['red moon'] and set(info['displaced']) == {'red moon', 'blue cube'}
  assert observations[0]['image'].shape == (180, 320, 3) and info['moved'] > 0.1


def test_seed_and_skill_determine_the_episode(clone):
  one, other = (envs.make(NAME, path=str(clone), image_size=(18, 32)) for _ in range(2))
  run_oracle(other, 7, 'separate', 5)
  np.random.seed(5)
  outside = np.random.get_state()[1].copy()
  first, second = run_oracle(one, 9, 'blocktoblock')[0], run_oracle(other, 9, 'blocktoblock')[0]
  assert len(first) == len(second)
  for a, b in zip(first, second, strict=True):
    np.testing.assert_array_equal(a['image'], b['image'])
    np.testing.assert_array_equal(a['proprioception'], b['proprioception'])
  np.testing.assert_array_equal(np.random.get_state()[1], outside)


def test_starts_that_do_not_count_are_dropped_and_counted(clone):
  env = envs.make(NAME, path=str(clone), renderer='none')
  dropped = env.reset(seed=1, options={'skill': 'separate'})[1]['dropped_starts']
  assert dropped['no room'] == 1 and dropped['solved'] == 1
  counts = [env.reset(seed=seed, options={'skill': 'blocktoblock'})[1]['dropped_starts'] for seed in range(40)]
  assert all(set(count) <= {'no plan'} for count in counts) and sum(map(bool, counts)) in range(4, 25)


def test_truncation_clipping_and_bad_actions(clone):
  env = envs.make(NAME, path=str(clone), renderer='none')
  env.reset(seed=0)
  *_, info = env.step(np.array([-0.5, 0], np.float32))
  assert info['clipped'] == 1 and info['moved'] == pytest.approx(0.1)
  ends = [env.step(np.zeros(2, np.float32))[3] for _ in range(199)]
  assert ends == [False] * 198 + [True]
  for bad in (np.full(2, np.nan), np.zeros(7)):
    with pytest.raises(ValueError, match='expected 2 finite numbers'):
      env.step(bad)


def test_images_are_averaged(clone):
  full, half = (envs.make(NAME, path=str(clone), image_size=size) for size in ((180, 320), (90, 160)))
  large, small = (env.reset(seed=3)[0]['image'].astype(float) for env in (full, half))
  np.testing.assert_allclose(small, large.reshape(90, 2, 160, 2, 3).mean((1, 3)), atol=1)


def test_stand_ins_replace_nothing_that_is_present(clone, monkeypatch):
  import types
  present = types.ModuleType('cv2')
  present.FONT_HERSHEY_DUPLEX = 'real'
  monkeypatch.setitem(sys.modules, 'cv2', present)
  before = {name: sys.modules.get(name) for name in ('tensorflow', 'tf_agents', 'gym')}
  env = envs.make(NAME, path=str(clone))
  module = sys.modules['language_table.environments.language_table']
  assert module.cv2 is present and module.draw.__defaults__ == ('real',)
  assert {name: sys.modules.get(name) for name in before} == before
  assert not any(type(finder).__name__ == '_Finder' for finder in sys.meta_path) and str(clone) not in sys.path
  if before['tensorflow'] is None:
    with pytest.raises(RuntimeError, match='a package that is replaced by a stand-in'):
      module.save('x')
  env.close()


def test_without_a_clone_the_error_says_how_to_get_one(tmp_path, forget):
  with pytest.raises(FileNotFoundError, match=r'git clone https://github.com/google-research/language-table.*--path'):
    envs.make(NAME, path=str(tmp_path))
  with pytest.raises(FileNotFoundError, match='no clone of Language-Table on PYTHONPATH'):
    envs.make(NAME)


def test_missing_parts_and_packages_are_named(clone):
  (clone / 'language_table/environments/rewards/separate_blocks.py').unlink()
  with pytest.raises(FileNotFoundError, match=r'lacks language_table/environments/rewards/separate_blocks\.py'):
    envs.make(NAME, path=str(clone))
  (clone / 'language_table/environments/rewards/block2block.py').write_text('import pybullet_of_nobody\n')
  sys.modules.pop('language_table.environments.rewards.block2block', None)
  with pytest.raises(ImportError, match=r"needs pybullet_of_nobody: pip install 'rtjax\[language_table\]'"):
    source.load(str(clone))


def test_a_second_clone_is_refused(clone, tmp_path):
  source.load(str(clone))
  with pytest.raises(ValueError, match='a process can import one clone only'):
    source.load(str(fake_language_table.write(tmp_path / 'other')))


def test_unknown_names(clone):
  with pytest.raises(ValueError, match="unknown split 'unseen'"):
    envs.make(NAME, path=str(clone), split='unseen')
  with pytest.raises(ValueError, match="unknown renderer 'gl'"):
    envs.make(NAME, path=str(clone), renderer='gl')
  with pytest.raises(ValueError, match=r'expected \(height, width\) of at most \(180, 320\)'):
    envs.make(NAME, path=str(clone), image_size=(256, 320))
  with pytest.raises(ValueError, match=r"unknown skill 'seperate'.*Did you mean 'separate'"):
    envs.make(NAME, path=str(clone)).reset(options={'skill': 'seperate'})
  with pytest.raises(ValueError, match=r'are translation \[3\] m, .* are planar_translation \[2\] m'):
    agents.require_matching_actions(actions.ARM_7D, actions.LANGUAGE_TABLE, NAME)


def test_evaluation_records_the_protocol_and_the_dropped_starts(clone, tmp_path):
  settings = {'image_size': (18, 32), 'renderer': 'none', 'path': str(clone)}
  env = environment.open_environment(NAME, environment.choose_splits(NAME, (), ()), settings)
  report = evaluator.evaluate(evaluator.Evaluation(env, 10, agents.AgentSettings(2)), agents.ExpertAgent(), [], [],
                              tmp_path / 'report', 2)
  (oracle,) = report['policies']
  assert oracle['summary']['success']['successes'] == 10 and len(oracle['summary']['by_skill']) == 5
  assert report['protocol']['settings']['simulator'].startswith('language-table ')
  assert 'path' not in report['protocol']['settings'] and (env.control_hz, env.max_steps) == (10, 200)
  assert sum(record['dropped_starts'].get('solved', 0) for record in oracle['episodes']) == 2  # two of 'separate'


@pytest.mark.benchmarks
@pytest.mark.skipif(importlib.util.find_spec('pybullet') is None or not os.environ.get('LANGUAGE_TABLE'),
                    reason='needs pybullet, and LANGUAGE_TABLE set to the folder of a clone')
def test_real_clone(forget):
  env = envs.make(NAME, path=os.environ['LANGUAGE_TABLE'], image_size=(90, 160))
  observations, info = run_oracle(env, 9, 'separate')
  assert info['success'] and len(observations) < 60 and info['displaced']['red moon'] > 0.01
  image = observations[0]['image'].astype(int)
  assert (image.max(-1) - image.min(-1) > 80).sum() > 100  # coloured blocks
  again = run_oracle(env, 9, 'separate', 0)[0]
  np.testing.assert_array_equal(again[0]['image'], observations[0]['image'])
  env.close()
