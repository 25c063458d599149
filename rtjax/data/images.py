"""Encoded images to pixels, as TFDS decodes them; resized as RT-1-X does where asked."""
from collections.abc import Callable
from typing import Any

import numpy as np

from rtjax.data.tf import tf, tfds

Decoder = Callable[[Any], np.ndarray]


def decoder(feature: Any, size: tuple[int, int] | None, antialias: bool = False) -> Decoder:
  """A function from a stored image (bytes, or uint8 [h, w, 3]) to uint8 [H, W, 3]; threads may share it.

  Args:
    feature: the TFDS feature of the image.
    size: (height, width) to resize to, or None to leave the image as it is. Bilinear with half-pixel centres and
      without antialiasing, aspect kept and the rest black, numbers truncated to uint8: `tf.image.resize_with_pad` as
      in google-deepmind/open_x_embodiment's examples.
    antialias: average over what is made smaller; for photographs, which are several times as large.
  """
  decode: Decoder = _decode if isinstance(feature, tfds.features.Image) else (lambda stored: stored)
  if size is None or tuple(size) == feature.shape[:2]:
    return decode

  @tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
  def resize(image: Any) -> Any:
    return tf.cast(tf.image.resize_with_pad(image, *size, antialias=antialias), tf.uint8)

  def brought_to_size(stored: Any) -> np.ndarray:
    image = decode(stored)
    if image.ndim != 3:  # A tf.function that refuses its first argument keeps its lock; other threads hang.
      raise ValueError(f'it is a moving picture, {list(image.shape)}')
    return image if image.shape[:2] == tuple(size) else np.asarray(resize(image))

  return brought_to_size


def _decode(stored: bytes) -> np.ndarray:
  # The call that TFDS's decode_example makes, which spends 30 us a picture around it. In an array, since TensorFlow
  # throws and catches an exception for bytes: 22 us instead of 50 beside the decoding itself.
  return np.asarray(tf.raw_ops.DecodeImage(contents=np.array(stored, object), channels=3))
