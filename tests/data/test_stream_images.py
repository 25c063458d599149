"""Pictures of other sizes than the stream gives, or of sizes that only the pictures tell."""
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from helpers import tiny_rlds

from rtjax.data import DataConfig


def test_image_size(tmp_path):
  """The host's resize is RT-1-X's, and brings datasets of other sizes together."""
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


def test_images_of_a_size_that_the_features_do_not_tell(tmp_path):
  layout = tiny_rlds.features(tfds.features.Image(encoding_format='png'))
  folder = tiny_rlds.write(tmp_path / 'same', [tiny_rlds.steps(0, 3)], layout=layout)
  with tiny_rlds.stream(folder) as stream:
    assert next(stream)['images'].shape == (8, 4, *tiny_rlds.IMAGE)
  episodes_of_two_sizes = [tiny_rlds.steps(0, 3), tiny_rlds.steps(1, 3, shape=(6, 6, 3))]
  folder = tiny_rlds.write(tmp_path / 'two', episodes_of_two_sizes, layout=layout)
  words = r'episode 1, step \d: the image is \(6, 6\), others are \(8, 10\)'
  with tiny_rlds.stream(folder) as stream, pytest.raises(ValueError, match=words):
    next(stream)
