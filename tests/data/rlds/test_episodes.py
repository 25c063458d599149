"""Episodes as TFDS itself reads them, and what happens when they cannot be read."""
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import tiny_rlds
from helpers.paths import ROOT

from rtjax import actions
from rtjax.data.rlds import adapters
from rtjax.data.rlds.episodes import Chunk, Dataset
from rtjax.data.tf import rlds, tf

SPEC = actions.ARM_7D
LENGTHS = [3, 7, 1, 12, 5, 9, 2, 4, 6, 8]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  return tiny_rlds.write_lengths(tmp_path_factory.mktemp('tiny'), LENGTHS, 3)


def open_tiny(folder, **options):
  return Dataset(str(folder), options.pop('split', 'train'), SPEC, **options)


def read_all(dataset):
  return list(dataset.read(dataset.chunks(2)))


def test_bridge_is_what_tfds_reads(shared):
  folder = shared / 'data/bridge_dataset/1.0.0'
  episodes = read_all(open_tiny(folder, proprioception=True))
  expected = tfds.builder_from_directory(folder).as_dataset('train', shuffle_files=False)
  assert len(episodes) == 25
  for number, (episode, rlds_episode) in enumerate(zip(episodes, expected, strict=True)):
    steps = list(rlds_episode[rlds.STEPS])
    assert episode.number == number and len(episode) == len(steps)
    for i, step in enumerate(steps):
      np.testing.assert_array_equal(episode.actions[i], step[rlds.ACTION])
      np.testing.assert_array_equal(episode.embeddings[i], step['language_embedding'])
      np.testing.assert_array_equal(episode.proprioception[i], step[rlds.OBSERVATION]['state'])
      np.testing.assert_array_equal(tf.io.decode_jpeg(episode.images[i]), step[rlds.OBSERVATION]['image_0'])
      assert episode.instructions[i] == step['language_instruction'].numpy().decode()


@pytest.mark.parametrize('split', ['train', 'train[:50%]', 'train[3:]', 'train[:2]+train[7:9]'])
@pytest.mark.parametrize('size', [1, 3, 64])
def test_chunks_cover_the_split_in_order(tiny, split, size):
  dataset = open_tiny(tiny, split=split)
  by_tfds = tfds.builder_from_directory(tiny).as_dataset(split, shuffle_files=False)
  expected = [int(e['steps'].cardinality()) for e in by_tfds]
  chunks = dataset.chunks(size)
  episodes = list(dataset.read(chunks))
  assert [len(e) for e in episodes] == expected
  assert [e.number for e in episodes] == list(range(dataset.num_episodes))
  assert max(c.take for c in chunks) <= size
  backwards = [e.number for e in dataset.read(chunks[::-1])]
  assert backwards == [c.first + i for c in chunks[::-1] for i in range(c.take)]


def test_a_dataset_is_named_by_folder_or_parent(tiny, tmp_path):
  parent = pathlib.Path(tiny).parent
  assert open_tiny(parent).identity == open_tiny(tiny).identity
  shutil.copytree(tiny, tmp_path / 'bridge_dataset/1.0.0')
  shutil.copytree(tiny, tmp_path / 'bridge_dataset/1.10.0')
  info = tmp_path / 'bridge_dataset/1.10.0/dataset_info.json'
  info.write_text(info.read_text().replace('1.0.0', '1.10.0'))
  (tmp_path / 'bridge_dataset/1.9.0').mkdir()
  newest = open_tiny(tmp_path / 'bridge_dataset')
  assert '/1.10.0/' in newest.files[0] and newest.identity != open_tiny(tiny).identity


def test_a_dataset_is_named_as_tfds_names_it(tiny, monkeypatch):
  folder = str(pathlib.Path(tiny).parent.parent)
  open_builder = tfds.core.read_only_builder.builder_from_files
  in_folder = lambda name: open_builder(name, data_dir=folder)  # noqa: E731
  monkeypatch.setattr(tfds.core.read_only_builder, 'builder_from_files', in_folder)
  assert open_tiny('bridge_dataset').num_episodes == open_tiny('bridge_dataset:1.0.0').num_episodes == len(LENGTHS)


@pytest.mark.parametrize('encoding', ['none', 'zlib'])
def test_pixels_that_are_stored_as_they_are(tmp_path, encoding):
  layout = tiny_rlds.features(tfds.features.Tensor(shape=tiny_rlds.IMAGE, dtype=np.uint8, encoding=encoding))
  episodes = read_all(open_tiny(tiny_rlds.write_lengths(tmp_path, [3, 2], layout=layout)))
  assert episodes[1].images.dtype == np.uint8 and episodes[1].images.shape == (2, *tiny_rlds.IMAGE)
  np.testing.assert_array_equal(episodes[1].images[1], tiny_rlds.image(1, 1))


