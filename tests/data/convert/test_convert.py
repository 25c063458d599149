"""Conversion of every layout to a dataset that training reads."""
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import robot_logs
from helpers.paths import ROOT

from rtjax import actions, data
from rtjax.data.convert import __main__ as command
from rtjax.data.convert import write
from rtjax.data.rlds.episodes import Dataset
from rtjax.data.tf import tf, tfds
from rtjax.language import instructions
from rtjax.runtime import serialization

EPISODES = {f'demo_{number}': robot_logs.episode(number, 4 + number % 3) for number in range(11)}
WRITERS = {
    'npz': (lambda folder: robot_logs.write_npz(folder / 'npz', EPISODES), []),
    'hdf5': (lambda folder: robot_logs.write_hdf5(folder / 'hdf5', EPISODES), robot_logs.HDF5_KEYS),
    'groups': (lambda folder: robot_logs.write_hdf5_groups(folder / 'g.h5', EPISODES), robot_logs.GROUP_KEYS),
    'folders': (lambda folder: robot_logs.write_folders(folder / 'dirs', EPISODES), [])}


def run(monkeypatch, *arguments):
  monkeypatch.setattr(sys, 'argv', ['convert', *map(str, arguments)])
  command.main()


@pytest.mark.parametrize('layout', WRITERS)
def test_recorded_episodes_are_read_back(layout, tmp_path, monkeypatch, capsys):
  make, keys = WRITERS[layout]
  run(monkeypatch, make(tmp_path), *keys, '--name', 'my_robot', '--out', tmp_path / 'out', '--image-format', 'png')
  folder = tmp_path / 'out/my_robot/1.0.0'
  assert f'Train on it with: --data {folder}' in capsys.readouterr().out
  assert [p.name for p in folder.parent.iterdir()] == ['1.0.0']
  builder, seen = tfds.builder_from_directory(folder), {'train': [], 'val': []}
  for split, names in seen.items():
    dataset = Dataset(str(folder), split, actions.ARM_7D, proprioception=True)
    read = dataset.read(dataset.chunks(64))
    for episode, by_tfds in zip(read, builder.as_dataset(split, shuffle_files=False), strict=True):
      name = by_tfds['episode_metadata']['file_path'].numpy().decode()
      names.append(name)
      expected = EPISODES[name]
      np.testing.assert_allclose(episode.actions, expected['action'], rtol=1e-6)
      np.testing.assert_allclose(episode.proprioception, expected['state'], rtol=1e-6)
      np.testing.assert_array_equal([tf.io.decode_image(p) for p in episode.images], expected['images'])
      assert set(episode.instructions) == {expected['instruction']}
      np.testing.assert_array_equal(
          episode.embeddings[0], instructions.HashedNgrams()([expected['instruction']])[0])
      steps = [jax.tree.map(lambda x: x.numpy(), step) for step in by_tfds['steps']]
      last = [0] * (len(steps) - 1) + [1]
      assert [s['is_first'] for s in steps] == last[::-1]
      for flag in ('is_last', 'is_terminal', 'reward'):
        assert [s[flag] for s in steps] == last
  assert sorted(seen['train'] + seen['val']) == sorted(EPISODES) and seen['val']


def test_trains_without_an_adapter_of_its_own(tmp_path, monkeypatch):
  path = robot_logs.write_npz(tmp_path / 'my_robot', EPISODES)
  run(monkeypatch, path, '--out', tmp_path)
  folder = str(tmp_path / 'my_robot/1.0.0')
  found = data.statistics([folder], data.DataConfig(cache_dir=str(tmp_path)), actions.ARM_7D)[folder]
  assert found['embedding_id'] == instructions.HASHED_NGRAMS and max(found['action']['clipped']) == 0
  for spec in (actions.ARM_7D, actions.RT1):
    with data.TrainingStream([folder], data.DataConfig(), spec, window=2, horizon=1, batch_size=3, seed=0) as stream:
      batch = next(stream)
    assert batch['images'].shape == (3, 2, robot_logs.HEIGHT, robot_logs.WIDTH, 3)
    assert batch['actions'].shape == (3, 2, 1, spec.size)
  assert np.abs(batch['actions']).max() > 0


def test_another_action_spec(tmp_path, monkeypatch):
  spec = actions.ActionSpec((actions.ActionField('left', 2, -3, 3, unit='rad'), actions.ActionField('hand', 1)))
  (tmp_path / 'two.json').write_text(json.dumps(serialization.to_json(spec)))
  numbers = {'demo': EPISODES['demo_0'] | {'action': np.arange(12, dtype=np.float32).reshape(4, 3) % 5 * 30}}
  numbers['demo']['action'][:, 2] = [0, 1, -1, 0]
  path = robot_logs.write_npz(tmp_path / 'two_arms', numbers)
  run(monkeypatch, path, '--out', tmp_path, '--action-spec', tmp_path / 'two.json', '--rotation-unit', 'deg')
  dataset = Dataset(str(tmp_path / 'two_arms'), 'train', spec)
  (episode,) = dataset.read(dataset.chunks(1))
  np.testing.assert_allclose(episode.actions, numbers['demo']['action'] * [np.pi / 180, np.pi / 180, 1], rtol=1e-6)
  with pytest.raises(ValueError, match=r"gives no \['gripper'.*it gives \['hand', 'left'\]"):
    dataset = Dataset(str(tmp_path / 'two_arms'), 'train', actions.ARM_7D)
    next(dataset.read(dataset.chunks(1)))


def test_a_finished_dataset_stays_and_a_partial_one_is_removed(tmp_path, monkeypatch):
  path = robot_logs.write_npz(tmp_path / 'bot', EPISODES)
  left_over = tmp_path / 'out/bot/incomplete.ABCDEF_1.0.0'
  left_over.mkdir(parents=True)
  run(monkeypatch, path, '--out', tmp_path / 'out')
  assert not left_over.exists()
  with pytest.raises(ValueError, match='exists already'):
    run(monkeypatch, path, '--out', tmp_path / 'out')


def test_a_full_disk_leaves_nothing(tmp_path):
  """The system refuses to let a file grow beyond 20 kB."""
  path = robot_logs.write_npz(tmp_path / 'bot', EPISODES)
  code = ('import resource, signal, sys; from rtjax.runtime import cli; from rtjax.data.convert.__main__ import main\n'
          'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
          'resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); cli.run(main)')
  done = subprocess.run([sys.executable, '-c', code, path, '--out', tmp_path / 'out'], capture_output=True, text=True,
                        cwd=ROOT)
  assert done.returncode == 2 and 'Is the disk full?' in done.stderr, done.stderr
  assert not list((tmp_path / 'out/bot').iterdir())


def test_a_log_that_changed_after_the_check(tmp_path, monkeypatch):
  path = robot_logs.write_npz(tmp_path / 'bot', EPISODES)
  splits = write.split_episodes

  def cut(found, share):
    (path / 'demo_3.npz').write_bytes(b'')
    return splits(found, share)

  monkeypatch.setattr(write, 'split_episodes', cut)
  with pytest.raises(ValueError, match=r'demo_3: demo_3.npz cannot be read'):
    run(monkeypatch, path, '--out', tmp_path / 'out')
  assert not list((tmp_path / 'out/bot').iterdir())
