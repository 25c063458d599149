"""Text and actions out of a decoder with a cache, one token after the other, inside jit.

`step(tokens, cache)` is what both are given: int32 [B] tokens in, logits [B, vocabulary] of the next ones and the cache
out.
"""
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from rtjax.models.loss import IMPOSSIBLE

END = 1  # the id that ends a text in every vocabulary that tokenizer.py reads

Step = Callable[[Array, Any], tuple[Array, Any]]


def sample(logits: Float[Array, 'B V'], key: Array, temperature: float, top_k: int = 0) -> Int[Array, ' B']:
  """One token of each row: the likeliest at temperature 0, otherwise drawn from the `top_k` likeliest (0: from all)."""
  if temperature == 0:
    return jnp.argmax(logits, -1).astype(jnp.int32)
  if top_k:
    least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
    logits = jnp.where(logits < least, IMPOSSIBLE, logits)
  return jax.random.categorical(key, logits / temperature).astype(jnp.int32)


def generate(step: Step, cache: Any, key: Array, *, batch: int, length: int, start: int, end: int, pad: int,
             temperature: float = 0.0, top_k: int = 0) -> Int[Array, 'B M']:
  """Texts of up to `length` tokens, the end included; behind it, padding. Stops when all have ended.

  Args:
    batch: B.
    start, end, pad: ids of the tokens that begin, end and fill up a text.
    temperature, top_k: see `sample`.
  """
  choose = functools.partial(sample, temperature=temperature, top_k=top_k)

  def unfinished(carry: Any) -> Array:
    place, _, _, ended, _ = carry
    return (place < length) & ~jnp.all(ended)

  def one_more(carry: Any) -> Any:
    place, texts, tokens, ended, cache = carry
    logits, cache = step(tokens, cache)
    tokens = jnp.where(ended, pad, choose(logits, jax.random.fold_in(key, place)))
    return place + 1, texts.at[:, place].set(tokens), tokens, ended | (tokens == end), cache

  first = (jnp.int32(0), jnp.full((batch, length), pad, jnp.int32), jnp.full(batch, start, jnp.int32),
           jnp.zeros(batch, bool), cache)
  return jax.lax.while_loop(unfinished, one_more, first)[1]


def decode_actions(step: Step, cache: Any, ids: Int[np.ndarray, ' V'], allowed: Bool[np.ndarray, 'K V'], *, batch: Any,
                   start: int) -> Float[Array, 'B K V']:
  """The logits of K action tokens, each given the likeliest of those before it.

  Args:
    ids: the vocabulary's id of each of the V action tokens: no other can come out.
    allowed: which of them each of the K places may take; the others' logits are `IMPOSSIBLE`.
    batch: B; no int where an export leaves it open.
  """
  def one_more(carry: tuple[Array, Any], may: Array) -> tuple[tuple[Array, Any], Array]:
    logits, cache = step(*carry)
    scores = jnp.where(may, logits[:, ids].astype(jnp.float32), IMPOSSIBLE)
    return (jnp.asarray(ids)[jnp.argmax(scores, -1)], cache), scores

  first = jnp.full((batch,), start, jnp.int32), cache
  return jax.lax.scan(one_more, first, jnp.asarray(allowed))[1].swapaxes(0, 1)


def allowed_tokens(bins: tuple[int, ...], size: int) -> Bool[np.ndarray, 'K V']:
  """Which of `size` action tokens each place may take, from how many bins it has."""
  return np.arange(size) < np.array(bins)[:, None]
