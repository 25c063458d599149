"""Vision transformer (Dosovitskiy et al. 2021).

    pixels [B, H, W, 3], -1 to 1
      patches of P x P, one linear map       [B, N, D]       N = (H / P) * (W / P), row by row; the remainder is cropped
      class token in front, + positions      [B, 1 + N, D]   SigLIP has no class token
      layers: x += attention(norm(x)); x += mlp(norm(x))     full attention
      norm                                   [B, 1 + N, D]

With other settings it is SigLIP's vision tower (siglip.py).
A convolutional stem (conv_stem.py) may compute a feature map from which the patches are cut in place of pixels.

Source: google-research/vision_transformer; names and numbers as published on Hugging Face.
"""
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Num

from rtjax.models.backbones.conv_stem import ConvStem, instance_norm
from rtjax.models.layers import initializers
from rtjax.models.layers.attention import Attention
from rtjax.models.layers.common import dropout, lecun_linear
from rtjax.models.layers.convolution import patchify
from rtjax.models.layers.layer_stack import LayerStack
from rtjax.models.layers.mlp import Activation, Mlp
from rtjax.models.layers.resize import cubic_weights
from rtjax.models.registry import register


@dataclasses.dataclass(frozen=True)
class ViTConfig:
  """Shape of the network; the defaults are ViT-L/16 at 224.

  Attributes:
    image_size: height and width of the training images.
    patch: P, pixels across a patch.
    width: D, width of the transformer.
    layers: layers of the transformer.
    heads: attention heads of a layer, of width / heads channels.
    mlp_width: width of the hidden layer of the MLPs.
    class_token: whether a learned token stands in front of the patches.
    activation: of the MLPs: the exact GELU, or SigLIP's tanh GELU.
    epsilon: of the norms.
    interpolation: of `preprocess` where images are resized, as the published weights are used.
    pooler: whether `pool` exists: for ViT tanh of a linear map of the class token, for SigLIP attention.
    classes: logits of `classify`; 0 = no classifier.
    dropout: rate on the embeddings and on the output of attention and MLP.
    dtype: type of the computation; parameters are always float32, and so are norms and attention scores inside.
    remat: recompute each layer in the backward pass instead of keeping its activations.
  """
  image_size: tuple[int, int] = (224, 224)
  patch: int = 16
  width: int = 1024
  layers: int = 24
  heads: int = 16
  mlp_width: int = 4096
  class_token: bool = True
  activation: Activation = 'gelu'
  epsilon: float = 1e-12
  interpolation: Literal['linear', 'cubic'] = 'linear'
  pooler: bool = False
  classes: int = 0
  dropout: float = 0.0
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  remat: bool = False

  def __post_init__(self) -> None:
    name = type(self).__name__
    for field in ('patch', 'width', 'layers', 'heads', 'mlp_width'):
      if getattr(self, field) < 1:
        raise ValueError(f'{name}.{field} is {getattr(self, field)}, it must be at least 1.')
    if min(self.image_size) < self.patch:
      raise ValueError(f'{name}.image_size is {self.image_size}, smaller than one patch of {self.patch} pixels.')
    if self.width % self.heads:
      raise ValueError(f'{name}.width {self.width} does not divide into {self.heads} heads.')
    if not self.class_token and (self.classes or (self.pooler and name == 'ViTConfig')):
      raise ValueError(f'{name}.class_token is False, but pooler or classes read the class token.')
    if not 0 <= self.dropout < 1:
      raise ValueError(f'{name}.dropout is {self.dropout}, expected 0 (none) to below 1.')

  @property
  def grid(self) -> tuple[int, int]:
    """Patches down and across."""
    return self.image_size[0] // self.patch, self.image_size[1] // self.patch

  @property
  def tokens(self) -> int:
    """N, patches of an image."""
    return self.grid[0] * self.grid[1]


