"""Episodes as TFDS itself reads them, and refusals of wrong features."""
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import tiny_rlds
from helpers.paths import ROOT

from rtjax import actions
from rtjax.data.rlds import adapters
from rtjax.data.rlds.episodes import Dataset
from rtjax.data.tf import rlds, tf

SPEC = actions.ARM_7D


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


@pytest.mark.parametrize('encoding', ['none', 'zlib'])
def test_uncompressed_images(tmp_path, encoding):
  layout = tiny_rlds.features(tfds.features.Tensor(shape=tiny_rlds.IMAGE, dtype=np.uint8, encoding=encoding))
  episodes = read_all(open_tiny(tiny_rlds.write_lengths(tmp_path, [3, 2], layout=layout)))
  assert episodes[1].images.dtype == np.uint8 and episodes[1].images.shape == (2, *tiny_rlds.IMAGE)
  np.testing.assert_array_equal(episodes[1].images[1], tiny_rlds.image(1, 1))


def test_only_the_chosen_camera_is_read(shared):
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
  with pytest.raises(ValueError, match='proprioception is on, but'):
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


def test_nan_action_is_named(tmp_path):
  bad = tiny_rlds.steps(1, 4)
  bad[2]['action'][4] = np.inf
  bad[3]['action'][1] = np.nan
  dataset = open_tiny(tiny_rlds.write(tmp_path, [tiny_rlds.steps(0, 2), bad]))
  with pytest.raises(ValueError, match=r"episode 1 of 'train', step 2: action rotation\[1\] is inf"):
    read_all(dataset)


def test_a_dataset_without_adapter(tmp_path):
  folder = tiny_rlds.write_lengths(tmp_path, [2], name='my_robot')
  with pytest.raises(ValueError, match=r"no adapter for the dataset 'my_robot'.*docs/guides/your_robot\.md"):
    open_tiny(folder)


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


@pytest.mark.parametrize(('shape', 'words'), [
    (['6'], r"episode 0 of 'train' does not fit features.json: cannot reshape"),
    (['100000000000'], 'expected at most')])
def test_features_of_other_shapes(small, tmp_path, shape, words):
  name = 'action' if shape == ['6'] else 'language_embedding'

  def change(content):
    tiny_rlds.step_features(content)[name]['tensor']['shape']['dimensions'] = shape
  folder = tiny_rlds.changed(small, tmp_path, 'features.json', change)
  with pytest.raises(ValueError, match=words):
    tiny_rlds.read(folder)
