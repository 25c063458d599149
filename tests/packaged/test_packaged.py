"""Packaged policies: first action, success in closed loop, cards, and names against folders."""
import json
import pathlib
import shutil

import numpy as np
import pytest
from helpers import saved_run
from helpers.tiny_rt1 import TINY

import rtjax
from rtjax import packaged
from rtjax.models import build

NAMES = packaged.names()
MOST_BYTES = 5_000_000
"""Of all together, so that the wheel stays small."""


def example(name: str) -> dict[str, np.ndarray]:
  """Return the arrays of bench/package_weights.py: a first step, and episodes that were solved."""
  with np.load(pathlib.Path(__file__).with_name(f'{name}.npz')) as held:
    return dict(held)


@pytest.fixture(scope='module', params=NAMES)
def policy(request):
  return request.param, rtjax.load_policy(request.param)


def test_there_is_one_and_all_are_small():
  assert 'rt1_tabletop' in NAMES
  assert sum(path.stat().st_size for path in packaged.FOLDER.iterdir() if path.is_file()) < MOST_BYTES


def test_first_action(policy):
  name, policy = policy
  held = example(name)
  policy.reset(str(held['instruction']))
  plan = policy.step(held['image'], held.get('proprioception')).plan
  np.testing.assert_allclose(plan, held['plan'], rtol=1e-3, atol=1e-5)


def test_closed_loop(policy):
  envs = pytest.importorskip('rtjax.envs')
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  name, policy = policy
  episodes = json.loads(str(example(name)['episodes']))
  solved = 0
  for episode in episodes:
    env = envs.make('tabletop', split=episode['split'], image_size=policy.metadata.input_size(), wrist=False)
    observation, _ = env.reset(seed=episode['seed'], options={'skill': episode['skill']})
    policy.reset(observation['instruction'])
    done = False
    while not done:
      state = observation['proprioception'] if policy.config.proprioception_size else None
      observation, _, terminated, truncated, info = env.step(policy.step(observation['image'], state).plan[0])
      done = terminated or truncated
    env.close()
    solved += info['success']
  assert solved >= len(episodes) - 1  # another processor rounds in another way


def test_metadata_and_card(policy):
  name, policy = policy
  metadata = policy.metadata
  assert metadata.step and metadata.training['steps'] >= metadata.step
  assert all(entry['episodes'] and entry['action']['mean'] for entry in metadata.statistics.values())
  card = (packaged.FOLDER / f'{name}.md').read_text()
  assert card.startswith(f'# {name}\n') and f"load_policy('{name}')" in card
  assert f'{metadata.step:,} steps of ' in ' '.join(card.split()) and '| seen | ' in card


def test_a_folder_of_that_name_is_read_and_named(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  saved_run.save(build(TINY, seed=0), tmp_path / NAMES[0], 'hashed-ngrams/1')
  assert rtjax.load_model(NAMES[0]).config == TINY
  file = packaged.FOLDER / f'{NAMES[0]}.safetensors'
  assert capsys.readouterr().err == (f'{NAMES[0]} is a file or folder here, which is read. The packaged policy of that '
                                     f'name is {file}.\n')
  assert rtjax.load_model(f'./{NAMES[0]}').config == TINY
  assert rtjax.load_model(file).config != TINY
  assert not capsys.readouterr().err
  shutil.rmtree(NAMES[0])
  assert rtjax.load_model(NAMES[0]).config != TINY
  with pytest.raises(FileNotFoundError, match=r'no model at \./'):
    rtjax.load_model(f'./{NAMES[0]}')


@pytest.mark.parametrize('call', [rtjax.load_model, rtjax.load_policy, packaged.require])
def test_an_unknown_name_lists_the_packaged_ones(call):
  with pytest.raises(FileNotFoundError, match=r"no model at rt1_tabeltop: .*there are: .*rt1_tabletop.*"
                     r"Did you mean 'rt1_tabletop'\?$"):
    call('rt1_tabeltop')


def test_required_paths(tmp_path):
  for path in (NAMES[0], str(tmp_path), 'gs://bucket/run'):
    packaged.require(path)
  (tmp_path / 'ckpt-7.index').touch()  # TensorFlow's checkpoints are named by the prefix of their files
  packaged.require(str(tmp_path / 'ckpt-7'))
