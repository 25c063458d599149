"""FiLM (Perez et al. 2018): features conditioned on a sentence.

RT-1, section 5.1, conditions its image encoder so.
"""
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float


class Film(nnx.Module):
  """(1 + mult(c)) * x + add(c), per channel.

  The identity at initialization.

  Source: robotics_transformer, film_efficientnet/film_conditioning_layer.py.
  """

  def __init__(self, condition: int, features: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    zeros = nnx.initializers.zeros
    self.add = nnx.Linear(condition, features, kernel_init=zeros, dtype=dtype, rngs=rngs)
    self.mult = nnx.Linear(condition, features, kernel_init=zeros, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'B H W C'], condition: Float[Array, 'B E']) -> Float[Array, 'B H W C']:
    return (1 + self.mult(condition)[:, None, None]) * x + self.add(condition)[:, None, None]
