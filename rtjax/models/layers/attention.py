"""Multi-head attention of any tokens to any others: what ViT, SigLIP and T5 share."""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from rtjax.models.layers.common import dropout


def _scaled(scale: float) -> nnx.initializers.Initializer:
  """Normal, with a variance of `scale` over the number of inputs."""
  return nnx.initializers.variance_scaling(scale, 'fan_in', 'normal')


class Attention(nnx.Module):
  """Scores and their softmax are float32, whatever is computed in.

  Args:
    bias: whether the four linear maps have biases.
    scaled: whether scores are divided by sqrt(head_size). T5's are not: its first queries are that much smaller.
    dropout: of the attention probabilities.
  """

  def __init__(self, width: int, heads: int, head_size: int, *, bias: bool = True, scaled: bool = True,
               dropout: float = 0.0, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    def project(scale: float) -> nnx.LinearGeneral:
      return nnx.LinearGeneral(width, (heads, head_size), use_bias=bias, kernel_init=_scaled(scale), dtype=dtype,
                               rngs=rngs)
    self.query, self.key, self.value = project(1.0 if scaled else 1 / head_size), project(1.0), project(1.0)
    self.out = nnx.LinearGeneral((heads, head_size), width, axis=(-2, -1), use_bias=bias, kernel_init=_scaled(1.0),
                                 dtype=dtype, rngs=rngs)
    self.scale = 1 / np.sqrt(head_size) if scaled else 1.0
    self.dropout = dropout

  def __call__(self, x: Float[Array, 'B Q D'], memory: Float[Array, 'B N D'],
               position_bias: Float[Array, 'h Q N'] | None = None, mask: Bool[Array, '#B #Q N'] | None = None,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B Q D']:
    """What each token of `x` gathers from `memory`, which is x itself in self-attention.

    Args:
      position_bias: added to the scores.
      mask: True where a row may attend to a column; None: everywhere.
      rngs: stream `dropout`; None leaves dropout out.
    """
    return self.attend(x, *self.key_value(memory), position_bias, mask, rngs)

  def key_value(self, memory: Float[Array, 'B N D']) -> tuple[Float[Array, 'B N h d'], Float[Array, 'B N h d']]:
    return self.key(memory), self.value(memory)

  def attend(self, x: Float[Array, 'B Q D'], key: Float[Array, 'B N h d'], value: Float[Array, 'B N h d'],
             position_bias: Float[Array, 'h Q N'] | None = None, mask: Bool[Array, '#B #Q N'] | None = None,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B Q D']:
    """As calling it, with what `key_value` gave."""
    query = self.query(x)
    scores = jnp.einsum('bqhd,bnhd->bhqn', query, key, preferred_element_type=jnp.float32) * np.float32(self.scale)
    if position_bias is not None:
      scores = scores + position_bias
    if mask is not None:
      scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = dropout(jax.nn.softmax(scores, axis=-1), self.dropout, rngs).astype(value.dtype)
    return self.out(jnp.einsum('bhqn,bnhd->bqhd', weights, value))
