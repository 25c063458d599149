"""FAST inside jit: chunks to tokens, and back.

The codec is rtjax/language/fast.py. Tokens of a chunk of F actions with A numbers, int [F * A], stand for F * A
coefficients; `codec.size` fills the places after the last one.

Decoding is constrained: a token that stands for more coefficients than the chunk still lacks is impossible, so that
every text is a chunk, as every single coefficient is a token. A text of another number of coefficients, by whomever, is
no chunk: its actions are NaN, which policies refuse and exports return.
"""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rtjax import actions
from rtjax.language.fast import FastCodec
from rtjax.models.loss import IMPOSSIBLE
from rtjax.models.rt2.decoding import Cache, Step


def repeat_last(chunks: Float[Array, 'B F A'], mask: Bool[Array, 'B F']) -> Float[Array, 'B F A']:
  """Return chunks whose last recorded action repeats after the episode.

  A chunk is encoded as a whole, so that its end cannot be left out of the loss; published data loaders repeat the last
  action too (LeRobotDataset, `_get_query_indices`).
  """
  last = jnp.maximum(jnp.sum(mask, 1, keepdims=True) - 1, 0)
  steps = jnp.minimum(jnp.arange(mask.shape[1]), last)
  return jnp.take_along_axis(chunks, steps[..., None], 1)


def encode(codec: FastCodec, chunks: Float[Array, 'B F A']) -> Int[Array, 'B N']:
  """Return the tokens of chunks, those of `codec.encode`.

  Each turn merges the pair that was learned first, the leftmost of equal ones, until there is none.
  """
  low, high = (np.array(side, np.float32) for side in (codec.low, codec.high))
  scaled = (jnp.clip(chunks, low, high) - low) / (high - low) * 2 - 1
  # As a sum of products in float32: a matrix product may be of less precision.
  cosines = jnp.sum(codec.cosines[:, :, None] * scaled[:, None], 2)
  integers = jnp.rint(codec.scale * cosines).astype(jnp.int32).reshape(len(chunks), -1)
  tokens = jnp.asarray(codec.letters)[integers + len(codec.letters) // 2]
  if not len(codec.merges):
    return tokens
  pair, place = codec.size + 1, jnp.arange(tokens.shape[1])
  keys = codec.merges[:, 0] * pair + codec.merges[:, 1]
  order = np.argsort(keys)

  def merge(_: Any, tokens: Array) -> Array:
    key = tokens[:, :-1] * pair + tokens[:, 1:]
    found = jnp.minimum(jnp.searchsorted(keys[order], key), len(keys) - 1)
    rank = jnp.where(jnp.asarray(keys[order])[found] == key, jnp.asarray(order)[found], len(keys))
    at = jnp.argmin(rank, 1, keepdims=True)
    first = jnp.take_along_axis(rank, at, 1)
    merged = jnp.asarray(codec.merges[:, 2])[jnp.minimum(first, len(keys) - 1)]
    shifted = jnp.pad(tokens[:, 1:], ((0, 0), (0, 1)), constant_values=codec.size)
    after = jnp.where(place < at, tokens, jnp.where(place == at, merged, shifted))
    return jnp.where(first < len(keys), after, tokens)

  return jax.lax.fori_loop(0, tokens.shape[1] - 1, merge, tokens)


def decode(codec: FastCodec, tokens: Int[actions.Array, '*b N']) -> Float[actions.Array, '*b F A']:
  """Return the chunks of tokens, those of `codec.decode`; NaN for no chunk.

  NumPy in gives NumPy, JAX in gives JAX.
  """
  xp: Any = jnp if isinstance(tokens, jax.Array) else np
  count, low, high = codec.horizon * len(codec.low), np.array(codec.low), np.array(codec.high)
  lengths = xp.asarray(np.append(codec.lengths, 0))[tokens]
  ends, places = xp.cumsum(lengths, -1), np.arange(count)
  # Number of the token that holds each coefficient, and the coefficient's place in it.
  holder = xp.minimum((ends[..., None, :] <= places[:, None]).sum(-1), tokens.shape[-1] - 1)
  inside = places - xp.take_along_axis(ends - lengths, holder, -1)
  table = np.pad(codec.coefficients, ((0, 1), (0, 0)))
  integers = xp.asarray(table)[xp.take_along_axis(tokens, holder, -1), xp.clip(inside, 0, table.shape[1] - 1)]
  scaled = integers.reshape(*integers.shape[:-1], codec.horizon, 1, -1).astype(np.float32) / np.float32(codec.scale)
  numbers = (codec.cosines[:, :, None] * scaled).sum(-3)
  half = ((high - low) / 2).astype(np.float32)
  chunks = xp.clip(low.astype(np.float32) + (numbers + 1) * half, low.astype(np.float32), high.astype(np.float32))
  return xp.where((ends[..., -1] == count)[..., None, None], chunks, np.float32(np.nan))


def decode_chunks(step: Step, cache: Cache, codec: FastCodec, ids: Int[np.ndarray, ' n'], *, batch: Any,
                  begin: int) -> Float[Array, 'B N V']:
  """Return logits of the tokens of chunks.

  Each is given the likeliest possible ones before it. V is the number of tokens, and one more that fills the places
  after the end of a chunk.

  Args:
    step: see decoding.py.
    ids: text token of each of the codec's tokens; no others are decoded.
    batch: B, no int in an export with an open batch size.
    begin: id of the token that begins a text.
  """
  count = codec.horizon * len(codec.low)
  lengths = jnp.asarray(np.append(codec.lengths, 0))
  words = jnp.asarray(np.append(ids, begin))
  ended = jnp.where(jnp.arange(codec.size + 1) == codec.size, 0.0, IMPOSSIBLE)

  def unfinished(carry: Any) -> Array:
    position, _, _, left, _ = carry
    return (position < count) & jnp.any(left > 0)

  def next_token(carry: Any) -> Any:
    position, cache, token, left, logits = carry
    cache, found = step(cache, words[token])
    possible = lengths[:-1] <= left[:, None]
    scores = jnp.pad(jnp.where(possible, found[:, ids].astype(jnp.float32), IMPOSSIBLE), ((0, 0), (0, 1)),
                     constant_values=IMPOSSIBLE)
    scores = jnp.where(left[:, None] > 0, scores, ended)
    token = jnp.argmax(scores, -1).astype(jnp.int32)
    return position + 1, cache, token, left - lengths[token], logits.at[:, position].set(scores)

  first = (jnp.int32(0), cache, jnp.full((batch,), codec.size, jnp.int32), jnp.full((batch,), count, jnp.int32),
           jnp.broadcast_to(ended, (batch, count, codec.size + 1)))
  return jax.lax.while_loop(unfinished, next_token, first)[-1]
