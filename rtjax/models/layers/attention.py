"""Multi-head attention, shared by all transformers of the package."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float

from rtjax.models.layers import initializers
from rtjax.models.layers.common import dropout
from rtjax.models.layers.rope import Rotation, rotate

Initializer = initializers.Initializer
KernelInit = Callable[[tuple[int, int, int]], Initializer]
"""From a kernel's shape, [D, h, d] or [h, d, D], to the initializer of its flat form."""


def fan_in_normal(scale: float = 1.0) -> KernelInit:
  """Normal with a variance of `scale` over the number of inputs."""
  return lambda shape: initializers.variance_scaling(scale, 'fan_in', 'normal')


_FAN_IN_NORMAL = fan_in_normal()

_MOST_SCORES = 2 ** 21
"""Scores of a head to compute at once. Beyond are the 4,096 patches of 896x896 pixels: 1.1 GB an image and layer."""


def glorot(shape: tuple[int, ...]) -> Initializer:
  """Glorot uniform on the flat kernel [inputs, outputs], as Flax computes it."""
  return initializers.glorot_uniform()


def keras_glorot(shape: tuple[int, ...]) -> Initializer:
  """Glorot uniform as in Keras, with the unflattened kernel's fans."""
  return lambda key, flat, dtype=jnp.float32: initializers.glorot_uniform()(key, shape, dtype).reshape(flat)


