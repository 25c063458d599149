"""Feed-forward layers of vision and language transformers."""
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from rtjax.models.layers import initializers
from rtjax.models.layers.common import dropout

Activation = Literal['gelu', 'gelu_tanh', 'silu']
"""'gelu' is exact, 'gelu_tanh' its approximation."""

ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    'gelu': functools.partial(jax.nn.gelu, approximate=False), 'gelu_tanh': jax.nn.gelu, 'silu': jax.nn.silu}

_FAN_IN_NORMAL = initializers.variance_scaling(1.0, 'fan_in', 'normal')


class Mlp(nnx.Module):
  """Two linear maps with an activation between them."""

  def __init__(self, width: int, hidden: int, activation: Activation, *, dtype: DTypeLike = jnp.float32,
               rngs: nnx.Rngs):
    linear = functools.partial(nnx.Linear, kernel_init=initializers.glorot_uniform(), dtype=dtype, rngs=rngs)
    self.hidden, self.out = linear(width, hidden), linear(hidden, width)
    self.activation = activation

  def __call__(self, x: Float[Array, '*B D']) -> Float[Array, '*B D']:
    return self.out(ACTIVATIONS[self.activation](self.hidden(x)))


class GatedMlp(nnx.Module):
  """activation(x W1) * (x W2), through W3; no biases (Shazeer 2020)."""

  def __init__(self, width: int, hidden: int, activation: Activation, *, dropout: float = 0.0,
               kernel_init: initializers.Initializer = _FAN_IN_NORMAL,
               dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    linear = functools.partial(nnx.Linear, use_bias=False, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
    self.hidden, self.gate, self.out = linear(width, hidden), linear(width, hidden), linear(hidden, width)
    self.activation, self.dropout = activation, dropout

  def __call__(self, x: Float[Array, '*B D'], rngs: nnx.Rngs | None = None) -> Float[Array, '*B D']:
    """Apply the layer; `rngs` (stream `dropout`) turns dropout on."""
    hidden = ACTIVATIONS[self.activation](self.hidden(x)) * self.gate(x)
    return self.out(dropout(hidden, self.dropout, rngs))