def test_only_the_camera_asked_for_is_read(shared):
  dataset = open_tiny(shared / 'data/bridge_dataset/1.0.0')
  seen = []
  action = dataset.adapter.action
  dataset.adapter = adapters.Adapter(
      'bridge_dataset', lambda steps: seen.append(steps) or action(steps), image='observation/image_0',
      instruction='language_instruction', embedding='language_embedding')
  next(dataset.read(dataset.chunks(1)))
  assert set(seen[0]['observation']) == {'image_0', 'state'} and 'is_last' in seen[0]
  without = open_tiny(shared / 'data/bridge_dataset/1.0.0', images=False)
  assert len(next(without.read(without.chunks(1))).images) == 0


def test_missing_folder_and_unknown_names(tmp_path):
  for name in (str(tmp_path / 'nothing'), './nothing', '~/nothing_here'):
    with pytest.raises(FileNotFoundError, match='no such folder'):
      open_tiny(name)
  with pytest.raises(FileNotFoundError, match=r'no dataset_info\.json'):
    open_tiny(tmp_path)
  with pytest.raises(FileNotFoundError, match="Did you mean 'taco_play'"):
    open_tiny('taco_plai')
  for name in ('data/xyzzy', 'my robot', 'x/y/z'):
    with pytest.raises(FileNotFoundError, match='neither a folder nor a TFDS name'):
      open_tiny(name)


def test_a_file_in_place_of_a_folder(tmp_path, monkeypatch):
  (tmp_path / 'dataset_info.json').touch()
  monkeypatch.chdir(tmp_path)
  for name in (tmp_path / 'dataset_info.json', 'dataset_info.json'):
    with pytest.raises(NotADirectoryError, match='is a file, expected the folder of a dataset'):
      open_tiny(name)


def test_unknown_and_empty_splits(tiny):
  with pytest.raises(ValueError, match=r"'tran' cannot be had.*\['train'\]"):
    open_tiny(tiny, split='tran')
  with pytest.raises(ValueError, match=r'is empty.*train \(10 episodes\)'):
    open_tiny(tiny, split='train[:0%]')


def test_missing_features_are_named(tmp_path, monkeypatch):
  layout = tiny_rlds.features()
  steps = dict(layout['steps'].feature.items())
  steps['observation'] = {'image': tfds.features.Image(shape=tiny_rlds.IMAGE, encoding_format='png')}
  observation = {'image': tiny_rlds.image(0, 0)}
  folder = tiny_rlds.write(tmp_path, [tiny_rlds.steps(0, 2, observation=observation)],
                           layout=tfds.features.FeaturesDict({'steps': tfds.features.Dataset(steps)}))
  words = "expects the step feature 'observation/image_0'.*Did you mean 'observation/image'"
  with pytest.raises(ValueError, match=words):
    open_tiny(folder)
  bridge = adapters.get('bridge_dataset')
  options = dict(image='observation/image', instruction=bridge.instruction, embedding=bridge.embedding)

  def use(action):
    monkeypatch.setitem(adapters.ADAPTERS, 'bridge_dataset', adapters.Adapter('bridge_dataset', action, **options))

  use(bridge.action)
  with pytest.raises(ValueError, match='proprioception was asked for'):
    open_tiny(folder, proprioception=True)
  use(lambda steps: {'translation': steps['actions']})
  with pytest.raises(ValueError, match=r"episode 0 .* cannot read the actions: 'actions'.*'action', 'is_last'"):
    read_all(open_tiny(folder))
  use(lambda steps: {'translation': steps['action'][:, :3]})
  with pytest.raises(ValueError, match=r"gives no \['gripper', 'rotation'\]"):
    read_all(open_tiny(folder))
  use(lambda steps: {k: v[1:] for k, v in bridge.action(steps).items()})
  with pytest.raises(ValueError, match=r'shape \(1, 7\), expected \(2, 7\)'):
    read_all(open_tiny(folder))


def test_not_rlds_and_not_an_image(tmp_path):
  layout = tiny_rlds.features(tfds.features.Tensor(shape=(4,), dtype=np.float32))
  episode = tiny_rlds.steps(0, 2, observation={'image_0': np.zeros(4, np.float32), 'state': np.zeros(2, np.float32)})
  with pytest.raises(ValueError, match=r"'observation/image_0' is float32 \[4\], expected a uint8 image"):
    open_tiny(tiny_rlds.write(tmp_path, [episode], layout=layout))
  builder = tfds.dataset_builders.store_as_tfds_dataset(
      'bridge_dataset', '2.0.0', tfds.features.FeaturesDict({'x': np.int32}), {'train': [(0, {'x': 1})]},
      data_dir=tmp_path)
  with pytest.raises(ValueError, match="not an RLDS dataset, its features have no 'steps'"):
    open_tiny(builder.data_dir)


