"""RT-1's decoder-only transformer and the attention mask of its windows.

Per step of the window, N image tokens and then K action tokens (T = 2, N = 3, K = 2 here); a row may attend to columns
marked x:

             i i i a a i i i a a
    i        x . . . . . . . . .      Images attend to all before them, actions included.
    i        x x . . . . . . . .
    i        x x x . . . . . . .
    a        x x x . . . . . . .      Actions attend to images alone: not to actions,
    a        x x x . . . . . . .      not even to themselves.
    i        x x x x x x . . . .
    i        x x x x x x x . . .
    i        x x x x x x x x . .
    a        x x x . . x x x . .
    a        x x x . . x x x . .

In RT-1-X images do not attend to actions either: nobody does. Source: robotics_transformer, transformer.py and
transformer_network.py; google-deepmind/open_x_embodiment, models/rt1.py.
"""
import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rtjax.models.layers.common import dropout


def attention_mask(steps: int, image_tokens: int, action_tokens: int,
                   images_see_actions: bool = True) -> Bool[np.ndarray, 'N N']:
  """True where the row's position may attend to the column's; see the module's docstring."""
  action = np.tile(np.arange(image_tokens + action_tokens) >= image_tokens, steps)
  causal = np.tri(len(action), dtype=bool)
  return causal & ~action if not images_see_actions else causal & ~(action[:, None] & action[None, :])


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """The transformer's shape.

  Attributes:
    inputs: width of the tokens that come in.
    width: width inside, and of a hidden layer where there is one.
    positions: longest sequence.
    vocab_size: logits per position.
    feed_forward: 'linear', one linear map without activation (official), or 'swiglu' (RT-1-X).
    dropout: of attention probabilities and of the feed-forward's output.
    shared_dropout: one mask of attention probabilities for all heads and examples (RT-1-X).
  """
  inputs: int
  width: int
  layers: int
  heads: int
  head_size: int
  positions: int
  vocab_size: int
  feed_forward: Literal['linear', 'swiglu'] = 'linear'
  dropout: float = 0.1
  shared_dropout: bool = False


glorot = nnx.initializers.glorot_uniform()  # what Keras's layers start from


def _glorot(*shape: int) -> nnx.initializers.Initializer:
  """Keras counts fans on the kernel's own shape, [width, heads, size]; LinearGeneral would flatten it first."""
  return lambda key, flat, dtype=jnp.float32: glorot(key, shape, dtype).reshape(flat)


# Longer sequences attend in parts of this many rows, each to the columns up to its own end: causality hides the rest.
_ROWS = 256


class Attention(nnx.Module):
  """Multi-head self-attention with biases; dropout on the probabilities."""

  def __init__(self, config: TransformerConfig, *, dtype: Any, rngs: nnx.Rngs):
    width, heads, head_size = config.width, config.heads, config.head_size

    def project() -> nnx.LinearGeneral:
      return nnx.LinearGeneral(width, (heads, head_size), kernel_init=_glorot(width, heads, head_size), dtype=dtype,
                               rngs=rngs)
    self.query, self.key, self.value = project(), project(), project()
    self.out = nnx.LinearGeneral((heads, head_size), width, axis=(-2, -1), kernel_init=_glorot(heads, head_size, width),
                                 dtype=dtype, rngs=rngs)
    self.head_size, self.dropout, self.shared_dropout = head_size, config.dropout, config.shared_dropout

  def __call__(self, x: Float[Array, 'B N D'], mask: Bool[Array | np.ndarray, '*B R N'],
               rngs: nnx.Rngs | None = None, rows: Int[Array, 'B R'] | None = None) -> Float[Array, 'B R D']:
    """What each position gathers; of `rows` alone if given, whose rows of the mask `mask` then holds.

    The mask has to be causal unless `rows` are given: no row attends to a column behind it.
    """
    query = self.query(x if rows is None else take_rows(x, rows)) / np.sqrt(self.head_size).astype(x.dtype)
    key, value = self.key(x), self.value(x)
    if rows is not None:
      return self.out(self._attend(query, key, value, mask, rngs))
    ends = [(start, min(start + _ROWS, x.shape[1])) for start in range(0, x.shape[1], _ROWS)]
    parts = [self._attend(query[:, a:b], key[:, :b], value[:, :b], mask[..., a:b, :b], rngs) for a, b in ends]
    return self.out(jnp.concatenate(parts, 1))

  def _attend(self, query: Array, key: Array, value: Array, mask: Array | np.ndarray,
              rngs: nnx.Rngs | None) -> Float[Array, 'B R h d']:
    scores = jnp.einsum('bqhd,bkhd->bhqk', query, key).astype(jnp.float32)
    hidden = jnp.where(mask, 0.0, -1e9).astype(jnp.float32)  # [R, N] or [B, R, N]
    weights = jax.nn.softmax(scores + jnp.expand_dims(hidden, -3), axis=-1)
    one_for_all = (1, 1, *weights.shape[2:]) if self.shared_dropout else None
    weights = dropout(weights, self.dropout, rngs, one_for_all).astype(query.dtype)
    return jnp.einsum('bhqk,bkhd->bqhd', weights, value)


