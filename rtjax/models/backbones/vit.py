"""The vision transformer (Dosovitskiy et al. 2021); with other settings, SigLIP's tower (siglip.py).

    pixels [B, H, W, 3], -1 to 1
      patches of P x P, one linear map       [B, N, D]       N = (H / P) * (W / P), row by row; what is left over is cut
      class token in front, + positions      [B, 1 + N, D]   SigLIP has no class token
      layers: x += attention(norm(x)); x += mlp(norm(x))     everyone attends to everyone
      norm                                   [B, 1 + N, D]

Source: google-research/vision_transformer; names and numbers as published on Hugging Face.
"""
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rtjax.models.layers.attention import Attention
from rtjax.models.layers.common import dropout, run_again
from rtjax.models.layers.convolution import dense_conv
from rtjax.models.layers.resize import cubic_weights

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'gelu': functools.partial(jax.nn.gelu, approximate=False), 'gelu_tanh': jax.nn.gelu}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
  """The network's shape; the defaults are ViT-L/16 at 224.

  Attributes:
    image_size: height and width that it was made for.
    patch: P, height and width of a patch.
    width: D.
    layers, heads: how many; the heads divide the width among them.
    mlp_width: width inside the MLPs.
    class_token: whether a learned token goes with the patches.
    activation: of the MLPs: the exact GELU, or SigLIP's tanh GELU.
    epsilon: of the norms.
    interpolation: by which `prepare` resizes pictures: as the published weights are used.
    pooler: whether `pool` is there: of a ViT, tanh of a linear map of the class token; of SigLIP, attention.
    classes: logits of `classify`; 0: none.
    dropout: of the embeddings and of what each part adds.
    dtype: numbers to compute in; parameters are always float32, and so are norms and scores inside.
    remat: compute each layer again in the backward pass in place of keeping what is inside it.
    piece, piece_width: pictures are first cut into pieces of so many pixels a side, each of which becomes so many
      numbers through a linear map and a GELU; a patch is then the pieces in it (the hMLP stem of Touvron et al. 2022,
      with instance in place of batch norms). 0: none, a patch is its pixels, as in all published weights.
    mixes: convolutions over 3 x 3 pieces before they become patches, each added to what it sees; an addition, for
      small networks trained from scratch: what is learned in one place is known in all.
  """
  image_size: tuple[int, int] = (224, 224)
  patch: int = 16
  width: int = 1024
  layers: int = 24
  heads: int = 16
  mlp_width: int = 4096
  class_token: bool = True
  activation: Literal['gelu', 'gelu_tanh'] = 'gelu'
  epsilon: float = 1e-12
  interpolation: Literal['linear', 'cubic'] = 'linear'
  pooler: bool = False
  classes: int = 0
  dropout: float = 0.0
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  remat: bool = False
  piece: int = 0
  piece_width: int = 64
  mixes: int = 0

  def __post_init__(self) -> None:
    kind = type(self).__name__
    for name in ('patch', 'width', 'layers', 'heads', 'mlp_width'):
      if getattr(self, name) < 1:
        raise ValueError(f'{kind}.{name} is {getattr(self, name)}, it must be at least 1.')
    if min(self.image_size) < self.patch:
      raise ValueError(f'{kind}.image_size is {self.image_size}, not even one patch of {self.patch}.')
    if self.piece < 0 or self.piece_width < 1 or (self.piece and self.patch % self.piece):
      raise ValueError(f'{kind}.piece is {self.piece} of width {self.piece_width}, expected 0 (none) or what divides '
                       f'the patch of {self.patch} pixels, and a width of at least 1.')
    if self.mixes < 0 or (self.mixes and not self.piece):
      raise ValueError(f'{kind}.mixes is {self.mixes}, expected 0 (none) or, with pieces ({kind}.piece is '
                       f'{self.piece}), more.')
    if self.width % self.heads:
      raise ValueError(f'{kind}.width {self.width} does not divide into {self.heads} heads.')
    if not self.class_token and (self.classes or (self.pooler and kind == 'ViTConfig')):
      raise ValueError(f'{kind}.class_token is False, but pooler or classes ask for what reads it.')
    if not 0 <= self.dropout < 1:
      raise ValueError(f'{kind}.dropout is {self.dropout}, expected 0 (none) to below 1.')

  @property
  def grid(self) -> tuple[int, int]:
    """Patches down and across."""
    return self.image_size[0] // self.patch, self.image_size[1] // self.patch

  @property
  def tokens(self) -> int:
    """N, patches of a picture."""
    return self.grid[0] * self.grid[1]

  def to_dict(self) -> dict[str, Any]:
    return {'model': 'vit'} | dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, config: dict[str, Any]) -> 'ViTConfig':
    values = {key: value for key, value in config.items() if key != 'model'}
    return cls(**(values | {'image_size': tuple(values['image_size'])}))


