"""Decoding of text and actions, one token after the other, inside jit.

Both functions call `step(cache, tokens)`, which takes tokens, int32 [B], and returns the next cache and logits
[B, vocab] of the next tokens.
"""
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rtjax.models.loss import IMPOSSIBLE

Cache = Any
Step = Callable[[Cache, Array], tuple[Cache, Array]]


def sample(logits: Float[Array, 'B vocab'], key: Array, temperature: float, top_k: int = 0) -> Int[Array, ' B']:
  """Return one token per row.

  Args:
    temperature: 0: the likeliest token; above, one drawn at random.
    top_k: draw from so many of the likeliest tokens; 0: from all.
  """
  if temperature == 0:
    return jnp.argmax(logits, -1).astype(jnp.int32)
  if top_k:
    least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
    logits = jnp.where(logits < least, IMPOSSIBLE, logits)
  return jax.random.categorical(key, logits / temperature).astype(jnp.int32)


def generate(step: Step, cache: Cache, key: Array, *, batch: int, length: int, begin: int, end: int, pad: int,
             temperature: float = 0.0, top_k: int = 0) -> Int[Array, 'B M']:
  """Return texts, padded after their end.

  Args:
    batch: B.
    length: M, most tokens of a text, its end included.
    begin, end, pad: ids of the tokens that begin, end and fill up a text.
    temperature, top_k: see `sample`.
  """
  choose = functools.partial(sample, temperature=temperature, top_k=top_k)

  def unfinished(carry: Any) -> Array:
    position, _, _, ended, _ = carry
    return (position < length) & ~jnp.all(ended)

  def next_token(carry: Any) -> Any:
    position, texts, tokens, ended, cache = carry
    cache, logits = step(cache, tokens)
    tokens = jnp.where(ended, pad, choose(logits, jax.random.fold_in(key, position)))
    return position + 1, texts.at[:, position].set(tokens), tokens, ended | (tokens == end), cache

  first = (jnp.int32(0), jnp.full((batch, length), pad, jnp.int32), jnp.full(batch, begin, jnp.int32),
           jnp.zeros(batch, bool), cache)
  return jax.lax.while_loop(unfinished, next_token, first)[1]


def decode_actions(step: Step, cache: Cache, ids: Int[np.ndarray, ' V'], allowed: Bool[np.ndarray, 'K V'], *,
                   batch: Any, begin: int) -> Float[Array, 'B K V']:
  """Return logits of action tokens, each given the likeliest previous ones.

  Args:
    ids: text token of each of the V bins; no other tokens are decoded.
    allowed: bins that each of the K action tokens may take; the others' logits are `IMPOSSIBLE`.
    batch: B, no int in an export with an open batch size.
    begin: id of the token that begins a text.
  """
  def next_token(carry: tuple[Cache, Array], bins: Array) -> tuple[tuple[Cache, Array], Array]:
    cache, logits = step(*carry)
    scores = jnp.where(bins, logits[:, ids].astype(jnp.float32), IMPOSSIBLE)
    return (cache, jnp.asarray(ids)[jnp.argmax(scores, -1)]), scores

  first = cache, jnp.full((batch,), begin, jnp.int32)
  return jax.lax.scan(next_token, first, jnp.asarray(allowed))[1].swapaxes(0, 1)


def allowed_bins(token_bins: tuple[int, ...], size: int) -> Bool[np.ndarray, 'K V']:
  """Return the mask of bins that each action token may take."""
  return np.arange(size) < np.array(token_bins)[:, None]
