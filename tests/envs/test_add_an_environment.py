"""The example of docs/add_an_environment.md, as printed there: registered and evaluated."""
import functools
import importlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT

pytest.importorskip('gymnasium', reason="needs the extra 'sim'")

from gymnasium.utils.env_checker import check_env

from rtjax import envs

NAME = 'reach_colour:reach_colour'


@pytest.fixture(scope='module')
def example(tmp_path_factory):
  """Module of the page's example, importable, and its folder."""
  folder = tmp_path_factory.mktemp('example')
  file, code = re.search(r'```python\n# (\S+)\n(.*?)```', (ROOT / 'docs/add_an_environment.md').read_text(),
                         re.DOTALL).groups()
  (folder / file).write_text(code)
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(folder)
    yield importlib.import_module('reach_colour'), folder
  envs._registered.pop('reach_colour')
  sys.modules.pop('reach_colour')


def run_expert(env, seed):
  observations, expert = [env.reset(seed=seed)[0]], env.expert()
  terminated = truncated = False
  while not (terminated or truncated):
    observation, _, terminated, truncated, info = env.step(expert(env.state))
    observations.append(observation)
  return observations, info


@pytest.mark.filterwarnings('ignore')
def test_gymnasium_contract(example):
  check_env(envs.make(NAME), skip_render_check=True)


def test_expert_succeeds_in_both_splits(example):
  assert envs.splits(NAME) == {'seen': ('reach',), 'unseen_colours': ('reach',)} and 'reach_colour' in envs.names()
  for split, colours in example[0].SPLITS.items():
    env = envs.make('reach_colour', split=split, image_size=(48, 64))
    for seed in range(5):
      observations, info = run_expert(env, seed)
      assert info['success'] and 0.02 < info['moved'] < 0.7 and info['clipped'] == 0
      assert observations[0]['image'].shape == (48, 64, 3) and observations[0]['instruction'].split()[2] in colours
      np.testing.assert_array_equal(run_expert(env, seed)[0][-1]['image'], observations[-1]['image'])


def test_workers_know_registered_environments(example):
  vector = envs.make_vector(functools.partial(envs.make, 'reach_colour'), 1)
  try:
    observation, _ = vector.reset(seed=[3])
    np.testing.assert_array_equal(observation['image'][0], envs.make('reach_colour').reset(seed=3)[0]['image'])
  finally:
    vector.close()


def test_closed_loop_evaluation_from_the_command_line(example, tmp_path):
  command = [sys.executable, ROOT / 'eval.py', 'expert', '--env', NAME, '--episodes', '2', '--environments', '1',
             '--output', tmp_path]
  result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(example[1])})
  assert result.returncode == 0, result.stderr
  report = json.loads((tmp_path / 'report.json').read_text())
  assert report['policies'][0]['summary']['success']['successes'] == 4  # two splits
  assert report['protocol']['splits'] == {'seen': ['reach'], 'unseen_colours': ['reach']}


def test_names_are_registered_once(example):
  envs.register('reach_colour', example[0].ReachColour)  # the same class is fine
  for name in ('tabletop', 'reach_colour', 'a:b'):
    with pytest.raises(ValueError, match=f"name '{name}' is taken or contains a colon"):
      envs.register(name, type('Other', (example[0].ReachColour,), {}))
