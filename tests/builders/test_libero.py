"""Demonstrations in LIBERO: the layout of the public datasets, own starts, resumable."""
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.paths import ROOT

pytest.importorskip('libero', reason="needs the extra 'libero'")
pytest.importorskip('tensorflow_datasets', reason="needs the extra 'data'")

import tensorflow_datasets as tfds
from helpers import rlds_episodes

from rtjax import actions, envs
from rtjax.data.language import ComputedVectors
from rtjax.data.rlds.episodes import Dataset
from rtjax.envs.libero import suites
from rtjax.language.instructions import HashedNgrams

pytestmark = pytest.mark.benchmarks

SKILLS = ['pick_up_the_milk_and_place_it_in_the_basket', 'pick_up_the_butter_and_place_it_in_the_basket']


def command(out, *options):
  return [sys.executable, ROOT / 'data/libero/generate.py', '--out', out, '--suite', 'object', '--skills', *SKILLS,
          '--episodes', '5', '--renderer', 'none', '--workers', '1', *options]


def generate(out, *options):
  return subprocess.run(command(out, *options), capture_output=True, text=True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp('libero')
  result = generate(out)
  assert result.returncode == 0, result.stderr
  assert 'of 5 episodes in train' in result.stdout and not (out / 'libero_scripted.raw').exists()
  return out / 'libero_scripted/1.0.0'


def test_the_adapter_of_the_public_datasets_reads_it(folder):
  dataset = Dataset(str(folder), 'train', actions.LIBERO, proprioception=True, vectors=ComputedVectors(HashedNgrams()))
  episodes = list(dataset.read_all())
  assert 3 <= len(episodes) <= 5
  assert {e.instructions[0] for e in episodes} == {skill.replace('_', ' ') for skill in SKILLS}
  for episode in episodes:
    assert not actions.LIBERO.clipped(episode.actions).any() and episode.proprioception.shape[1] == 8
    assert {-1, 1} == set(np.unique(episode.actions[:, 6]))


def test_the_preset_trains_on_it(folder, tmp_path):
  result = subprocess.run(
      [sys.executable, ROOT / 'train.py', 'rt1_libero', '--data', folder, '--output', tmp_path / 'run', '--steps', '1',
       '--batch-size', '2', '--validation.batches', '1'], capture_output=True, text=True)
  assert result.returncode == 0, result.stderr
  assert (tmp_path / 'run/checkpoints/1').is_dir()


def test_starts_are_never_the_evaluated_ones(folder):
  env = envs.make('libero/object', image_size=(8, 16), renderer='none', cameras='both')
  for skill in SKILLS:
    official = np.stack([env.tasks[skill].start(number) for number in range(suites.NUM_STARTS)])
    official = official[:, 1:1 + official.shape[1] // 2]  # positions, without time and velocities
    episodes = tfds.as_numpy(tfds.builder_from_directory(folder).as_dataset('train+val'))
    recorded = [episode['episode_metadata'] for episode in episodes]
    seeds = {int(metadata['seed']) for metadata in recorded if metadata['skill'] == skill.encode()}
    assert len(seeds) >= 2
    for seed in seeds:
      env.reset(seed=seed, options={'skill': skill, 'start': -1})
      own = env._env.get_sim_state()[1:1 + official.shape[1]]
      assert np.abs(official - own).max(1).min() > 1e-3
  env.close()


def test_goes_on_after_it_was_killed(folder, tmp_path):
  process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)
  first = tmp_path / 'libero_scripted.raw/0000000.msgpack'
  while not first.exists() and process.poll() is None:
    time.sleep(0.2)
  os.killpg(process.pid, signal.SIGKILL)
  process.wait()
  assert first.exists() and not (tmp_path / 'libero_scripted/1.0.0').exists()
  assert 'made by another recipe' in generate(tmp_path, '--disturbance', '2').stderr
  result = generate(tmp_path)
  assert result.returncode == 0, result.stderr
  for split in ('train', 'val'):
    for one, other in zip(rlds_episodes.read(folder, split),
                          rlds_episodes.read(tmp_path / 'libero_scripted/1.0.0', split), strict=True):
      np.testing.assert_array_equal(one['action'], other['action'])
      np.testing.assert_array_equal(one['observation']['state'], other['observation']['state'])


def test_complete_dataset_is_kept_and_bad_input_is_an_error(folder, tmp_path):
  assert 'is complete already' in generate(folder.parent.parent).stdout
  result = generate(folder.parent.parent, '--disturbance', '2')
  assert result.returncode == 2 and 'exists already with another recipe' in result.stderr
  wrong = [*command(tmp_path), '--skills', 'pick_up_the_mlik_and_place_it_in_the_basket']
  assert "Did you mean 'pick_up_the_milk" in subprocess.run(wrong, capture_output=True, text=True).stderr
