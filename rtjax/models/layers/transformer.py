"""Transformers of RT-1 and its variants.

`Transformer` is RT-1's decoder-only network. Its sequence holds, per frame of the window, N image tokens and then K
action tokens; T = 2, N = 3, K = 2 here. A row may attend to the columns marked x:

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

In RT-1-X images do not attend to actions either. Source: robotics_transformer, transformer.py and
transformer_network.py; google-deepmind/open_x_embodiment, models/rt1.py.
"""
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from rtjax.models.layers import attention, initializers
from rtjax.models.layers.attention import Attention
from rtjax.models.layers.common import dropout
from rtjax.models.layers.mlp import GatedMlp

_glorot = initializers.glorot_uniform()  # the default of Keras's layers

Mask = Bool[Array | np.ndarray, '*B Q N']

# Longer sequences attend in blocks of this many rows, each to the columns up to its own end: the mask hides the rest.
_BLOCK = 256


def attention_mask(frames: int, image_tokens: int, action_tokens: int,
                   images_see_actions: bool = True) -> Bool[np.ndarray, 'N N']:
  """Return the mask drawn in the module's docstring."""
  action = np.tile(np.arange(image_tokens + action_tokens) >= image_tokens, frames)
  causal = np.tri(len(action), dtype=bool)
  return causal & ~action if not images_see_actions else causal & ~(action[:, None] & action[None, :])


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Shape of `Transformer`.

  Attributes:
    inputs: width of the input tokens.
    width: width inside, and of a hidden layer where there is one.
    positions: longest sequence.
    vocab_size: logits per position.
    feed_forward: 'linear', one linear map without activation (official), or 'swiglu' (RT-1-X).
    dropout: rate on attention probabilities and on the feed-forward's output.
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


class PreNormLayer(nnx.Module):
  """x += attention(norm(x)); x += feed_forward(norm(x)).

  The official feed-forward is one linear map and has no hidden layer.
  """

  def __init__(self, config: TransformerConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
    width = config.width
    self.attention_norm = nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
    self.attention = Attention(width, config.heads, config.head_size, dropout=config.dropout, dtype=dtype, rngs=rngs,
                               shared_dropout=config.shared_dropout, kernel_init=attention.keras_glorot)
    self.feed_forward_norm = nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
    self.feed_forward = (
        GatedMlp(width, width, 'silu', kernel_init=_glorot, dtype=dtype, rngs=rngs)
        if config.feed_forward == 'swiglu' else nnx.Linear(width, width, kernel_init=_glorot, dtype=dtype, rngs=rngs))
    self.dropout = config.dropout

  def __call__(self, x: Float[Array, 'B N D'], mask: Mask, rngs: nnx.Rngs | None = None,
               rows: Int[Array, 'B Q'] | None = None) -> Float[Array, 'B Q D']:
    """Apply the layer.

    Args:
      mask: causal over all positions, or the rows of the mask that `rows` selects.
      rows: the only positions to compute; None: all.
    """
    y = self.attention_norm(x)
    if rows is None:
      x = x + self._causal_attention(y, mask, rngs)
    else:
      x = take_rows(x, rows) + self.attention(take_rows(y, rows), y, None, mask, rngs)
    return x + dropout(self.feed_forward(self.feed_forward_norm(x)), self.dropout, rngs)

  def _causal_attention(self, y: Float[Array, 'B N D'], mask: Mask, rngs: nnx.Rngs | None) -> Float[Array, 'B N D']:
    key, value = self.attention.key_value(y)
    length = y.shape[1]
    blocks = [(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK)]
    return jnp.concatenate([self.attention.attend(y[:, a:b], key[:, :b], value[:, :b], None, mask[..., a:b, :b], rngs)
                            for a, b in blocks], 1)


class Transformer(nnx.Module):
  """RT-1's transformer, with learned positions and no final normalisation."""

  def __init__(self, config: TransformerConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    def linear(inputs: int, outputs: int) -> nnx.Linear:
      return nnx.Linear(inputs, outputs, kernel_init=_glorot, dtype=dtype, rngs=rngs)
    self.embed = linear(config.inputs, config.width)
    # The official code passes one-hot positions through a dense layer: its kernel's rows, and a bias of its own.
    self.position = linear(config.positions, config.width)
    self.layers = nnx.List([PreNormLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.layers)])
    self.output = linear(config.width, config.vocab_size)

  def __call__(self, tokens: Float[Array, 'B N D'], mask: Bool[Array | np.ndarray, '*B N N'],
               rngs: nnx.Rngs | None = None, *, positions: Int[Array, '*B N'] | None = None,
               rows: Int[Array, 'B Q'] | None = None) -> Float[Array, 'B Q vocab']:
    """Return the logits of every position.

    Args:
      mask: causal; True where a row may attend to a column.
      positions: places of the tokens in the training sequence; None: 0, 1, ...
      rows: the only positions whose logits are wanted; the last layer computes no others.
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


class PostNormLayer(nnx.Module):
  """x = norm(x + attention(x)); x = norm(x + mlp(x)).

  The MLP has a ReLU (Vaswani et al. 2017).
  """

  def __init__(self, width: int, heads: int, hidden: int, dropout_rate: float, *, dtype: DTypeLike = jnp.float32,
               rngs: nnx.Rngs):
    self.attention = Attention(width, heads, width // heads, dropout=dropout_rate, kernel_init=attention.glorot,
                               dtype=dtype, rngs=rngs)
    self.attention_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
    self.hidden = nnx.Linear(width, hidden, kernel_init=_glorot, dtype=dtype, rngs=rngs)
    self.output = nnx.Linear(hidden, width, kernel_init=_glorot, dtype=dtype, rngs=rngs)
    self.output_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
    self.dropout = dropout_rate

  def __call__(self, x: Float[Array, 'B N D'], mask: Mask | None = None,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    """Apply the layer; `mask` is True where attention is allowed."""
    x = self.attention_norm(x + dropout(self.attention(x, x, None, mask, rngs), self.dropout, rngs))
    y = self.output(dropout(jax.nn.relu(self.hidden(x)), self.dropout, rngs))
    return self.output_norm(x + dropout(y, self.dropout, rngs))


def take_rows(x: Array, rows: Int[Array, 'B Q']) -> Array:
  """Return [B, Q, D], the rows of [B, N, D]."""
  return jnp.take_along_axis(x, rows[..., None], axis=1)