@pytest.mark.parametrize('cut', ['inside a record', 'between records'])
def test_truncated_file_is_named_with_the_episode(tiny, tmp_path, cut):
  folder = tmp_path / '1.0.0'
  shutil.copytree(tiny, folder)
  file = folder / 'bridge_dataset-train.tfrecord-00001-of-00003'
  data = file.read_bytes()
  first = int.from_bytes(data[:8], 'little') + 16  # A record is its length, a checksum, the data and a checksum.
  file.write_bytes(data[:first + (len(data) - first) // 2] if cut == 'inside a record' else data[:first])
  dataset = open_tiny(folder)
  start = next(c for c in dataset.chunks(64) if c.file == str(file))
  read = []
  with pytest.raises(ValueError) as error:
    for episode in dataset.read(dataset.chunks(64)):
      read.append(episode.number)
  damaged = max(read) + 1
  assert read == list(range(damaged)) and start.first < damaged < start.first + start.take
  assert f'cannot read episode {damaged}' in str(error.value) and file.name in str(error.value)
  assert f'record {damaged - start.first} of' in str(error.value)


def test_a_file_that_is_gone_is_named(tiny, tmp_path):
  folder = tmp_path / '1.0.0'
  shutil.copytree(tiny, folder)
  (folder / 'bridge_dataset-train.tfrecord-00002-of-00003').unlink()
  with pytest.raises(ValueError, match=r'cannot read episode 7 .*00002-of-00003'):
    read_all(open_tiny(folder))


def test_nan_action_is_named(tmp_path):
  bad = tiny_rlds.steps(1, 4)
  bad[2]['action'][4] = np.inf
  bad[3]['action'][1] = np.nan
  dataset = open_tiny(tiny_rlds.write(tmp_path, [tiny_rlds.steps(0, 2), bad]))
  with pytest.raises(ValueError, match=r"episode 1 of 'train', step 2: action rotation\[1\] is inf"):
    read_all(dataset)


def test_a_dataset_without_adapter(tmp_path):
  folder = tiny_rlds.write_lengths(tmp_path, [2], name='my_robot')
  with pytest.raises(ValueError, match=r"no adapter for the dataset 'my_robot'.*docs/your_robot\.md"):
    open_tiny(folder)


def test_reading_can_start_inside_a_file(tiny, monkeypatch):
  """And goes over a file once for chunks that lie one after another in it."""
  opened = []
  iterate = tf.compat.v1.io.tf_record_iterator
  monkeypatch.setattr(tf.compat.v1.io, 'tf_record_iterator', lambda file: opened.append(file) or iterate(file))
  dataset = open_tiny(tiny)
  chunk = dataset.chunks(64)[1]
  first, last = (Chunk(chunk.first + i, chunk.file, i, 1) for i in (0, chunk.take - 1))
  for chunks, passes in (([last], 1), ([first, last], 1), ([last, first], 2), ([first, first], 2)):
    opened.clear()
    assert [(e.number, len(e)) for e in dataset.read(chunks)] == [(c.first, LENGTHS[c.first]) for c in chunks]
    assert opened == passes * [chunk.file]


def test_steps_without_an_image_are_named(tmp_path):
  dataset = open_tiny(tiny_rlds.write_lengths(tmp_path, [2, 3]))
  (file,) = dataset.files
  records = list(tf.compat.v1.io.tf_record_iterator(file))
  damaged = tf.train.Example.FromString(records[1])
  del damaged.features.feature['steps/observation/image_0'].bytes_list.value[-1]
  with tf.io.TFRecordWriter(file) as writer:
    writer.write(records[0])
    writer.write(damaged.SerializeToString())
  with pytest.raises(ValueError, match="episode 1 of 'train': 'observation/image_0' has 2 images for 3 steps"):
    read_all(dataset)


def test_light_import_and_no_gpu():
  code = ('import sys, rtjax.data; from rtjax.data import DataConfig, WindowConfig\n'
          'assert "tensorflow" not in sys.modules\n'
          'rtjax.data.TrainingStream\n'
          'import tensorflow as tf\n'
          'assert tf.config.get_visible_devices("GPU") == [] and "reverb" not in sys.modules\n'
          'from rtjax.data.tf import rlds\n'
          'assert rlds.transformations.episode_length and callable(rtjax.data.statistics)')
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
