"""Multi-head attention, shared by all transformers of the package."""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float

from rtjax.models.layers import initializers
from rtjax.models.layers.common import dropout

Initializer = initializers.Initializer
KernelInit = Callable[[tuple[int, int, int]], Initializer]
"""From a kernel's shape, [D, h, d] or [h, d, D], to the initializer of its flat form."""


def fan_in_normal(scale: float = 1.0) -> KernelInit:
  """Normal with a variance of `scale` over the number of inputs."""
  return lambda shape: initializers.variance_scaling(scale, 'fan_in', 'normal')


_FAN_IN_NORMAL = fan_in_normal()


def glorot(shape: tuple[int, ...]) -> Initializer:
  """Glorot uniform on the flat kernel [inputs, outputs], as Flax computes it."""
  return initializers.glorot_uniform()


def keras_glorot(shape: tuple[int, ...]) -> Initializer:
  """Glorot uniform as in Keras, with the unflattened kernel's fans."""
  return lambda key, flat, dtype=jnp.float32: initializers.glorot_uniform()(key, shape, dtype).reshape(flat)


class Attention(nnx.Module):
  """Multi-head attention; scores and their softmax are float32, whatever the computation's type.

  Args:
    bias: whether the four linear maps have biases.
    scaled: whether scores are divided by sqrt(head_size). T5's are not: its queries start that much smaller.
    dropout: rate on the attention probabilities.
    shared_dropout: one dropout mask for all examples and heads, as in RT-1-X.
    kernel_init: initializer of the kernels; T5 scales that of the queries (`query_init`).
  """

  def __init__(self, width: int, heads: int, head_size: int, *, bias: bool = True, scaled: bool = True,
               dropout: float = 0.0, shared_dropout: bool = False, kernel_init: KernelInit = _FAN_IN_NORMAL,
               query_init: KernelInit | None = None, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    def project(init: KernelInit) -> nnx.LinearGeneral:
      return nnx.LinearGeneral(width, (heads, head_size), use_bias=bias, kernel_init=init((width, heads, head_size)),
                               dtype=dtype, rngs=rngs)
    self.query, self.key, self.value = project(query_init or kernel_init), project(kernel_init), project(kernel_init)
    self.out = nnx.LinearGeneral((heads, head_size), width, axis=(-2, -1), use_bias=bias,
                                 kernel_init=kernel_init((heads, head_size, width)), dtype=dtype, rngs=rngs)
    self.scale = 1 / np.sqrt(head_size) if scaled else 1.0
    self.dropout, self.shared_dropout = dropout, shared_dropout

  def __call__(self, x: Float[Array, 'B Q D'], memory: Float[Array, 'B N D'],
               position_bias: Float[Array, 'h Q N'] | None = None,
               mask: Bool[Array | np.ndarray, '... #Q N'] | None = None,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B Q D']:
    """Attend from `x` to `memory`; self-attention has both equal.

    Args:
      position_bias: added to the scores.
      mask: [Q, N] or [B or 1, Q or 1, N], True where a row may attend to a column; None: everywhere.
      rngs: stream `dropout`; None turns dropout off.
    """
    return self.attend(x, *self.key_value(memory), position_bias, mask, rngs)

  def key_value(self, memory: Float[Array, 'B N D']) -> tuple[Float[Array, 'B N h d'], Float[Array, 'B N h d']]:
    """Return keys and values of the tokens to attend to."""
    return self.key(memory), self.value(memory)

  def attend(self, x: Float[Array, 'B Q D'], key: Float[Array, 'B N h d'], value: Float[Array, 'B N h d'],
             position_bias: Float[Array, 'h Q N'] | None = None,
             mask: Bool[Array | np.ndarray, '... #Q N'] | None = None,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B Q D']:
    """As a call, given the output of `key_value`."""
    query = self.query(x)
    scores = jnp.einsum('bqhd,bnhd->bhqn', query, key, preferred_element_type=jnp.float32) * np.float32(self.scale)
    if position_bias is not None:
      scores = scores + position_bias
    if mask is not None:
      scores = jnp.where(jnp.expand_dims(mask, -3), scores, jnp.finfo(jnp.float32).min)
    shape = (1, 1, *scores.shape[2:]) if self.shared_dropout else None
    weights = dropout(jax.nn.softmax(scores, axis=-1), self.dropout, rngs, shape).astype(value.dtype)
    return self.out(jnp.einsum('bhqn,bnhd->bqhd', weights, value))