class Mlp(nnx.Module):
  """Two linear maps with a GELU between them."""

  def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
    linear = functools.partial(nnx.Linear, kernel_init=nnx.initializers.glorot_uniform(),
                               dtype=jnp.dtype(config.dtype), rngs=rngs)
    self.hidden, self.out = linear(config.width, config.mlp_width), linear(config.mlp_width, config.width)
    self.activation = config.activation

  def __call__(self, x: Float[Array, 'B N D']) -> Float[Array, 'B N D']:
    return self.out(_ACTIVATIONS[self.activation](self.hidden(x)))


def layer_norm(config: ViTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
  # The variance in two passes: so small an epsilon does not save E[x^2] - E[x]^2 that has lost all its digits.
  return nnx.LayerNorm(config.width, epsilon=config.epsilon, use_fast_variance=False, dtype=jnp.dtype(config.dtype),
                       rngs=rngs)


def attention(config: ViTConfig, rngs: nnx.Rngs) -> Attention:
  return Attention(config.width, config.heads, config.width // config.heads, dtype=jnp.dtype(config.dtype), rngs=rngs)


class Layer(nnx.Module):
  """x += attention(norm(x)); x += mlp(norm(x))."""

  def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
    self.attention_norm, self.attention = layer_norm(config, rngs), attention(config, rngs)
    self.mlp_norm, self.mlp = layer_norm(config, rngs), Mlp(config, rngs=rngs)
    self.dropout = config.dropout

  def __call__(self, x: Float[Array, 'B N D'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    y = self.attention_norm(x)
    x = x + dropout(self.attention(y, y), self.dropout, rngs)
    return x + dropout(self.mlp(self.mlp_norm(x)), self.dropout, rngs)


class Mix(nnx.Module):
  """What pieces make of their neighbours; see `ViTConfig.mixes`."""

  def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
    width, normal = config.piece_width, nnx.initializers.lecun_normal(in_axis=(0, 1, 2))
    self.kernel = nnx.Param(normal(rngs.params(), (3, 3, width, width)))
    self.activation = config.activation

  def __call__(self, x: Float[Array, 'B h w C']) -> Float[Array, 'B h w C']:
    y = dense_conv(x, self.kernel[...].astype(x.dtype), 1, ((1, 1), (1, 1)))
    return x + _ACTIVATIONS[self.activation](stand_out(y))


def stand_out(x: Float[Array, 'B h w C']) -> Float[Array, 'B h w C']:
  """Each channel standardised over its picture (instance normalisation): what is the same all over it goes."""
  x32 = x.astype(jnp.float32)
  centred = x32 - jnp.mean(x32, (1, 2), keepdims=True)
  return (centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), (1, 2), keepdims=True) + 1e-3)).astype(x.dtype)


def sines(grid: tuple[int, int], width: int) -> Float[np.ndarray, 'N D']:
  """Where learned positions begin: sines and cosines of row and column, a quarter of the width each.

  From noise a small network takes thousands of steps to learn what is where (Beyer et al. 2022, "Better plain ViT
  baselines", keeps these fixed).
  """
  waves = width // 4
  frequencies = 1e4 ** -(np.arange(waves) / max(waves - 1, 1))
  angles = [np.multiply.outer(places.reshape(-1), frequencies) for places in np.indices(grid)]
  table = np.concatenate([wave(a) for a in angles for wave in (np.sin, np.cos)], -1)
  return np.pad(table, ((0, 0), (0, width - 4 * waves))).astype(np.float32)


def cut(x: Float[Array, 'B H W C'], side: int) -> Float[Array, 'B h w sideC']:
  """Squares of `side`, row by row, each as one vector."""
  batch, height, width, channels = x.shape
  squares = x.reshape(batch, height // side, side, width // side, side, channels).swapaxes(2, 3)
  return squares.reshape(batch, height // side, width // side, side * side * channels)


class ViT(nnx.Module):
  """See the module's docstring. All methods are plain traceable code; `rngs` (stream `dropout`) turns dropout on."""

  def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
    c, dtype = config, jnp.dtype(config.dtype)
    self.config = config
    linear = functools.partial(nnx.Linear, kernel_init=nnx.initializers.lecun_normal(), dtype=dtype, rngs=rngs)
    if c.piece:
      self.piece_embedding = linear(c.piece ** 2 * 3, c.piece_width)
    self.mixing = nnx.List([Mix(c, rngs=rngs) for _ in range(c.mixes)])
    self.patch_embedding = linear((c.patch // c.piece) ** 2 * c.piece_width if c.piece else c.patch ** 2 * 3, c.width)
    if c.class_token:
      self.class_token = nnx.Param(jnp.zeros(c.width))
    first = nnx.initializers.normal(0.02)(rngs.params(), (int(c.class_token), c.width))
    self.positions = nnx.Param(jnp.concatenate([first, sines(c.grid, c.width)]))
    self.layers = nnx.List([Layer(c, rngs=rngs) for _ in range(c.layers)])
    self.norm = layer_norm(c, rngs)
    if c.pooler:
      self.pooler = self.make_pooler(rngs)
    if c.classes:
      self.classifier = nnx.Linear(c.width, c.classes, dtype=dtype, rngs=rngs)

  def make_pooler(self, rngs: nnx.Rngs) -> Any:
    return nnx.Linear(self.config.width, self.config.width, dtype=jnp.dtype(self.config.dtype), rngs=rngs)

  def prepare(self, images: Array | np.ndarray) -> Float[Array, 'B h w 3']:
    """Pictures as a camera gives them, [B, H, W, 3] in 0..255, to pixels in -1..1 of the network's size.

    The aspect is not kept. Resized as Pillow does it, with which the published weights are used: antialiased, first
    across, then down, rounded each time.
    """
    height, width = self.config.image_size
    resized = jnp.asarray(images, jnp.float32)
    for size in ((resized.shape[1], width), (height, width)):
      if resized.shape[1:3] != size:
        shape = (resized.shape[0], *size, 3)
        resized = jnp.clip(jnp.floor(jax.image.resize(resized, shape, self.config.interpolation) + 0.5), 0, 255)
    return resized / 127.5 - 1

  def __call__(self, pixels: Float[Array, 'B H W 3'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    """All tokens, the class token first where there is one, after the final norm.

    Args:
      pixels: in -1..1; of another size than the configuration's, positions are interpolated.

    Raises:
      ValueError: a picture smaller than a patch.
    """
    return self.encode(self.stem(pixels), rngs)

  def encode(self, pieces: Float[Array, 'B h w C'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    """The tokens, from what `stem` gave."""
    x = dropout(self.embed(pieces), self.config.dropout, rngs)
    for layer in self.layers:
      x = run_again(layer, x, rngs) if self.config.remat else layer(x, rngs)
    return self.norm(x)

  def patches(self, tokens: Float[Array, 'B M D']) -> Float[Array, 'B N D']:
    """Without the class token: what a language model reads."""
    return tokens[:, int(self.config.class_token):]

  def pool(self, tokens: Float[Array, 'B N D']) -> Float[Array, 'B D']:
    """One vector for the picture, from what calling the network gave."""
    return jnp.tanh(self.pooler(tokens[:, 0]))

  def classify(self, tokens: Float[Array, 'B N D']) -> Float[Array, 'B V']:
    """Logits of the classes, from what calling the network gave."""
    return self.classifier(tokens[:, 0]).astype(jnp.float32)

  def stem(self, pixels: Float[Array, 'B H W 3']) -> Float[Array, 'B h w C']:
    """The pieces of all whole patches, or the pixels themselves."""
    c, (_, height, width, _) = self.config, pixels.shape
    if min(height, width) < c.patch:
      raise ValueError(f'pixels has shape {pixels.shape}: smaller than one patch of {c.patch} x {c.patch}.')
    x = pixels[:, :height // c.patch * c.patch, :width // c.patch * c.patch]
    if c.piece:
      x = _ACTIVATIONS[c.activation](stand_out(self.piece_embedding(cut(x, c.piece))))
    for mix in self.mixing:
      x = mix(x)
    return x

  def embed(self, pieces: Float[Array, 'B h w C']) -> Float[Array, 'B N D']:
    """What the first layer takes in, from what `stem` gave."""
    c = self.config
    x = self.patch_embedding(cut(pieces, c.patch // (c.piece or 1)))
    if c.piece:
      x = stand_out(x)
    batch, rows, columns, _ = x.shape
    x = x.reshape(batch, rows * columns, -1)
    if c.class_token:
      first = jnp.broadcast_to(self.class_token[...].astype(x.dtype), (batch, 1, x.shape[-1]))
      x = jnp.concatenate([first, x], 1)
    return x + self._positions((rows, columns)).astype(x.dtype)

  def _positions(self, grid: tuple[int, int]) -> Float[Array, 'N D']:
    """One row for each token, interpolated for a grid of another size."""
    table, (rows, columns) = self.positions[...], self.config.grid
    if grid == (rows, columns):
      return table
    first = int(self.config.class_token)
    down, across = cubic_weights(rows, grid[0]), cubic_weights(columns, grid[1])
    table_2d = table[first:].reshape(rows, columns, -1)
    resized = jnp.einsum('hr,wc,rcd->hwd', down, across, table_2d, precision='highest')
    return jnp.concatenate([table[:first], resized.reshape(-1, table.shape[-1])])
