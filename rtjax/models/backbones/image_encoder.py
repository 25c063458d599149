"""A picture and an instruction to a feature map: what RT-1 and its variants begin with.

Source: robotics_transformer, film_efficientnet/pretrained_efficientnet_encoder.py.
"""
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rtjax.models.backbones.film_efficientnet import Conv1x1, EfficientNetConfig, FilmEfficientNet
from rtjax.models.layers.common import Constant
from rtjax.models.layers.film import Film
from rtjax.models.layers.resize import resize_bilinear

# Means and standard deviations of ImageNet's red, green and blue (0..1), as in Keras.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PictureEncoder(nnx.Module):
  """Resize, normalise, FiLM-EfficientNet, and a 1x1 convolution to `width` channels with a FiLM layer of its own."""

  def __init__(self, encoder: EfficientNetConfig, image_size: tuple[int, int], embedding_size: int, width: int, *,
               dtype: Any = jnp.float32, rngs: nnx.Rngs):
    self.mean = Constant(jnp.array(IMAGENET_MEAN))
    # Not squared: Keras divides by sqrt(variance) and then by sqrt(std), which together is the standard deviation.
    self.variance = Constant(jnp.array(IMAGENET_STD))
    self.encoder = FilmEfficientNet(encoder, embedding_size, dtype=dtype, rngs=rngs)
    self.conv = Conv1x1(encoder.out_channels, width, dtype=dtype, rngs=rngs,
                        initializer=nnx.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal'))
    self.film = Film(embedding_size, width, dtype=dtype, rngs=rngs)
    self.image_size = image_size

  def normalize(self, images: Array) -> Float[Array, 'B h w 3']:
    """[B, H, W, 3], uint8 or float32 in 0..255, to the encoder's input."""
    resized = resize_bilinear(images.astype(jnp.float32) * np.float32(1 / 255), self.image_size)
    centred = (resized - self.mean[...]) / jnp.maximum(jnp.sqrt(self.variance[...]), 1e-7)
    return centred * np.float32(1 / np.sqrt(IMAGENET_STD))

  def features(self, images: Array, embeddings: Float[Array, 'B E'], train: bool = False,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B h w D']:
    """The last feature map, conditioned on the instruction."""
    x = self.encoder(self.normalize(images), embeddings, train, rngs)
    return self.film(self.conv(x), embeddings)
