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
