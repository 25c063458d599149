"""Conversion of every layout to a dataset that training reads."""
import json
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pytest
from helpers import robot_logs
from helpers.compiled import Compiled
from helpers.paths import ROOT

from rtjax import actions, data, models
from rtjax.data.convert import __main__ as command
from rtjax.data.convert import write
from rtjax.data.rlds.episodes import Dataset
from rtjax.data.tf import tf, tfds
from rtjax.language import instructions
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.runtime import lock, serialization

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
  with lock.beside(tmp_path / 'out/bot'), pytest.raises(lock.LockedError, match=r'\.bot is in use: process .* --name'):
    run(monkeypatch, path, '--out', tmp_path / 'out')
  assert left_over.exists()  # it may be of the process that holds the lock
  (tmp_path / 'scratch').mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'scratch'))
  run(monkeypatch, path, '--out', tmp_path / 'out')
  assert not list((tmp_path / 'scratch').iterdir())
  assert [p.name for p in (tmp_path / 'out').iterdir()] == ['bot']
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


def test_several_cameras_are_trained_on(tmp_path, monkeypatch, capsys):
  episodes = {name: arrays | {'front': arrays['images'], 'hand': 255 - arrays['images']}
              for name, arrays in EPISODES.items()}
  path = robot_logs.write_npz(tmp_path / 'bot', episodes)
  run(monkeypatch, path, '--out', tmp_path, '--image', 'front', '--views', 'wrist=hand', '--image-format', 'png')
  assert '--pipeline.views image wrist --model.views 2\n' in capsys.readouterr().out
  config = data.DataConfig(views=('image', 'wrist'), proprioception=True)
  with data.TrainingStream([str(tmp_path / 'bot')], config, actions.ARM_7D, window=1, horizon=1, batch_size=4,
                           seed=0) as stream:
    batch = next(stream)
  np.testing.assert_array_equal(batch['images'][:, :, 0], 255 - batch['images'][:, :, 1])
  config = models.RT1MultiviewConfig(
      views=2, image_size=(12, 16), action_spec=actions.ARM_7D, width=16, heads=2, layers=1, hidden=32,
      encoder=EfficientNetConfig(width=0.2, depth=0.2, stages=(Stage(3, 1, 16, 1, 2),)))
  terms = Compiled(models.build(config, seed=0)).loss(data.to_batch(batch), train=False)
  assert 3 < float(terms.total / terms.weight) < 9  # a guess: ln 256


def test_one_of_several_instructions_is_drawn_for_each_epoch(tmp_path, monkeypatch):
  wordings = ['take the cup', 'lift the mug', 'pick it up']
  episodes = {name: arrays | {'instruction': np.array([f'{text} of {name}' for text in wordings])}
              for name, arrays in EPISODES.items()}
  path = robot_logs.write_npz(tmp_path / 'bot', episodes)
  run(monkeypatch, path, '--out', tmp_path, '--paraphrases', '--val-share', '0')
  folder = str(tmp_path / 'bot')
  steps = sum(len(arrays['action']) for arrays in episodes.values())

  def epochs(count, skip=0, **options):
    options = {'window': 1, 'horizon': 1, 'batch_size': 1, 'seed': 0} | options
    with data.TrainingStream([folder], data.DataConfig(), actions.ARM_7D, **options) as stream:
      for _ in range(skip):
        next(stream)
      state = stream.state()
      stream.restore(state)
      return [[(int(b['episodes'][0]), str(b['instructions'][0]), b['instruction'][0, 0]) for b in
               (next(stream) for _ in range(steps))] for _ in range(count)]

  drawn = epochs(12)
  encoder = instructions.HashedNgrams()
  for epoch in drawn:
    by_episode = {number: {text for n, text, _ in epoch if n == number} for number, *_ in epoch}
    assert len(by_episode) == len(EPISODES) and all(len(texts) == 1 for texts in by_episode.values())
  for _, text, vector in drawn[0]:
    np.testing.assert_array_equal(vector, encoder([text])[0])
  seen = {text for epoch in drawn for _, text, _ in epoch}
  assert len(seen) > 0.9 * len(wordings) * len(EPISODES) and len({text for _, text, _ in drawn[0]}) == len(EPISODES)
  assert [row[:2] for row in epochs(1, skip=steps + 3)[0][:steps - 3]] == [row[:2] for row in drawn[1][3:]]
  dataset = Dataset(folder, 'train', actions.ARM_7D)
  assert {text for text, _ in dataset.instruction_embeddings()} == {
      f'{text} of {name}' for text in wordings for name in EPISODES}
  found = data.statistics([folder], data.DataConfig(cache_dir=str(tmp_path)), actions.ARM_7D)[folder]
  expected = np.concatenate([np.resize(encoder(list(e.paraphrases[0])), (len(e), encoder.size))
                             for e in dataset.read_all()])
  np.testing.assert_allclose(found['instruction']['mean'], expected.mean(0), rtol=1e-5, atol=1e-8)
  (episode,) = list(tfds.builder_from_directory(tmp_path / 'bot/1.0.0').as_dataset('train[:1]'))
  name = episode['episode_metadata']['file_path'].numpy().decode()
  assert [t.decode() for t in episode['episode_metadata']['paraphrases'].numpy()] == list(episodes[name]['instruction'])


def test_idle_and_empty_episodes_are_left_out(tmp_path, monkeypatch, capsys):
  still = {key: part.copy() if isinstance(part, np.ndarray) else part for key, part in EPISODES['demo_1'].items()}
  still['action'][1:4, :6], still['action'][:, 6] = 0, 0
  empty = {key: part[:0] if isinstance(part, np.ndarray) else part for key, part in still.items()}
  path = robot_logs.write_npz(tmp_path / 'bot', {'still': still, 'empty': empty})
  run(monkeypatch, path, '--out', tmp_path, '--drop-idle')
  printed = capsys.readouterr().out
  assert '1 left out for lack of steps (empty)' in printed and '3 steps (60.0%) do nothing' in printed
  dataset = Dataset(str(tmp_path / 'bot'), 'train', actions.ARM_7D, proprioception=True)
  (episode,) = dataset.read_all()
  np.testing.assert_allclose(episode.actions, still['action'][[0, 4]])
  np.testing.assert_allclose(episode.proprioception, still['state'][[0, 4]])
  robot_logs.write_npz(tmp_path / 'none', {'empty': empty})
  with pytest.raises(ValueError, match='no episode has two steps'):
    run(monkeypatch, tmp_path / 'none', '--out', tmp_path)


def test_an_absurd_embedding_is_named(tmp_path, monkeypatch):
  path = robot_logs.write_npz(tmp_path / 'bot', {'a': EPISODES['demo_0']})
  table = instructions.Table('mine', ('take object 0',), np.full((1, 4), 1e30, np.float32))
  monkeypatch.setattr(instructions, 'open_encoder', lambda name: table)
  with pytest.raises(ValueError, match="a: the embedding of 'take object 0' holds NaN, infinite or absurd"):
    run(monkeypatch, path, '--out', tmp_path)
