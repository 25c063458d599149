"""Demonstrations in Language-Table, on a clone in miniature: the public datasets' layout, own starts, failures."""
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT

pytest.importorskip('gymnasium', reason="needs the extra 'sim' or 'language_table'")
pytest.importorskip('tensorflow_datasets', reason="needs the extra 'data'")

from helpers import fake_language_table

from rtjax import actions, envs
from rtjax.data.language import ComputedVectors
from rtjax.data.rlds.episodes import Dataset
from rtjax.evaluation.closed_loop.protocol import FIRST_SEED
from rtjax.language.instructions import HashedNgrams

FOLDER = ROOT / 'data/language_table'
NAME = 'language_table_demonstrations'


def generate(out, *options):
  """Run the command line in a separate process."""
  command = [sys.executable, FOLDER / 'generate.py', '--out', out, '--path', out / 'clone', '--skills', 'blocktoblock',
             'separate', '--episodes', '4', '--image-size', '18', '32', '--workers', '1', *options]
  return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Dataset folder written by the command line."""
  out = tmp_path_factory.mktemp('language_table')
  fake_language_table.write(out / 'clone')
  result = generate(out)
  assert result.returncode == 0, result.stderr
  assert '4 of 4 episodes in train, 1 of 1 episodes in val' in result.stdout
  assert not (out / f'{NAME}.raw').exists()
  return out / NAME / '1.0.0'


@pytest.fixture
def demonstrations():
  """Import the module by its path: another folder has one of this name."""
  spec = importlib.util.spec_from_file_location('language_table_recording', FOLDER / 'demonstrations.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  fake_language_table.forget()
  yield module
  fake_language_table.forget()


def test_the_adapter_of_the_public_datasets_reads_it(folder):
  dataset = Dataset(str(folder), 'train', actions.LANGUAGE_TABLE, proprioception=True,
                    vectors=ComputedVectors(HashedNgrams()))
  episodes = list(dataset.read_all())
  assert len(episodes) == 4 and {text.split()[0] for e in episodes for text in e.instructions} == {'bloc', 'sepa'}
  for episode in episodes:
    assert not actions.LANGUAGE_TABLE.clipped(episode.actions).any() and np.abs(episode.actions).max() > 0
    assert episode.proprioception.shape == episode.waypoints.shape == (len(episode.actions), 2)
    moved = np.diff(episode.proprioception, axis=0)  # disturbed: not the oracle's actions
    assert np.linalg.norm(moved) > 0 and not np.allclose(moved, episode.actions[:-1], atol=1e-4)


def test_a_complete_dataset_is_kept(folder):
  before = (folder / 'dataset_info.json').stat().st_mtime_ns
  result = generate(folder.parent.parent, '--disturbance', '2')
  assert result.returncode == 2 and 'exists already with another recipe' in result.stderr
  assert (folder / 'dataset_info.json').stat().st_mtime_ns == before
  recipe = json.loads((folder / 'metadata.json').read_text())['recipe']
  assert recipe['simulator'].startswith('language-table ') and recipe['image_size'] == [18, 32]


def test_starts_are_never_evaluated_and_failures_have_no_steps(folder, demonstrations, monkeypatch):
  seeds, make = [], envs.make

  def watched(*args, **settings):
    env = make(*args, **settings)
    reset, step = env.reset, env.step

    def watched_reset(*, seed, options):
      seeds.append(seed)
      return reset(seed=seed, options=options)

    monkeypatch.setattr(env, 'reset', watched_reset)
    monkeypatch.setattr(env, 'step', lambda action: step(0 * action))
    return env

  monkeypatch.setattr(envs, 'make', watched)
  config = demonstrations.RecordingConfig(image_size=(18, 32), skills=('blocktoblock',))
  episodes = demonstrations.record(config, str(folder.parent.parent / 'clone'), 0, 2)
  assert max(seeds) < 2 ** 31 < FIRST_SEED and len(set(seeds)) == 2
  assert [(e['steps'], e['episode_metadata']['success']) for e in episodes] == [([], False)] * 2
