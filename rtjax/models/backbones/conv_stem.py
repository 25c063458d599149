"""Convolutional stem: features finer than a ViT's patches, computed before them.

    pixels [B, H, W, 3]
      stem patches of p x p, linear, instance norm, GELU       [B, H/p, W/p, C]
      ConvBlocks: x += GELU(instance_norm(conv 3x3(x)))        [B, H/p, W/p, C]     the feature map
      patches of (P/p) x (P/p) stem patches, as in the ViT     [B, N, D]

It is the hMLP stem of Touvron et al. 2022 with instance norms in place of batch norms. The convolutions are an addition
for small networks trained from scratch.
"""
import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from rtjax.models.layers import initializers
from rtjax.models.layers.common import lecun_linear
from rtjax.models.layers.convolution import dense_conv, patchify


@dataclasses.dataclass(frozen=True)
class ConvStemConfig:
  """Shape of the stem.

  Attributes:
    patch: p, pixels across a stem patch, a divisor of the ViT's patch; 0 = no stem, as in published weights.
    width: C, channels of the feature map.
    blocks: 3x3 convolutions on the stem patches, each with a residual connection.
  """
  patch: int = 0
  width: int = 64
  blocks: int = 0

  def __post_init__(self) -> None:
    if self.patch < 0 or self.width < 1:
      raise ValueError(f'stem.patch is {self.patch} with stem.width {self.width}, expected a patch of 0 (no stem) or '
                       'more, and a width of at least 1.')
    if self.blocks < 0 or (self.blocks and not self.patch):
      raise ValueError(f'stem.blocks is {self.blocks} with stem.patch {self.patch}, expected 0 (none), or more with a '
                       'stem patch of at least 1.')


class ConvBlock(nnx.Module):
  """x += GELU(instance_norm(3x3 convolution of x))."""

  def __init__(self, width: int, *, rngs: nnx.Rngs):
    normal = initializers.lecun_normal(in_axis=(0, 1, 2))
    self.kernel = nnx.Param(normal(rngs.params(), (3, 3, width, width)))

  def __call__(self, x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
    y = dense_conv(x, self.kernel[...].astype(x.dtype), 1, ((1, 1), (1, 1)))
    return x + _gelu(instance_norm(y))


class ConvStem(nnx.Module):
  """Map pixels to a feature map; see the module's docstring."""

  def __init__(self, config: ConvStemConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    self.config = config
    self.patch_embedding = lecun_linear(config.patch ** 2 * 3, config.width, dtype=dtype, rngs=rngs)
    self.blocks = nnx.List([ConvBlock(config.width, rngs=rngs) for _ in range(config.blocks)])

  def __call__(self, pixels: Float[Array, 'B H W 3']) -> Float[Array, 'B h w C']:
    x = _gelu(instance_norm(self.patch_embedding(patchify(pixels, self.config.patch))))
    for block in self.blocks:
      x = block(x)
    return x


def instance_norm(x: Float[Array, 'B H W C']) -> Float[Array, 'B H W C']:
  """Normalise each channel over its image, without scale and bias."""
  x32 = x.astype(jnp.float32)
  centred = x32 - jnp.mean(x32, (1, 2), keepdims=True)
  return (centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), (1, 2), keepdims=True) + 1e-3)).astype(x.dtype)


_gelu = functools.partial(jax.nn.gelu, approximate=False)
