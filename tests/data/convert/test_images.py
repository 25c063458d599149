"""Stored form of images."""
import io

import numpy as np
from helpers import robot_logs
from PIL import Image

from rtjax.data.convert.images import encode


def test_jpeg_is_copied_and_bgr_is_reversed():
  pixels = np.broadcast_to(np.uint8([200, 10, 30]), (12, 16, 3))
  jpeg = robot_logs.encoded(pixels, 'jpeg')
  assert encode(jpeg, 'jpeg', False) == jpeg
  reversed_image = Image.open(io.BytesIO(encode(jpeg, 'png', True)))
  np.testing.assert_allclose(np.asarray(reversed_image)[0, 0], [30, 10, 200], atol=4)
