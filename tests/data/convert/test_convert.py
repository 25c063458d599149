"""Logs of every layout to a dataset, read back as it is trained on."""
import io
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import robot_logs
from helpers.paths import ROOT
from PIL import Image
from scipy.spatial.transform import Rotation

from rtjax import actions, data
from rtjax.data.convert import __main__ as command
from rtjax.data.convert import episode as episodes
from rtjax.data.convert import images, logs, validate, write
from rtjax.data.convert.options import Options
from rtjax.data.rlds import adapters
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


def options(path, **changed):
  return Options(logs=path, **changed)


def first(path, **changed):
  chosen = options(path, **changed)
  return episodes.read(logs.find(path, chosen.action)[0], chosen, chosen.spec())


@pytest.mark.parametrize('layout', WRITERS)
def test_what_is_recorded_is_what_is_read(layout, tmp_path, monkeypatch, capsys):
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


def test_a_registered_adapter_comes_first(monkeypatch):
  monkeypatch.setattr(adapters, 'ADAPTERS', dict(adapters.ADAPTERS))
  metadata = adapters.standard_metadata(actions.ARM_7D, 'some/1')
  assert adapters.get('mine', metadata).embedding_id == 'some/1'
  mine = adapters.Adapter('mine', adapters.flat_arm)
  adapters.register(mine)
  assert adapters.get('mine', metadata) is mine
  with pytest.raises(ValueError, match='no adapter'):
    adapters.get('other', metadata | {'layout': 'unknown/7'})


@pytest.mark.parametrize('quaternions', [False, True])
def test_actions_from_poses(tmp_path, quaternions):
  """Each action, carried out from a pose, gives the next one."""
  draw = np.random.default_rng(0)
  places, angles = draw.normal(size=(5, 3)), draw.uniform(-1.4, 1.4, (5, 3))
  rotations = Rotation.from_euler('xyz', angles)
  orientation = rotations.as_quat() if quaternions else np.degrees(angles)
  poses = np.concatenate([places * 1000, orientation], 1)
  opening = np.linspace(0.08, 0, 5)
  arrays = robot_logs.episode(0, 5) | {'pose': poses, 'grip': opening}
  del arrays['action']
  episode = first(robot_logs.write_npz(tmp_path, {'a': arrays}), poses='pose', gripper='grip', translation_unit='mm',
                  rotation_unit='deg', gripper_range=(0, 0.08))
  assert len(episode) == len(episode.images) == len(episode.state) == len(episode.instructions) == 4
  np.testing.assert_allclose(places[:-1] + episode.actions[:, :3], places[1:], atol=1e-6)
  turned = Rotation.from_euler('xyz', episode.actions[:, 3:6]) * rotations[:-1]
  np.testing.assert_allclose(turned.as_matrix(), rotations[1:].as_matrix(), atol=1e-6)
  np.testing.assert_allclose(episode.actions[:, 6], opening[1:] / 0.08, atol=1e-6)
  np.testing.assert_array_equal(episode.images, arrays['images'][:-1])


def test_keys_take_parts_and_join(tmp_path):
  arrays = robot_logs.episode(0)
  arrays['both'] = np.concatenate([np.zeros((6, 7)), arrays['action'][:, :6]], 1)
  arrays['closed'] = 1 - arrays.pop('action')[:, 6]
  path = robot_logs.write_npz(tmp_path, {'a': arrays})
  episode = first(path, action='both[7:],closed', gripper_range=(1, 0))
  np.testing.assert_allclose(episode.actions, robot_logs.episode(0)['action'], rtol=1e-6)
  np.testing.assert_allclose(first(path, action='both[7:],closed', state='both[-1]').state, arrays['both'][:, -1:])


def test_jpeg_files_are_copied_and_bgr_is_turned(tmp_path):
  pixels = np.broadcast_to(np.uint8([200, 10, 30]), (4, 12, 16, 3))
  path = robot_logs.write_folders(tmp_path, {'a': robot_logs.episode(0, 4) | {'images': pixels}})
  jpeg = robot_logs.encoded(pixels[0], 'jpeg')
  for file in (path / 'a').glob('*.png'):
    file.unlink()
    file.with_suffix('.jpg').write_bytes(jpeg)
  assert images.encode(first(path).images[0], 'jpeg', False) == jpeg
  turned = Image.open(io.BytesIO(images.encode(first(path).images[0], 'png', True)))
  np.testing.assert_allclose(np.asarray(turned)[0, 0], [30, 10, 200], atol=4)


def test_splits_stay_when_episodes_come():
  names = [f'episode_{number}' for number in range(200)]
  made = [logs.NpzLog(name, pathlib.Path(name)) for name in names]
  fewer, all_of_them = write.splits(made[:100], 0.1), write.splits(made, 0.1)
  assert {log.name for log in fewer['val']} == {log.name for log in all_of_them['val'] if log in made[:100]}
  assert 10 < len(all_of_them['val']) < 30
  assert {split: len(part) for split, part in write.splits(made[:2], 0.01).items()} == {'train': 1, 'val': 1}
  assert list(write.splits(made[:1], 0.5)) == ['train'] and list(write.splits(made, 0)) == ['train']


def test_a_finished_dataset_stays_and_a_left_over_goes(tmp_path, monkeypatch):
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
  splits = write.splits

  def cut(found, share):
    (path / 'demo_3.npz').write_bytes(b'')
    return splits(found, share)

  monkeypatch.setattr(write, 'splits', cut)
  with pytest.raises(ValueError, match=r'demo_3: demo_3.npz cannot be read'):
    run(monkeypatch, path, '--out', tmp_path / 'out')
  assert not list((tmp_path / 'out/bot').iterdir())


def test_names_that_cannot_be(tmp_path):
  assert options(tmp_path, name='my_robot').dataset_name() == 'my_robot'
  with pytest.raises(ValueError, match="such as 'my_robot_2'"):
    options(tmp_path, name='My robot-2').dataset_name()
  with pytest.raises(ValueError, match="such as 'my_bridge'"):
    options(tmp_path, name='bridge').dataset_name()


@pytest.mark.parametrize(('changed', 'words'), [
    ({'poses': 'pose'}, 'give both or neither'), ({'val_share': 1.0}, 'val-share is 1.0'),
    ({'gripper_range': (1, 1)}, 'are the same'), ({'action_spec': 'arm7'}, "Did you mean 'arm7d'"),
    ({'poses': 'p', 'gripper': 'g', 'action_spec': 'rt1'}, 'numbers of arm7d'),
    ({'action_spec': 'rt1', 'gripper_range': (1, 0)}, "needs a field 'gripper'")])
def test_options_that_do_not_fit(tmp_path, changed, words):
  with pytest.raises(ValueError, match=words):
    options(tmp_path, **changed)


def test_help_needs_no_tensorflow():
  code = ('import sys; from rtjax.data.convert import __main__; from rtjax.data.convert.options import Options\n'
          'assert not {"tensorflow", "h5py"} & set(sys.modules)')
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_report_is_of_what_was_checked(tmp_path):
  path = robot_logs.write_npz(tmp_path, EPISODES)
  report = validate.check(logs.find(path, 'action'), options(path), actions.ARM_7D)
  assert report.findings == [] and report.image_size == (12, 16) and report.state == 7
  assert report.lengths == {name: len(arrays['action']) for name, arrays in EPISODES.items()}
  assert list(report.lengths) == [f'demo_{number}' for number in range(11)]
  np.testing.assert_allclose(report.period, 0.2)
