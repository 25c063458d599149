"""Decoded images against TFDS's own decoding."""
import numpy as np
import pytest
import tensorflow_datasets as tfds

from rtjax.data import images
from rtjax.data.tf import tf

NOISE = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)


@pytest.mark.parametrize('encoding', ['jpeg', 'png'])
@pytest.mark.parametrize('channels', [1, 3])
def test_pixels_are_those_of_tfds(encoding, channels):
  feature = tfds.features.Image(shape=(37, 50, 3), encoding_format=encoding)
  smooth = tf.cast(tf.image.resize(NOISE[:5, :7, :channels], (37, 50)), tf.uint8)
  stored = (tf.io.encode_jpeg if encoding == 'jpeg' else tf.io.encode_png)(smooth).numpy()
  decoded = images.decoder(feature, None)(stored)
  assert decoded.dtype == np.uint8
  np.testing.assert_array_equal(decoded, feature.decode_example(stored))


def test_antialias_averages_when_shrinking():
  """Stripes one pixel wide, shrunk to a third, become their mean."""
  stripes = np.zeros((24, 24, 3), np.uint8)
  stripes[:, ::2] = 255
  feature = tfds.features.Image(shape=(24, 24, 3))
  stored = np.asarray(tf.io.encode_png(stripes)).item()
  sharp, smooth = (images.decoder(feature, (8, 8), antialias)(stored) for antialias in (False, True))
  assert np.abs(smooth[:, 1:-1].astype(int) - 127).max() < 20 < np.ptp(sharp)


def test_an_image_of_the_target_size_is_unchanged():
  image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  stored = np.asarray(tf.io.encode_png(image)).item()
  np.testing.assert_array_equal(images.decoder(tfds.features.Image(), (8, 8))(stored), image)
