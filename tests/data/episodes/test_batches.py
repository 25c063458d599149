"""Contents of batches of windows, against the rule that made the episodes."""
import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from helpers import tiny_rlds
from helpers.tiny_rlds import LENGTHS, all_windows, windows_of

from rtjax import actions
from rtjax.data import DataConfig, images, validation_batches
from rtjax.data.windows import WindowConfig

make = tiny_rlds.stream


def check_batch(batch, window, horizon, padding_in_loss=False, padding='front'):
  """Check a batch against the rule that made the dataset."""
  for row, (episode, end) in enumerate(windows_of(batch)):
    assert batch['instructions'][row] == f'task {episode}'
    for t in range(window):
      step = end - window + 1 + t if padding == 'front' else max(0, end - window + 1) + t
      real = 0 <= step <= end
      assert batch['frame_mask'][row, t] == real
      np.testing.assert_array_equal(batch['images'][row, t], tiny_rlds.image(episode, step) if real else 0)
      np.testing.assert_array_equal(batch['instruction'][row, t], tiny_rlds.embedding(episode, step) if real else 0)
      if 'proprioception' in batch:
        np.testing.assert_array_equal(batch['proprioception'][row, t], [episode, step] if real else 0)
      for f in range(horizon):
        inside = real and step + f < LENGTHS[episode]
        assert batch['action_mask'][row, t, f] == (inside or (padding_in_loss and not real))
        np.testing.assert_array_equal(batch['actions'][row, t, f], tiny_rlds.action(episode, step + f) if inside else 0)


@pytest.mark.parametrize('window,horizon,config', [
    (4, 1, DataConfig()), (6, 3, DataConfig(stride=6, proprioception=True)), (3, 2, DataConfig(padding_in_loss=True))])
def test_batches_hold_what_the_episodes_hold(tiny, window, horizon, config):
  with make(tiny, config, window=window, horizon=horizon) as stream:
    for _ in range(4):
      batch = next(stream)
      check_batch(batch, window, horizon, config.padding_in_loss)
  shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
  assert shapes == {
      'images': ((8, window, *tiny_rlds.IMAGE), 'uint8'), 'instruction': ((8, window, 512), 'float32'),
      'actions': ((8, window, horizon, 7), 'float32'), 'action_mask': ((8, window, horizon), 'bool'),
      'frame_mask': ((8, window), 'bool'), 'instructions': ((8,), 'object'), 'episodes': ((8,), 'int64'),
      'steps': ((8,), 'int32')} | ({'proprioception': ((8, window, 2), 'float32')} if config.proprioception else {})


@pytest.mark.parametrize('padding', ['front', 'back'])
def test_waypoints(tmp_path, padding):
  """Positions at the gripper's next change, or at the end."""
  commands = [[1, 1, 0, 0, 0, 1], [0, 0, 0], [1]]
  layout = tfds.features.FeaturesDict({'steps': tfds.features.Dataset(
      dict(tiny_rlds.features()['steps'].feature) | {'observation': {
          'image_0': tfds.features.Image(shape=tiny_rlds.IMAGE, encoding_format='png'),
          'state': tfds.features.Tensor(shape=(4,), dtype=np.float32)}})})
  made = [[step | {'action': np.float32([0, 0, 0, 0, 0, 0, command]), 'observation': {
      'image_0': tiny_rlds.image(number, t), 'state': np.float32([number, t, 10 * t, 99])}}
      for t, (step, command) in enumerate(zip(tiny_rlds.steps(number, len(episode)), episode, strict=True))]
      for number, episode in enumerate(commands)]
  reached = [[2, 2, 5, 5, 5, 5], [2, 2, 2], [0]]
  name = tiny_rlds.write(tmp_path, made, layout=layout)
  config = DataConfig(validation_split='train', waypoints=True)
  batch = next(validation_batches([name], config, actions.ARM_7D, window=2, horizon=1, batch_size=10, padding=padding))
  assert 'proprioception' not in batch and batch['waypoints'].dtype == np.float32
  for row, (episode, end) in enumerate(windows_of(batch)):
    steps = [s for s in (end - 1, end) if s >= 0]
    shown = [(episode, reached[episode][s], 10 * reached[episode][s]) for s in steps]
    empty = [(0, 0, 0)] * (2 - len(steps))
    np.testing.assert_array_equal(batch['waypoints'][row], empty + shown if padding == 'front' else shown + empty)


def test_waypoints_need_a_position(tiny):
  with pytest.raises(ValueError, match='x, y and z of the gripper'):
    make(tiny, DataConfig(waypoints=True))


