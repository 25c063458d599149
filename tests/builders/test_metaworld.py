"""Demonstrations in Meta-World: RLDS in the standard layout, own starts, failures repeated, resumable."""
import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT

pytest.importorskip('metaworld', reason="needs the extra 'metaworld', in a separate virtual environment")
pytest.importorskip('tensorflow_datasets', reason="needs the extra 'data'")

from helpers import rlds_episodes

from rtjax import actions, envs
from rtjax.data import catalog
from rtjax.data.rlds import adapters
from rtjax.envs.metaworld import MetaWorld
from rtjax.evaluation.closed_loop.protocol import FIRST_SEED

pytestmark = pytest.mark.benchmarks

FOLDER = ROOT / 'data/metaworld'
sys.path.insert(0, str(FOLDER))

import demonstrations  # noqa: E402

CONFIG = demonstrations.RecordingConfig('mt10', 2, image_size=(8, 8), renderer='none')
REACH, DRAWER = 0, 8  # first episodes of reach-v3 and of drawer-open-v3


def generate(out, *options):
  """Run the command line in a separate process."""
  command = [sys.executable, FOLDER / 'generate.py', '--out', out, '--tasks', 'reach-v3', '--episodes', '2',
             '--image-size', '8', '8', '--renderer', 'none', *options]
  return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope='module')
def recorder():
  return demonstrations.Recorder(CONFIG)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Dataset folder written by the command line."""
  out = tmp_path_factory.mktemp('metaworld')
  result = generate(out)
  assert result.returncode == 0, result.stderr
  assert 'failed attempts' in result.stdout and not (out / 'metaworld.raw').exists()
  return out / 'metaworld/1.0.0'


def test_standard_layout_needs_no_adapter(folder):
  builder = catalog.open_builder(str(folder))
  metadata = builder.info.metadata
  assert adapters.stored_spec(metadata) == actions.METAWORLD and metadata['renderer'] == 'none'
  adapter = adapters.get('metaworld', metadata)
  assert {split: len(rlds_episodes.read(folder, split)) for split in ('train', 'val')} == {'train': 2, 'val': 1}
  for steps in rlds_episodes.read(folder, 'train'):
    packed = actions.METAWORLD.pack(adapter.action(steps))
    assert packed.shape[1] == 4 and not actions.METAWORLD.clipped(packed).any()
    assert adapters.feature(steps, adapter.image)[0][:2] == b'\xff\xd8'  # JPEG
    assert adapters.feature(steps, adapter.proprioception).shape == (len(packed), 4)
    assert set(adapters.feature(steps, adapter.instruction)) == {b'Reach a goal position'}
    assert list(adapters.feature(steps, 'is_terminal')) == [False] * (len(packed) - 1) + [True]


def test_complete_dataset_is_kept(folder):
  """The same command changes nothing; one with another recipe is an error."""
  before = (folder / 'dataset_info.json').stat().st_mtime_ns
  assert 'is complete already' in generate(folder.parent.parent).stdout
  assert (folder / 'dataset_info.json').stat().st_mtime_ns == before
  result = generate(folder.parent.parent, '--disturbance', '2')
  assert result.returncode == 2 and 'exists already with another recipe' in result.stderr


def test_bad_input(tmp_path):
  (tmp_path / 'metaworld.raw').mkdir()
  (tmp_path / 'metaworld.raw/recipe.json').write_text(json.dumps({'seed': 99}))
  assert 'made by another recipe' in generate(tmp_path).stderr
  assert "Did you mean 'reach-v3'" in generate(tmp_path / 'other', '--tasks', 'raech-v3').stderr
  for wrong in ({'episodes': 0}, {'seed': -1}, {'disturbance': float('nan')}):
    with pytest.raises(ValueError, match=f'--{next(iter(wrong))} is'):
      dataclasses.replace(CONFIG, **wrong)


def test_every_task_has_its_episodes():
  config = dataclasses.replace(CONFIG, episodes=30)
  splits = config.splits()
  assert splits == {'train': (0, 300), 'val': (300, 330)}
  train, val = ([config.episode(number) for number in range(*span)] for span in splits.values())
  assert sorted(train) == sorted((task, i) for task in config.task_names for i in range(30))
  assert sorted(val) == sorted((task, 30 + i) for task in config.task_names for i in range(3))


def test_episode_depends_on_seed_task_and_index_alone(recorder):
  """MT10's episodes are a part of MT50's, and of a single task's."""
  first, second = recorder.record(DRAWER), recorder.record(DRAWER + 1)
  single = demonstrations.Recorder(dataclasses.replace(CONFIG, tasks='drawer-open-v3')).record(1)
  assert single['episode_metadata'].pop('number') == 1 and second['episode_metadata'].pop('number') == DRAWER + 1
  assert pickle.dumps(single) == pickle.dumps(second) != pickle.dumps(first)


def test_starts_are_never_evaluated():
  last = dataclasses.replace(CONFIG, seed=9999, episodes=5000)
  assert (last.seed * 10_000 + last.episodes + last.held_out) * 20 < 2 ** 31 < FIRST_SEED
  env = envs.make('metaworld/mt10', image_size=(8, 8), renderer='none').unwrapped
  for task in ('reach-v3', 'drawer-open-v3', 'window-open-v3'):
    states = set()
    for seed in (*range(0, 60, 20), *range(FIRST_SEED, FIRST_SEED + 30, 10)):
      env.reset(seed=seed, options={'skill': task})
      states.add(tuple(env.state))
    assert len(states) == 6


def test_recorded_actions_are_the_experts(recorder):
  """Disturbances change the states, but not the recorded first action."""
  one, other = (demonstrations.Recorder(dataclasses.replace(CONFIG, disturbance=strength)).record(REACH)['steps']
                for strength in (0, 1))
  np.testing.assert_array_equal(one[0]['action'], other[0]['action'])
  assert not np.array_equal(one[1]['observation']['state'], other[1]['observation']['state'])


def test_failed_attempts_are_repeated_from_another_start(monkeypatch):
  tried = []

  def reset(self, *, seed, options):
    tried.append(seed)
    return {}, {}

  monkeypatch.setattr(MetaWorld, 'reset', reset)
  monkeypatch.setattr(demonstrations.Recorder, '_follow_expert', lambda *_: ([], {'success': len(tried) == 3}))
  recorder = demonstrations.Recorder(CONFIG)
  metadata = recorder.record(REACH + 1)['episode_metadata']
  assert tried == [20, 21, 22] and metadata['start'] == 22 and metadata['failed_attempts'] == 2
  with pytest.raises(RuntimeError, match='drawer-open-v3: the expert failed from 20 starts'):
    recorder.record(DRAWER)


def test_frequency_of_disturbances():
  disturb = demonstrations.make_disturbance(np.random.default_rng(0))
  executed = np.array([disturb(np.array([0.2, 0, 0, 0.6], np.float32)) for _ in range(5000)])
  assert not actions.METAWORLD.clipped(executed).any()
  assert 0.005 < (executed[:, 3] < 0).mean() < 0.02
  assert 0.15 < np.median(np.abs(executed[:, 1])) / 0.6745 < 0.3  # noise of 0.2, and pushes
  quiet = demonstrations.make_disturbance(np.random.default_rng(0), 0.0)
  np.testing.assert_allclose(quiet(np.array([0.2, -1, 1, 0.6])), [0.2, -1, 1, 0.6], rtol=1e-6)
