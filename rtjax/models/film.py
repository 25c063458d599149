"""FiLM: features conditioned on a sentence (Perez et al. 2018; RT-1, section 5.1)."""
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Film(nnx.Module):
  """(1 + mult(c)) * x + add(c), per channel. Zero at initialization: x passes through unchanged.

  Source: robotics_transformer, film_efficientnet/film_conditioning_layer.py.

  Args:
    zero: whether it starts so. That keeps what pretrained features are worth; a network trained from scratch has none
      to keep, and listens sooner if it does not.
  """

  def __init__(self, condition: int, features: int, *, zero: bool = True, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    start = nnx.initializers.zeros if zero else nnx.initializers.variance_scaling(0.1, 'fan_in', 'normal')
    self.add = nnx.Linear(condition, features, kernel_init=start, dtype=dtype, rngs=rngs)
    self.mult = nnx.Linear(condition, features, kernel_init=start, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'B H W C'], condition: Float[Array, 'B D']) -> Float[Array, 'B H W C']:
    return (1 + self.mult(condition)[:, None, None]) * x + self.add(condition)[:, None, None]