def layer_norm(config: ViTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
  # The variance in two passes: so small an epsilon does not save E[x^2] - E[x]^2 that has lost all its digits.
  return nnx.LayerNorm(config.width, epsilon=config.epsilon, use_fast_variance=False, dtype=jnp.dtype(config.dtype),
                       rngs=rngs)


def attention(config: ViTConfig, rngs: nnx.Rngs) -> Attention:
  return Attention(config.width, config.heads, config.width // config.heads, dtype=jnp.dtype(config.dtype), rngs=rngs)


def mlp(config: ViTConfig, rngs: nnx.Rngs) -> Mlp:
  return Mlp(config.width, config.mlp_width, config.activation, dtype=jnp.dtype(config.dtype), rngs=rngs)


class Layer(nnx.Module):
  """x += attention(norm(x)); x += mlp(norm(x))."""

  def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
    self.attention_norm, self.attention = layer_norm(config, rngs), attention(config, rngs)
    self.mlp_norm, self.mlp = layer_norm(config, rngs), mlp(config, rngs)
    self.dropout = config.dropout

  def __call__(self, x: Float[Array, 'B N D'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    y = self.attention_norm(x)
    x = x + dropout(self.attention(y, y), self.dropout, rngs)
    return x + dropout(self.mlp(self.mlp_norm(x)), self.dropout, rngs)


def sincos_position_embedding(grid: tuple[int, int], width: int) -> Float[np.ndarray, 'N D']:
  """Return sines and cosines of row and column, as initial positions.

  Each of the four has a quarter of the width.
  A small network that starts from noise takes thousands of steps to learn where its patches are (Beyer et al. 2022,
  "Better plain ViT baselines", keeps these values fixed).
  """
  waves = width // 4
  frequencies = 1e4 ** -(np.arange(waves) / max(waves - 1, 1))
  angles = [np.multiply.outer(places.reshape(-1), frequencies) for places in np.indices(grid)]
  table = np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], -1)
  return np.pad(table, ((0, 0), (0, width - 4 * waves))).astype(np.float32)


def resize_positions(table: Float[Array, 'N D'], config: ViTConfig, grid: tuple[int, int]) -> Float[Array, 'n D']:
  """Return positions, interpolated for a grid of another size (cubic).

  Args:
    config: of the network that the table belongs to.
  """
  if grid == config.grid:
    return table
  first, (rows, columns) = int(config.class_token), config.grid
  down, across = cubic_weights(rows, grid[0]), cubic_weights(columns, grid[1])
  table_2d = table[first:].reshape(rows, columns, -1)
  resized = jnp.einsum('hr,wc,rcd->hwd', down, across, table_2d, precision='highest')
  return jnp.concatenate([table[:first], resized.reshape(-1, table.shape[-1])])


@register('vit', ViTConfig)
class ViT(nnx.Module):
  """Vision transformer; see the module's docstring.

  All methods are plain traceable code; `rngs` (stream `dropout`) turns dropout on.

  Args:
    stem: computes the feature map from which patches are cut; None: they are cut from the pixels.
  """

  def __init__(self, config: ViTConfig, *, stem: ConvStem | None = None, rngs: nnx.Rngs):
    c, dtype = config, jnp.dtype(config.dtype)
    self.config, self.stem = config, stem
    self.side, channels = (c.patch, 3) if stem is None else (c.patch // stem.config.patch, stem.config.width)
    self.patch_embedding = lecun_linear(self.side ** 2 * channels, c.width, dtype=dtype, rngs=rngs)
    if c.class_token:
      self.class_token = nnx.Param(jnp.zeros(c.width))
    first = initializers.normal(0.02)(rngs.params(), (int(c.class_token), c.width))
    self.positions = nnx.Param(jnp.concatenate([first, sincos_position_embedding(c.grid, c.width)]))
    self.layers = LayerStack(lambda: Layer(c, rngs=rngs), c.layers)
    self.norm = layer_norm(c, rngs)
    if c.pooler:
      self.pooler = self.make_pooler(rngs)
    if c.classes:
      self.classifier = lecun_linear(c.width, c.classes, dtype=dtype, rngs=rngs)

  def make_pooler(self, rngs: nnx.Rngs) -> nnx.Module:
    """Return the module behind `pool`."""
    return lecun_linear(self.config.width, self.config.width, dtype=jnp.dtype(self.config.dtype), rngs=rngs)

  def preprocess(self, images: Num[Array | np.ndarray, 'B H W 3']) -> Float[Array, 'B h w 3']:
    """Return pixels of the network's size in -1..1.

    Images come from a camera, in 0..255. The aspect is not kept. Resized as Pillow does it, with which the published
    weights are used: antialiased, first across, then down, rounded each time.
    """
    height, width = self.config.image_size
    resized = jnp.asarray(images, jnp.float32)
    for size in ((resized.shape[1], width), (height, width)):
      if resized.shape[1:3] != size:
        shape = (resized.shape[0], *size, 3)
        resized = jnp.clip(jnp.floor(jax.image.resize(resized, shape, self.config.interpolation) + 0.5), 0, 255)
    return resized / 127.5 - 1

  def __call__(self, pixels: Float[Array, 'B H W 3'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    """Return all tokens after the final norm, the class token first.

    Args:
      pixels: in -1..1; for another size than the configuration's, positions are interpolated.

    Raises:
      ValueError: an image is smaller than a patch.
    """
    return self.encode(self.features(pixels), rngs)

  def features(self, pixels: Float[Array, 'B H W 3']) -> Float[Array, 'B h w C']:
    """Return the input of the patch embedding, cropped to complete patches.

    It is the stem's feature map, or without a stem the pixels.
    """
    side, (_, height, width, _) = self.config.patch, pixels.shape
    if min(height, width) < side:
      raise ValueError(f'pixels has shape {pixels.shape}: smaller than one patch of {side} x {side}.')
    cropped = pixels[:, :height // side * side, :width // side * side]
    return cropped if self.stem is None else self.stem(cropped)

  def encode(self, features: Float[Array, 'B h w C'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    """Return all tokens, given the output of `features`."""
    x = dropout(self.embed(features), self.config.dropout, rngs)
    x, _ = self.layers.scan(lambda layer, x, rngs: (layer(x, rngs), None), x, remat=self.config.remat, rngs=rngs)
    return self.norm(x)

  def embed(self, features: Float[Array, 'B h w C']) -> Float[Array, 'B N D']:
    """Return the input of the first layer, given the output of `features`."""
    x = self.patch_embedding(patchify(features, self.side))
    if self.stem is not None:
      x = instance_norm(x)
    batch, rows, columns, _ = x.shape
    x = x.reshape(batch, rows * columns, -1)
    if self.config.class_token:
      first = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (batch, 1, x.shape[-1]))
      x = jnp.concatenate([first, x], 1)
    return x + self._positions((rows, columns)).astype(x.dtype)

  def patches(self, tokens: Float[Array, 'B N D']) -> Float[Array, 'B n D']:
    """Return the tokens without the class token."""
    return tokens[:, int(self.config.class_token):]

  def pool(self, tokens: Float[Array, 'B N D']) -> Float[Array, 'B D']:
    """Return one vector per image, given the network's output."""
    return jnp.tanh(self.pooler(tokens[:, 0]))

  def classify(self, tokens: Float[Array, 'B N D']) -> Float[Array, 'B classes']:
    """Return logits of the classes, given the network's output."""
    return self.classifier(tokens[:, 0]).astype(jnp.float32)

  def _positions(self, grid: tuple[int, int]) -> Float[Array, 'N D']:
    """Return one row per token, interpolated for a grid of another size."""
    return resize_positions(self.positions[...], self.config, grid)
