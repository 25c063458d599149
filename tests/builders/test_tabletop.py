"""Demonstrations in the simulator: RLDS, held-out data rejected, failures separate, resumable."""
import dataclasses
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers.paths import ROOT

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from helpers import rlds_episodes

from rtjax import actions
from rtjax.data import catalog
from rtjax.data.config import DataConfig
from rtjax.data.episodes.statistics import statistics
from rtjax.data.generation.item_store import ItemStore
from rtjax.data.rlds import adapters
from rtjax.envs.tabletop import splits
from rtjax.language.instructions import hashed_ngrams

FOLDER = ROOT / 'data/tabletop'
sys.path.insert(0, str(FOLDER))

import demonstrations  # noqa: E402
import tabletop_dataset_builder as builders  # noqa: E402

CONFIG = demonstrations.RecordingConfig(seed=3, image_size=(32, 40))


def generate(out, *options):
  """Run the command line in a separate process."""
  command = [sys.executable, FOLDER / 'generate.py', '--out', out, '--episodes', '6', '--seed', '3',
             '--image-size', '32', '40', *options]
  return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Dataset folder written by the command line."""
  out = tmp_path_factory.mktemp('tabletop')
  result = generate(out)
  assert result.returncode == 0, result.stderr
  assert f'--data {out / "tabletop/1.0.0"}' in result.stdout
  assert not (out / 'tabletop.raw').exists()
  return out / 'tabletop/1.0.0'


def build(cls, tmp_path, episodes, config=CONFIG, **settings):
  """Build a dataset of raw episodes."""
  raw = ItemStore(tmp_path, demonstrations.EPISODES_PER_FILE)
  raw.write(0, episodes)
  builder = cls(raw=raw, recording=config, splits={'train': (0, len(episodes))}, data_dir=tmp_path, **settings)
  builder.download_and_prepare(download_dir=tmp_path)
  return builder


def test_features_and_flags_are_rlds(folder):
  builder = catalog.open_builder(str(folder))
  assert builder.info.metadata['renderer'] == 'rays'
  episodes = [e for split in ('train', 'val') for e in builder.as_dataset(split=split)]
  assert 5 <= len(episodes) <= 7
  for episode in episodes:
    metadata = {name: value.numpy() for name, value in episode['episode_metadata'].items()}
    assert metadata['success'] and metadata['split'] == b'seen' and metadata['renderer'] == b'rays'
    steps = list(episode['steps'].as_numpy_iterator())
    assert [s['is_first'] for s in steps] == [True] + [False] * (len(steps) - 1)
    assert [s['is_last'] for s in steps] == [False] * (len(steps) - 1) + [True]
    assert [s['reward'] for s in steps] == [0] * (len(steps) - 1) + [1]
    assert steps[-1]['is_terminal']
    text = steps[0]['language_instruction'].decode()
    np.testing.assert_array_equal(steps[0]['language_embedding'], hashed_ngrams(text))
    for s in steps:
      assert s['observation']['image'].shape == s['observation']['wrist_image'].shape == (32, 40, 3)
      assert s['language_instruction'].decode() == text


def test_dataset_has_no_held_out_data(folder):
  for split in ('train', 'val'):
    for episode in catalog.open_builder(str(folder)).as_dataset(split=split):
      skill = episode['episode_metadata']['skill'].numpy().decode()
      key = episode['episode_metadata']['task'].numpy().decode()
      names = {name.decode() for name in episode['episode_metadata']['objects'].numpy()}
      assert key in {task.key for task in splits.tasks(skill)}
      assert {name.split()[-1] for name in names} <= set(splits.SEEN_KINDS)


@pytest.mark.parametrize('split', ['unseen_instructions', 'unseen_objects', 'unseen_phrasings', 'unseen_backgrounds'])
def test_held_out_episodes_are_rejected(split):
  recorder = demonstrations.Recorder(
      demonstrations.RecordingConfig(image_size=(8, 8), renderer='none', split=split))
  for number in range(5):
    with pytest.raises(ValueError, match='held out of training data'):
      recorder.record(number)


def test_command_rejects_held_out_splits(tmp_path):
  result = generate(tmp_path, '--split', 'unseen_objects')
  assert result.returncode != 0 and 'held out of training data' in result.stderr
  assert not (tmp_path / 'tabletop').exists()


@pytest.mark.parametrize('spec_name', ['arm7d', 'rt1_x'])
def test_adapter(folder, spec_name):
  spec, adapter = actions.get(spec_name), adapters.get('tabletop')
  for steps in rlds_episodes.read(folder, 'train'):
    packed = spec.pack({name: part for name, part in adapter.action(steps).items() if name in spec.names})
    assert not spec.clipped(packed).any()
    assert adapters.feature(steps, adapter.image)[0][:2] == b'\xff\xd8'  # JPEG
    assert adapters.feature(steps, adapter.proprioception).shape == (len(packed), 7)
    assert adapters.feature(steps, adapter.embedding).shape == (len(packed), 512)


def test_statistics_name_the_renderer(folder, tmp_path):
  """Checkpoints store the statistics, and evaluation compares their renderer."""
  stored = statistics([str(folder)], DataConfig(cache_dir=str(tmp_path)), actions.get('arm7d'))
  assert stored[str(folder)]['renderer'] == 'rays'


def test_episode_depends_on_seed_and_number_alone():
  recorder = demonstrations.Recorder(CONFIG)
  first, second = recorder.record(0), recorder.record(1)
  repeated = demonstrations.Recorder(CONFIG).record(1)
  assert pickle.dumps(repeated) == pickle.dumps(second) != pickle.dumps(first)
  assert demonstrations.Recorder(dataclasses.replace(CONFIG, seed=4)).record(1) != second


def test_recorded_actions_are_the_experts():
  """Disturbances change the states, but not the recorded first action."""
  undisturbed, disturbed = (demonstrations.Recorder(demonstrations.RecordingConfig(
      image_size=(8, 8), renderer='none', disturbance=strength)).record(0) for strength in (0, 1))
  one, other = ([step['action'] for step in episode['steps']] for episode in (undisturbed, disturbed))
  np.testing.assert_array_equal(one[0], other[0])
  one_state, other_state = (episode['steps'][1]['observation']['state'] for episode in (undisturbed, disturbed))
  assert not np.array_equal(one_state, other_state)
  assert set(np.array(other)[:, 6]) <= {0, 1}


def test_frequency_of_disturbances():
  disturb = demonstrations.Disturbance(np.random.default_rng(0))
  action = np.array([0.02, 0, 0, 0, 0, 0, 0], np.float32)
  executed = np.array([disturb(action) for _ in range(5000)])
  assert not actions.ARM_7D.clipped(executed).any()
  assert 0.003 < (executed[:, 6] == 1).mean() < 0.010
  error = np.abs(executed[:, :2] - action[:2]).max(1)
  assert 0.03 < (error > 0.015).mean() < 0.12  # pushes
  assert 0.002 < np.median(error) < 0.008
  action[6] = 1
  opening = np.array([disturb(action) for _ in range(5000)])
  grasps = opening[:, 6] == 0
  assert 0.06 < grasps.mean() < 0.15 and opening[grasps, 2].mean() > 0.02
  assert abs(opening[~grasps, 2].mean()) < 0.002
  starts = np.flatnonzero(np.diff(grasps.astype(int)) == 1)
  assert np.diff(np.append(starts, len(grasps))).min() >= 2


def test_failures_are_separate_and_marked(tmp_path):
  recorder = demonstrations.Recorder(CONFIG)
  episodes = [recorder.record(number) for number in range(2)]
  episodes[1]['episode_metadata']['success'] = False
  successes, failures = (build(cls, tmp_path, episodes) for cls in (builders.Builder, builders.Failures))
  assert (successes.name, failures.name) == ('tabletop', 'tabletop_failures')
  for builder, success in ((successes, True), (failures, False)):
    (episode,) = builder.as_dataset(split='train')
    assert episode['episode_metadata']['success'].numpy() == success
  # Training on both is a mixture, in which failures have a tenth of the weight by default.
  assert adapters.get('tabletop_failures').weight == 0.1 * adapters.get('tabletop').weight


def test_multiview_stores_six_cameras(tmp_path):
  config = demonstrations.RecordingConfig(seed=3, image_size=(16, 16), multiview=True)
  episode = demonstrations.Recorder(config).record(0)
  builder = build(builders.Builder, tmp_path, [episode], config)
  (steps,) = rlds_episodes.read(builder.data_dir, 'train')
  adapter = adapters.get('tabletop')
  cameras = [adapter.camera(view) for view in ('image', *adapter.views)]
  first = [adapters.feature(steps, camera)[0] for camera in cameras]
  assert len(set(first)) == 6 and first == [episode['steps'][0]['observation'][c.split('/')[1]] for c in cameras]


def test_no_wrist_stores_the_front_camera_alone():
  with_wrist, without = (demonstrations.Recorder(dataclasses.replace(CONFIG, wrist=wrist)).record(0)
                         for wrist in (True, False))
  images = [step['observation']['image'] for step in without['steps']]
  assert images == [step['observation']['image'] for step in with_wrist['steps']]
  assert set(without['steps'][0]['observation']) == {'image', 'state'}


def test_outcome_in_words_extends_instructions(tmp_path):
  episodes = [demonstrations.Recorder(CONFIG).record(0)]
  (episode,) = build(builders.Builder, tmp_path, episodes, outcome_in_words=True).as_dataset(split='train')
  for step in episode['steps']:
    text = step['language_instruction'].numpy().decode()
    assert text == episodes[0]['steps'][0]['language_instruction'] + ' and succeed'
    np.testing.assert_array_equal(step['language_embedding'].numpy(), hashed_ngrams(text))


def test_resumes_after_an_interruption(folder, tmp_path):
  """Finished files are kept, partial ones replaced; the dataset is the same."""
  raw = ItemStore(tmp_path / 'tabletop.raw', demonstrations.EPISODES_PER_FILE)
  raw.folder.mkdir()
  raw.write(0, demonstrations.record(CONFIG, 0, 6))
  finished = raw.path(0)
  raw.path(6).with_suffix('.partial').write_bytes(b'half')
  os.utime(finished, (1, 1))
  script = ('import sys; sys.path.insert(0, {folder!r}); import demonstrations, generate, pathlib, shutil\n'
            'shutil.rmtree = lambda *a, **k: None\n'
            'if __name__ == "__main__":\n'
            '  recording = demonstrations.RecordingConfig(3, (32, 40))\n'
            '  generate.main(generate.Config(pathlib.Path({out!r}), 6, recording, workers=1))\n')
  file = tmp_path / 'run.py'
  file.write_text(script.format(folder=str(FOLDER), out=str(tmp_path)))
  subprocess.run([sys.executable, file], check=True, capture_output=True)
  assert finished.stat().st_mtime == 1
  for split in ('train', 'val'):
    one, other = (rlds_episodes.read(path, split) for path in (folder, tmp_path / 'tabletop/1.0.0'))
    assert len(one) == len(other) > 0
    for steps, expected in zip(one, other, strict=True):
      for path in ('action', 'observation/image', 'observation/state', 'language_instruction'):
        np.testing.assert_array_equal(adapters.feature(steps, path), adapters.feature(expected, path))


def test_interrupted_run_with_another_recipe_is_rejected(tmp_path):
  (tmp_path / 'tabletop.raw').mkdir()
  (tmp_path / 'tabletop.raw/recipe.json').write_text(json.dumps({'seed': 99}))
  result = generate(tmp_path)
  assert result.returncode != 0 and 'made by another recipe' in result.stderr


def test_complete_dataset_is_kept(folder):
  """The same command changes nothing; one with another recipe is an error."""
  before = (folder / 'dataset_info.json').stat().st_mtime_ns
  result = generate(folder.parent.parent)
  assert result.returncode == 0 and 'is complete already' in result.stdout
  assert (folder / 'dataset_info.json').stat().st_mtime_ns == before
  for other in (['--disturbance', '2'], ['--skills', 'pick'], ['--outcome-in-words']):
    result = generate(folder.parent.parent, *other)
    assert result.returncode != 0 and 'exists already with another recipe' in result.stderr


def test_skills_alternate():
  recorder = demonstrations.Recorder(dataclasses.replace(CONFIG, renderer='none', skills=('pick', 'close_drawer')))
  try:
    skills = [recorder.record(number)['episode_metadata']['skill'] for number in range(3)]
  finally:
    recorder.close()
  assert skills == ['pick', 'close_drawer', 'pick']