class SwiGLU(nnx.Module):
  """swish(x W1) * (x W2), through W3; no biases (Shazeer 2020)."""

  def __init__(self, width: int, hidden: int, *, dtype: Any, rngs: nnx.Rngs):
    def linear(inputs: int, outputs: int) -> nnx.Linear:
      return nnx.Linear(inputs, outputs, use_bias=False, kernel_init=glorot, dtype=dtype, rngs=rngs)
    self.hidden, self.gate, self.out = linear(width, hidden), linear(width, hidden), linear(hidden, width)

  def __call__(self, x: Float[Array, '*b D']) -> Float[Array, '*b D']:
    return self.out(jax.nn.swish(self.hidden(x)) * self.gate(x))


class Layer(nnx.Module):
  """x += attention(norm(x)); x += feed_forward(norm(x)).

  The official feed-forward is one linear map and has no hidden layer.
  """

  def __init__(self, config: TransformerConfig, *, dtype: Any, rngs: nnx.Rngs):
    width = config.width
    self.attention_norm = nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
    self.attention = Attention(config, dtype=dtype, rngs=rngs)
    self.feed_forward_norm = nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
    self.feed_forward = (SwiGLU(width, width, dtype=dtype, rngs=rngs) if config.feed_forward == 'swiglu' else
                         nnx.Linear(width, width, kernel_init=glorot, dtype=dtype, rngs=rngs))
    self.dropout = config.dropout

  def __call__(self, x: Float[Array, 'B N D'], mask: Bool[Array | np.ndarray, '*B R N'],
               rngs: nnx.Rngs | None = None, rows: Int[Array, 'B R'] | None = None) -> Float[Array, 'B R D']:
    gathered = self.attention(self.attention_norm(x), mask, rngs, rows)
    x = (x if rows is None else take_rows(x, rows)) + gathered
    return x + dropout(self.feed_forward(self.feed_forward_norm(x)), self.dropout, rngs)


class Transformer(nnx.Module):
  """Tokens plus learned positions, through the layers, to logits. No normalisation after the last layer."""

  def __init__(self, config: TransformerConfig, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    def linear(inputs: int, outputs: int) -> nnx.Linear:
      return nnx.Linear(inputs, outputs, kernel_init=glorot, dtype=dtype, rngs=rngs)
    self.embed = linear(config.inputs, config.width)
    # The official code passes one-hot positions through a dense layer: its kernel's rows, and a bias of its own.
    self.position = linear(config.positions, config.width)
    self.layers = nnx.List([Layer(config, dtype=dtype, rngs=rngs) for _ in range(config.layers)])
    self.output = linear(config.width, config.vocab_size)

  def __call__(self, tokens: Float[Array, 'B N D'], mask: Bool[Array | np.ndarray, '*B N N'],
               rngs: nnx.Rngs | None = None, *, positions: Int[Array, '*B N'] | None = None,
               rows: Int[Array, 'B R'] | None = None) -> Float[Array, 'B R V']:
    """Logits of every position.

    Args:
      mask: causal; True where a row may attend to a column.
      positions: the tokens' places in the training sequence; None: 0, 1, ...
      rows: the only positions whose logits are wanted: the last layer then computes no others.
    """
    kernel, bias = self.position.kernel[...], self.position.bias
    assert bias is not None  # for mypy
    places = kernel[:tokens.shape[1]] if positions is None else kernel[positions]
    x = self.embed(tokens) + (places + bias[...]).astype(self.embed.dtype)
    for layer in self.layers[:-1]:
      x = layer(x, mask, rngs)
    if rows is not None:
      mask = take_rows(jnp.broadcast_to(mask, (*tokens.shape[:2], tokens.shape[1])), rows)
    x = self.layers[-1](x, mask, rngs, rows)
    return self.output(x).astype(jnp.float32)


def take_rows(x: Array, rows: Int[Array, 'B R']) -> Array:
  """[B, N, D] to [B, R, D]."""
  return jnp.take_along_axis(x, rows[..., None], axis=1)
