"""EfficientNet (Tan and Le 2019) with a FiLM layer after every block.

    image [B, 300, 300, 3]
      stem     3x3 / 2, BatchNorm, swish                    150 x 150 x 40
      blocks   26 x (expand, depthwise, squeeze, project) + FiLM
               2 at 150 x 150 x 24, 3 at 75 x 75 x 32, 3 at 37 x 37 x 48, 5 at 18 x 18 x 96, 5 at 18 x 18 x 136,
               6 at 9 x 9 x 232, 2 at 9 x 9 x 384
      head     1x1, BatchNorm, swish                        9 x 9 x 1536

The sizes are those of B3 with the official padding. `ImageEncoder` wraps it with what comes before and after in RT-1.
Source: keras.applications.efficientnet; robotics_transformer, film_efficientnet/film_efficientnet_encoder.py and
pretrained_efficientnet_encoder.py.
"""
import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from rtjax.models.layers import initializers
from rtjax.models.layers.common import BatchNorm, Constant, dropout
from rtjax.models.layers.convolution import Padding, dense_conv, depthwise_conv, pointwise_conv
from rtjax.models.layers.film import Film
from rtjax.models.layers.resize import resize_bilinear

# Means and standard deviations of ImageNet's red, green and blue (0..1), as in Keras.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Stage:
  """Blocks of one resolution, before width and depth multiply them.

  Attributes:
    kernel: size of the convolution.
    repeats: number of blocks.
    features: output channels.
    expand: factor of the channels inside a bottleneck.
    stride: of the first block.
    dense: one ordinary convolution per block in place of the bottleneck, without `expand`. It multiplies more and is
      several times faster on a CPU where channels are few.
  """
  kernel: int
  repeats: int
  features: int
  expand: int
  stride: int
  dense: bool = False


B0_STAGES = (
    Stage(3, 1, 16, 1, 1), Stage(3, 2, 24, 6, 2), Stage(5, 2, 40, 6, 2), Stage(3, 3, 80, 6, 2),
    Stage(5, 3, 112, 6, 1), Stage(5, 4, 192, 6, 2), Stage(3, 1, 320, 6, 1))


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
  """Shape of the encoder; the defaults are B3.

  Attributes:
    width, depth: multipliers of B0's channels and repeats.
    stages: B0's stages, or fewer of them for a small network.
    padding: of stride-2 convolutions. 'official': k//2 - 1 before and k//2 after, whatever the size, as Keras does for
      an unknown input shape (300 ends as 9x9). 'same': as TensorFlow's SAME (10x10).
    drop_connect: rate at the last block; block i of n has rate * i / n.
    momentum: of BatchNorm's moving averages. 0.99 forgets the start after some 500 steps: a short run needs less.
    unbiased: whether BatchNorm's moving variance is the unbiased one (n / (n - 1)), as in Keras.
    head: channels of the last convolution, before the width is applied.
  """
  width: float = 1.2
  depth: float = 1.4
  stages: tuple[Stage, ...] = B0_STAGES
  padding: Literal['official', 'same'] = 'official'
  drop_connect: float = 0.2
  momentum: float = 0.99
  unbiased: bool = True
  head: int = 1280

  def channels(self, features: int) -> int:
    """Return `features` times the width, rounded to a multiple of 8."""
    scaled = features * self.width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded

  @property
  def out_channels(self) -> int:
    return self.channels(self.head)

  def repeats(self, stage: Stage) -> int:
    return math.ceil(self.depth * stage.repeats)

  def out_size(self, size: int) -> int:
    """Return the size of the last feature map."""
    for kernel, stride in ((3, 2), *((stage.kernel, stage.stride) for stage in self.stages)):
      size = (size + sum(conv_padding(size, kernel, stride, self.padding)) - kernel) // stride + 1
    return size


def conv_padding(size: int, kernel: int, stride: int, rule: str) -> tuple[int, int]:
  """Return the zeros before and after one axis of length `size`."""
  if stride > 1 and rule == 'official':
    return kernel // 2 - 1, kernel // 2
  total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
  return total // 2, total - total // 2


