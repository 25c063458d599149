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

Source: robotics_transformer, transformer.py and transformer_network.py.
"""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from rtjax.models.layers import dropout


def attention_mask(steps: int, image_tokens: int, action_tokens: int) -> Bool[np.ndarray, 'N N']:
  """True where the row's position may attend to the column's; see the module's docstring."""
  action = np.tile(np.arange(image_tokens + action_tokens) >= image_tokens, steps)
  causal = np.tri(len(action), dtype=bool)
  return causal & ~(action[:, None] & action[None, :])


glorot = nnx.initializers.glorot_uniform()  # what Keras's layers start from


def _glorot(*shape: int) -> nnx.initializers.Initializer:
  """Keras counts fans on the kernel's own shape, [width, heads, size]; LinearGeneral would flatten it first."""
  return lambda key, flat, dtype=jnp.float32: glorot(key, shape, dtype).reshape(flat)


class Attention(nnx.Module):
  """Multi-head self-attention with biases; dropout on the probabilities."""

  def __init__(self, width: int, heads: int, head_size: int, dropout_rate: float, *, dtype: Any, rngs: nnx.Rngs):
    def project() -> nnx.LinearGeneral:
      return nnx.LinearGeneral(width, (heads, head_size), kernel_init=_glorot(width, heads, head_size), dtype=dtype,
                               rngs=rngs)
    self.query, self.key, self.value = project(), project(), project()
    self.out = nnx.LinearGeneral((heads, head_size), width, axis=(-2, -1), kernel_init=_glorot(heads, head_size, width),
                                 dtype=dtype, rngs=rngs)
    self.head_size, self.dropout_rate = head_size, dropout_rate

  def __call__(self, x: Float[Array, 'B N D'], mask: Bool[Array | np.ndarray, 'N N'],
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    query = self.query(x) / np.sqrt(self.head_size).astype(x.dtype)
    scores = jnp.einsum('bqhd,bkhd->bhqk', query, self.key(x)).astype(jnp.float32)
    weights = jax.nn.softmax(scores + np.where(mask, 0.0, -1e9).astype(np.float32), axis=-1)
    weights = dropout(weights, self.dropout_rate, rngs).astype(x.dtype)
    return self.out(jnp.einsum('bhqk,bkhd->bqhd', weights, self.value(x)))


class Layer(nnx.Module):
  """x += attention(norm(x)); x += linear(norm(x)). One linear map and no hidden layer: so is the official code."""

  def __init__(self, width: int, heads: int, head_size: int, dropout_rate: float, *, dtype: Any, rngs: nnx.Rngs):
    self.attention_norm = nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
    self.attention = Attention(width, heads, head_size, dropout_rate, dtype=dtype, rngs=rngs)
    self.feed_forward_norm = nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
    self.feed_forward = nnx.Linear(width, width, kernel_init=glorot, dtype=dtype, rngs=rngs)
    self.dropout_rate = dropout_rate

  def __call__(self, x: Float[Array, 'B N D'], mask: Bool[Array | np.ndarray, 'N N'],
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    x = x + self.attention(self.attention_norm(x), mask, rngs)
    return x + dropout(self.feed_forward(self.feed_forward_norm(x)), self.dropout_rate, rngs)


class Transformer(nnx.Module):
  """Tokens plus learned positions, through the layers, to logits. No normalisation after the last layer.

  Args:
    inputs: width of the tokens that come in.
    width: width inside.
    positions: longest sequence.
  """

  def __init__(self, inputs: int, width: int, layers: int, heads: int, head_size: int, positions: int, vocab_size: int,
               dropout_rate: float, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    self.embed = nnx.Linear(inputs, width, kernel_init=glorot, dtype=dtype, rngs=rngs)
    # The official code passes one-hot positions through a dense layer: its kernel's rows, and a bias of its own.
    self.position = nnx.Linear(positions, width, kernel_init=glorot, dtype=dtype, rngs=rngs)
    self.layers = nnx.List([
        Layer(width, heads, head_size, dropout_rate, dtype=dtype, rngs=rngs) for _ in range(layers)])
    self.positions = positions
    self.output = nnx.Linear(width, vocab_size, kernel_init=glorot, dtype=dtype, rngs=rngs)

  def __call__(self, tokens: Float[Array, 'B N D'], mask: Bool[Array | np.ndarray, 'N N'],
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B N V']:
    x = self.embed(tokens) + self.position(jnp.eye(tokens.shape[1], self.positions))
    for layer in self.layers:
      x = layer(x, mask, rngs)
    return self.output(x).astype(jnp.float32)