def test_padding_behind(tiny):
  """The order is that of padding 'front'; frames fill the first slots."""
  config = DataConfig(proprioception=True)
  with make(tiny, config, horizon=2, padding='back') as stream, make(tiny, config, horizon=2) as front:
    for _ in range(4):
      batch, other = next(stream), next(front)
      check_batch(batch, 4, 2, padding='back')
      assert windows_of(batch) == windows_of(other)
      for row in np.flatnonzero(batch['steps'] >= 3):
        np.testing.assert_array_equal(batch['actions'][row], other['actions'][row])
  held_out = validation_batches([tiny], DataConfig(validation_split='train'), actions.ARM_7D, window=4, horizon=1,
                                batch_size=8, padding='back')
  for batch in held_out:
    check_batch({k: v[batch['episodes'] >= 0] for k, v in batch.items()}, 4, 1, padding='back')
  with pytest.raises(ValueError, match="padding is 'back'"):
    make(tiny, DataConfig(padding_in_loss=True), padding='back')


def test_uncompressed_images(tmp_path):
  layout = tiny_rlds.features(tfds.features.Tensor(shape=tiny_rlds.IMAGE, dtype=np.uint8))
  with make(tiny_rlds.write_lengths(tmp_path, LENGTHS[:4], layout=layout)) as stream:
    check_batch(next(stream), 4, 1)


@pytest.fixture
def decoded(monkeypatch):
  """Count the decoded images by their bytes."""
  counts = collections.Counter()
  original = images.decoder

  def counting(feature, size):
    decode = original(feature, size)
    return lambda stored: counts.update([bytes(stored)]) or decode(stored)

  monkeypatch.setattr(images, 'decoder', counting)
  return counts


def test_stride_of_the_window_decodes_each_frame_once(tiny, decoded):
  config = DataConfig(stride=4, shuffle_episodes=6)
  windows = len(all_windows(WindowConfig(4, 4)))
  for batch in validation_batches([tiny], DataConfig(stride=4, validation_split='train'), actions.ARM_7D, window=4,
                                  horizon=1, batch_size=8):
    check_batch({k: v[batch['episodes'] >= 0] for k, v in batch.items()}, 4, 1)
  assert set(decoded.values()) == {1} and len(decoded) == sum(LENGTHS)
  decoded.clear()
  with make(tiny, config, batch_size=windows) as stream:
    next(stream)
  # The next batch may have been started: each frame of an epoch is decoded once or twice.
  assert len(decoded) == sum(LENGTHS) and max(decoded.values()) <= 2


def test_image_size(tmp_path):
  """The host's resize is RT-1-X's, and allows datasets of several sizes."""
  shape = (13, 9, 3)
  layout = tiny_rlds.features(tfds.features.Image(shape=shape, encoding_format='png'))
  noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  steps = tiny_rlds.steps(0, 1, observation={'image_0': noise, 'state': np.zeros(2, np.float32)})
  tiny = tiny_rlds.write_lengths(tmp_path / 'tiny', [5] * 4)
  narrow = tiny_rlds.write(tmp_path / 'narrow', [steps], layout=layout)
  with pytest.raises(ValueError, match=r'differ in their image sizes.*\(8, 10\).*\(13, 9\).*image_size'):
    tiny_rlds.stream([tiny, narrow])
  with tiny_rlds.stream(narrow, DataConfig(image_size=(8, 10)), batch_size=1) as stream:
    resized = next(stream)['images'][0, -1]
  np.testing.assert_array_equal(resized, tf.cast(tf.image.resize_with_pad(noise, 8, 10), tf.uint8))
  assert not resized[:, [0, -1]].any() and resized[:, 2:-2].any()
  with tiny_rlds.stream([tiny, narrow], DataConfig(image_size=(8, 10)), batch_size=16) as stream:
    assert next(stream)['images'].shape == (16, 4, 8, 10, 3)


def test_images_without_a_size_in_the_features(tmp_path):
  layout = tiny_rlds.features(tfds.features.Image(encoding_format='png'))
  folder = tiny_rlds.write(tmp_path / 'same', [tiny_rlds.steps(0, 3)], layout=layout)
  with tiny_rlds.stream(folder) as stream:
    assert next(stream)['images'].shape == (8, 4, *tiny_rlds.IMAGE)
  episodes_of_two_sizes = [tiny_rlds.steps(0, 3), tiny_rlds.steps(1, 3, shape=(6, 6, 3))]
  folder = tiny_rlds.write(tmp_path / 'two', episodes_of_two_sizes, layout=layout)
  words = r'episode 1, step \d: the image is \(6, 6\), others are \(8, 10\)'
  with tiny_rlds.stream(folder) as stream, pytest.raises(ValueError, match=words):
    next(stream)
