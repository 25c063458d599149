"""The layer of the first Transformer (Vaswani et al. 2017), which normalises after each part."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from rtjax.models.layers.common import dropout

glorot = nnx.initializers.glorot_uniform()


class PostNormLayer(nnx.Module):
  """x = norm(x + attention(x)); x = norm(x + mlp(x)), with ReLU between the two linear maps of the MLP."""

  def __init__(self, width: int, heads: int, hidden: int, dropout_rate: float, *, dtype: Any = jnp.float32,
               rngs: nnx.Rngs):
    self.attention = nnx.MultiHeadAttention(
        heads, width, dropout_rate=dropout_rate, broadcast_dropout=False, kernel_init=glorot, dtype=dtype, decode=False,
        keep_rngs=False, rngs=rngs)
    self.attention_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
    self.hidden = nnx.Linear(width, hidden, kernel_init=glorot, dtype=dtype, rngs=rngs)
    self.output = nnx.Linear(hidden, width, kernel_init=glorot, dtype=dtype, rngs=rngs)
    self.output_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
    self.dropout_rate = dropout_rate

  def __call__(self, x: Float[Array, 'B N D'], mask: Bool[Array, 'B N N'] | None = None,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    """`mask` is True where the row's position may attend to the column's; None: everywhere."""
    gathered = self.attention(x, mask=None if mask is None else mask[:, None], deterministic=rngs is None, rngs=rngs)
    x = self.attention_norm(x + dropout(gathered, self.dropout_rate, rngs))
    y = self.output(dropout(jax.nn.relu(self.hidden(x)), self.dropout_rate, rngs))
    return self.output_norm(x + dropout(y, self.dropout_rate, rngs))
