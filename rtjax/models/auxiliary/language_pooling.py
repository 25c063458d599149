"""Language-attention pooling: tokens gathered where the features match the instruction.

TokenLearner weighs positions by their features; only FiLM makes these depend on the instruction. Here the instruction
attends directly: n queries, projected from it, are compared with the features of every position, and each pools a
token. Coordinates are added to the features, so that a token tells where it was found:

    features [B, H, W, D] + projection of (y, x)            [B, N, D]       N = H * W
    instruction [B, E]                                      queries [B, n, D]
    softmax over positions of (queries . norm(features))    [B, n, N]
    tokens                                                  [B, n, D]

An addition to the papers. docs/results/tabletop.md has figures.
"""
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from rtjax.models.layers import initializers
from rtjax.models.layers.common import lecun_linear


class LanguageAttentionPooling(nnx.Module):
  """Pool n tokens from a feature map by attention of the instruction."""

  def __init__(self, embedding_size: int, width: int, tokens: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    self.coordinates = lecun_linear(2, width, use_bias=False, dtype=dtype, rngs=rngs)
    self.norm = nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
    self.query = nnx.LinearGeneral(embedding_size, (tokens, width), dtype=dtype, rngs=rngs,
                                   kernel_init=initializers.lecun_normal())

  def add_coordinates(self, features: Float[Array, 'B H W D']) -> Float[Array, 'B N D']:
    """Add a projection of each position, and flatten the map."""
    _, height, width, size = features.shape
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing='ij'), -1)
    return (features + self.coordinates(jnp.asarray(grid, features.dtype))).reshape(-1, height * width, size)

  def scores(self, features: Float[Array, 'B N D'], instruction: Float[Array, 'B E']) -> Float[Array, 'B n N']:
    """Return the attention logits of each query over positions, float32."""
    keys, queries = self.norm(features), self.query(instruction)
    scores = jnp.einsum('bnd,bNd->bnN', queries, keys) / np.sqrt(keys.shape[-1]).astype(keys.dtype)
    return scores.astype(jnp.float32)

  def pool(self, features: Float[Array, 'B N D'], scores: Float[Array, 'B n N']) -> Float[Array, 'B n D']:
    """Return the softmax-weighted mean of the features."""
    return jnp.einsum('bnN,bNd->bnd', jax.nn.softmax(scores, axis=-1).astype(features.dtype), features)

  def __call__(self, features: Float[Array, 'B N D'], instruction: Float[Array, 'B E']) -> Float[Array, 'B n D']:
    """Pool tokens from the output of `add_coordinates`."""
    return self.pool(features, self.scores(features, instruction))
