"""TokenLearner v1.1 (Ryoo et al. 2021): a few tokens of an image."""
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float

from rtjax.models.layers import initializers


class TokenLearner(nnx.Module):
  """Weighted means of all positions, with weights by an MLP.

  Source: robotics_transformer, tokenizers/token_learner.py.
  """

  def __init__(self, width: int, tokens: int, hidden: int = 64, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    self.norm = nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
    glorot = initializers.glorot_uniform()
    self.hidden = nnx.Linear(width, hidden, kernel_init=glorot, dtype=dtype, rngs=rngs)
    self.output = nnx.Linear(hidden, tokens, kernel_init=glorot, dtype=dtype, rngs=rngs)

  def weights(self, x: Float[Array, 'B N D'], visible: Bool[Array, 'B N'] | None = None) -> Float[Array, 'B n N']:
    """Return each position's weight in each token; visible ones sum to 1."""
    logits = self.output(jax.nn.gelu(self.hidden(self.norm(x)), approximate=True))
    where = None if visible is None else visible[:, None]
    return jax.nn.softmax(logits.astype(jnp.float32).swapaxes(1, 2), axis=-1, where=where)

  def __call__(self, x: Float[Array, 'B N D'], visible: Bool[Array, 'B N'] | None = None) -> Float[Array, 'B n D']:
    return jnp.einsum('bnN,bNd->bnd', self.weights(x, visible).astype(x.dtype), x)