def _paddings(x: Array, kernel: int, stride: int, rule: str) -> Padding:
  return conv_padding(x.shape[1], kernel, stride, rule), conv_padding(x.shape[2], kernel, stride, rule)


# Keras's initializer of all convolutions of EfficientNet.
conv_init = initializers.variance_scaling(2.0, 'fan_out', 'truncated_normal')


class Conv1x1(nnx.Module):
  """A 1x1 convolution: one matrix product over all pixels."""

  def __init__(self, inputs: int, features: int, *, use_bias: bool = False,
               initializer: initializers.Initializer = conv_init, dtype: DTypeLike, rngs: nnx.Rngs):
    self.kernel = nnx.Param(initializer(rngs.params(), (inputs, features)))
    self.bias = nnx.Param(jnp.zeros(features)) if use_bias else None
    self.dtype = dtype

  def __call__(self, x: Float[Array, '*B I']) -> Float[Array, '*B O']:
    y = pointwise_conv(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
    return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class Block(nnx.Module):
  """Mobile inverted bottleneck with squeeze and excitation, then FiLM."""

  def __init__(self, inputs: int, features: int, stage: Stage, stride: int, drop_rate: float, condition: int,
               config: EfficientNetConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
    norm = functools.partial(BatchNorm, momentum=config.momentum, unbiased=config.unbiased)
    wide = inputs * stage.expand
    squeezed = max(1, inputs // 4)  # of the block's input, not of the expanded channels
    self.expands = stage.expand > 1
    if self.expands:
      self.expand = Conv1x1(inputs, wide, dtype=dtype, rngs=rngs)
      self.expand_norm = norm(wide)
    self.depthwise = nnx.Param(conv_init(rngs.params(), (stage.kernel, stage.kernel, wide, 1))[..., 0])
    self.depthwise_norm = norm(wide)
    self.squeeze = Conv1x1(wide, squeezed, use_bias=True, dtype=dtype, rngs=rngs)
    self.excite = Conv1x1(squeezed, wide, use_bias=True, dtype=dtype, rngs=rngs)
    self.project = Conv1x1(wide, features, dtype=dtype, rngs=rngs)
    self.project_norm = norm(features)
    self.film = Film(condition, features, dtype=dtype, rngs=rngs)
    self.kernel, self.stride, self.padding, self.dtype = stage.kernel, stride, config.padding, dtype
    self.residual = stride == 1 and inputs == features
    self.drop_rate = drop_rate

  def __call__(self, x: Float[Array, 'B H W C'], condition: Float[Array, 'B E'], train: bool = False,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B h w c']:
    y = x
    if self.expands:
      y = self.expand_norm(self.expand(y), train, swish=True)
    y = depthwise_conv(y, self.depthwise[...].astype(self.dtype), self.stride,
                       _paddings(y, self.kernel, self.stride, self.padding))
    y = self.depthwise_norm(y, train, swish=True)
    gate = self.excite(jax.nn.swish(self.squeeze(jnp.mean(y, (1, 2)))))
    y = self.project_norm(self.project(y * jax.nn.sigmoid(gate)[:, None, None]), train)
    if self.residual:
      y = x + dropout(y, self.drop_rate, rngs, (x.shape[0], 1, 1, 1))
    return self.film(y, condition)


class DenseBlock(nnx.Module):
  """An ordinary convolution, BatchNorm, swish, then FiLM; see `Stage`."""

  def __init__(self, inputs: int, features: int, stage: Stage, stride: int, drop_rate: float, condition: int,
               config: EfficientNetConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
    self.conv = nnx.Param(conv_init(rngs.params(), (stage.kernel, stage.kernel, inputs, features)))
    self.norm = BatchNorm(features, momentum=config.momentum, unbiased=config.unbiased)
    self.film = Film(condition, features, dtype=dtype, rngs=rngs)
    self.kernel, self.stride, self.padding, self.dtype = stage.kernel, stride, config.padding, dtype
    self.residual = stride == 1 and inputs == features
    self.drop_rate = drop_rate

  def __call__(self, x: Float[Array, 'B H W C'], condition: Float[Array, 'B E'], train: bool = False,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B h w c']:
    y = dense_conv(x.astype(self.dtype), self.conv[...].astype(self.dtype), self.stride,
                   _paddings(x, self.kernel, self.stride, self.padding))
    y = self.norm(y, train, swish=True)
    if self.residual:
      y = x + dropout(y, self.drop_rate, rngs, (x.shape[0], 1, 1, 1))
    return self.film(y, condition)


class FilmEfficientNet(nnx.Module):
  """EfficientNet with FiLM, up to its last feature map."""

  def __init__(self, config: EfficientNetConfig, condition: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    norm = functools.partial(BatchNorm, momentum=config.momentum, unbiased=config.unbiased)
    stem = config.channels(32)
    self.stem = nnx.Param(conv_init(rngs.params(), (3, 3, 3, stem)))
    self.stem_norm = norm(stem)
    plan = [(stage, repeat) for stage in config.stages for repeat in range(config.repeats(stage))]
    blocks, inputs = [], stem
    for index, (stage, repeat) in enumerate(plan):
      features = config.channels(stage.features)
      block = DenseBlock if stage.dense else Block
      blocks.append(block(inputs, features, stage, stage.stride if repeat == 0 else 1,
                          config.drop_connect * index / len(plan), condition, config, dtype=dtype, rngs=rngs))
      inputs = features
    self.blocks = nnx.List(blocks)
    self.head = Conv1x1(inputs, config.out_channels, dtype=dtype, rngs=rngs)
    self.head_norm = norm(config.out_channels)
    self.padding, self.dtype = config.padding, dtype

  def __call__(self, x: Float[Array, 'B H W 3'], condition: Float[Array, 'B E'], train: bool = False,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B h w C']:
    x = self.stem_features(x, train)
    for block in self.blocks:
      x = block(x, condition, train, rngs)
    return self.head_norm(self.head(x), train, swish=True)

  def stem_features(self, x: Float[Array, 'B H W 3'], train: bool = False) -> Float[Array, 'B h w C']:
    """Return the output of the stem."""
    x = x.astype(self.dtype)
    x = dense_conv(x, self.stem[...].astype(self.dtype), 2, _paddings(x, 3, 2, self.padding))
    return self.stem_norm(x, train, swish=True)


class ImageEncoder(nnx.Module):
  """Resize, normalise, FiLM-EfficientNet, and a 1x1 convolution to `width` channels with FiLM."""

  def __init__(self, encoder: EfficientNetConfig, image_size: tuple[int, int], embedding_size: int, width: int, *,
               dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    self.mean = Constant(jnp.array(IMAGENET_MEAN))
    # Not squared: Keras divides by sqrt(variance) and then by sqrt(std), which together is the standard deviation.
    self.variance = Constant(jnp.array(IMAGENET_STD))
    self.encoder = FilmEfficientNet(encoder, embedding_size, dtype=dtype, rngs=rngs)
    self.conv = Conv1x1(encoder.out_channels, width, dtype=dtype, rngs=rngs,
                        initializer=initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal'))
    self.film = Film(embedding_size, width, dtype=dtype, rngs=rngs)
    self.image_size = image_size

  def normalize(self, images: Array) -> Float[Array, 'B h w 3']:
    """Return the encoder's input, from images [B, H, W, 3] in 0..255."""
    resized = resize_bilinear(images.astype(jnp.float32) * np.float32(1 / 255), self.image_size)
    centred = (resized - self.mean[...]) / jnp.maximum(jnp.sqrt(self.variance[...]), 1e-7)
    return centred * np.float32(1 / np.sqrt(IMAGENET_STD))

  def __call__(self, images: Array, instruction: Float[Array, 'B E'], train: bool = False,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B h w D']:
    """Return the last feature map, conditioned on the instruction."""
    x = self.encoder(self.normalize(images), instruction, train, rngs)
    return self.film(self.conv(x), instruction)