class Attention(nnx.Module):
  """Multi-head attention; scores and their softmax are float32, whatever the computation's type.

  Args:
    kv_heads: heads of keys and values, each shared by heads / kv_heads queries; None: as many as queries.
    bias: whether the four linear maps have biases.
    scale: factor of the scores; None: 1 / sqrt(head_size). T5's is 1: its queries start that much smaller.
    cap: scores x become cap * tanh(x / cap); 0 = not.
    head_norm: makes the norm of each head's queries, and that of its keys; None: they have none.
    dropout: rate on the attention probabilities.
    shared_dropout: one dropout mask for all examples and heads, as in RT-1-X.
    kernel_init: initializer of the kernels; T5 scales that of the queries (`query_init`).
  """

  def __init__(self, width: int, heads: int, head_size: int, *, kv_heads: int | None = None, bias: bool = True,
               scale: float | None = None, cap: float = 0.0, head_norm: Callable[[], Any] | None = None,
               dropout: float = 0.0, shared_dropout: bool = False, kernel_init: KernelInit = _FAN_IN_NORMAL,
               query_init: KernelInit | None = None, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    def project(init: KernelInit, heads: int) -> nnx.LinearGeneral:
      return nnx.LinearGeneral(width, (heads, head_size), use_bias=bias, kernel_init=init((width, heads, head_size)),
                               dtype=dtype, rngs=rngs)
    self.query = project(query_init or kernel_init, heads)
    self.key, self.value = (project(kernel_init, kv_heads or heads) for _ in range(2))
    self.query_norm, self.key_norm = (head_norm() if head_norm else None for _ in range(2))
    self.out = nnx.LinearGeneral((heads, head_size), width, axis=(-2, -1), use_bias=bias,
                                 kernel_init=kernel_init((heads, head_size, width)), dtype=dtype, rngs=rngs)
    self.scale = 1 / np.sqrt(head_size) if scale is None else scale
    self.cap = cap
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

  def key_value(self, memory: Float[Array, 'B N D'], rotation: Rotation | None = None
                ) -> tuple[Float[Array, 'B N g d'], Float[Array, 'B N g d']]:
    """Return keys and values of the tokens to attend to.

    Args:
      rotation: of their positions; None: keys have no position.
    """
    return self._placed(self.key(memory), self.key_norm, rotation), self.value(memory)

  def attend(self, x: Float[Array, 'B Q D'], key: Float[Array, 'B N g d'], value: Float[Array, 'B N g d'],
             position_bias: Float[Array, 'h Q N'] | None = None,
             mask: Bool[Array | np.ndarray, '... #Q N'] | None = None,
             rngs: nnx.Rngs | None = None, rotation: Rotation | None = None) -> Float[Array, 'B Q D']:
    """As a call, given the output of `key_value`.

    Args:
      rotation: of the positions of `x`; None: queries have no position.
    """
    query = self._placed(self.query(x), self.query_norm, rotation)
    count = _blocks(query.shape[1], key.shape[1])
    if count == 1 or position_bias is not None or mask is not None or (self.dropout and rngs is not None):
      return self.out(self._attended(query, key, value, position_bias, mask, rngs))
    # The backward pass computes the scores of a block again, so that those of all blocks never exist together.
    attended = jax.lax.map(jax.checkpoint(lambda block: self._attended(block, key, value), prevent_cse=False),
                           jnp.stack(jnp.split(query, count, 1)))
    return self.out(jnp.concatenate(jnp.unstack(attended), 1))

  def _attended(self, query: Float[Array, 'B Q h d'], key: Float[Array, 'B N g d'], value: Float[Array, 'B N g d'],
                position_bias: Float[Array, 'h Q N'] | None = None,
                mask: Bool[Array | np.ndarray, '... #Q N'] | None = None,
                rngs: nnx.Rngs | None = None) -> Float[Array, 'B Q h d']:
    """Return each head's weighted sums of values."""
    scores = _scores(query, key) * np.float32(self.scale)
    if self.cap:
      scores = self.cap * jnp.tanh(scores / self.cap)
    if position_bias is not None:
      scores = scores + position_bias
    if mask is not None:
      scores = jnp.where(jnp.expand_dims(mask, -3), scores, jnp.finfo(jnp.float32).min)
    shape = (1, 1, *scores.shape[2:]) if self.shared_dropout else None
    weights = dropout(jax.nn.softmax(scores, axis=-1), self.dropout, rngs, shape).astype(value.dtype)
    return _weighted(weights, value)

  def _placed(self, x: Float[Array, 'B N h d'], norm: Callable[[Array], Array] | None, rotation: Rotation | None
              ) -> Float[Array, 'B N h d']:
    x = x if norm is None else norm(x)
    return x if rotation is None else rotate(x, rotation)


def _blocks(queries: int, keys: int) -> int:
  """Return the number of equal blocks with at most _MOST_SCORES each."""
  return next(n for n in range(1, queries + 1) if queries % n == 0 and (queries // n * keys <= _MOST_SCORES or
                                                                        n == queries))


def _scores(query: Float[Array, 'B Q h d'], key: Float[Array, 'B N g d']) -> Float[Array, 'B h Q N']:
  """Return float32 scores; heads that share keys are consecutive."""
  if query.shape[2] == key.shape[2]:
    return jnp.einsum('bhqd,bhnd->bhqn', query.swapaxes(1, 2), key.swapaxes(1, 2), preferred_element_type=jnp.float32)
  batch, queries, heads, size = query.shape
  grouped = query.reshape(batch, queries, key.shape[2], -1, size)
  scores = jnp.einsum('bqgmd,bngd->bgmqn', grouped, key, preferred_element_type=jnp.float32)
  return scores.reshape(batch, heads, queries, -1)


def _weighted(weights: Float[Array, 'B h Q N'], value: Float[Array, 'B N g d']) -> Float[Array, 'B Q h d']:
  """Return the weighted sums of values."""
  if weights.shape[1] == value.shape[2]:
    # Heads first: from 'bhqn,bnhd->bqhd' XLA makes, on a CPU, transpositions of the values and of the result that take
    # as long as the products (bench/RESULTS.md).
    return (weights @ value.swapaxes(1, 2)).swapaxes(1, 2)
  batch, heads, queries, count = weights.shape
  grouped = weights.reshape(batch, value.shape[2], -1, queries, count)
  return jnp.einsum('bgmqn,bngd->bqgmd', grouped, value).reshape(batch, queries, heads, -1)
