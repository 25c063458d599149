"""Tokens of actions, in NumPy and in JAX.

NumPy in gives NumPy, JAX in gives JAX, with equal numbers.

A number becomes `int((clip(a, low, high) - low) / (high - low) * (bins - 1))`, truncated, in float32 and in this order
of operations (robotics_transformer, tokenizers/action_tokenizer.py). Compilers may turn that division into a product,
which moves values that lie on a bound between bins. Therefore the thresholds of the bins are computed once, in NumPy,
and numbers are compared with them: the same token with and without jit, on every backend.

Letters: A numbers of a raw action, K tokens, V values of a token; `*b` any leading dimensions.
"""
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from rtjax.actions.field import ActionField, Array

Fields = Sequence[ActionField]


def tokenize(fields: Fields, action: Float[Array, '*b A']) -> Int[Array, '*b K']:
  """Map raw actions to int32 tokens."""
  xp, tokens = namespace(action), []
  for f, part in _parts(fields, action, [f.size for f in fields]):
    if f.kind == 'classes':
      tokens.append(xp.argmax(part, -1)[..., None].astype(xp.int32))
    else:
      thresholds = xp.asarray(_thresholds(f))  # [size, bins - 1]
      tokens.append((part[..., None] >= thresholds).sum(-1).astype(xp.int32))
  return xp.concatenate(tokens, -1)


def detokenize(fields: Fields, tokens: Int[Array, '*b K']) -> Float[Array, '*b A']:
  """Map tokens to raw actions."""
  xp, parts = namespace(tokens), []
  for f, part in _parts(fields, tokens, [f.num_tokens for f in fields]):
    table = xp.asarray(_table(f))
    if f.kind == 'classes':
      parts.append(table[xp.where((part >= 0) & (part < f.bins), part, f.fallback)[..., 0]])
    else:
      part = xp.clip(part, 0, f.bins - 1)
      parts.append(xp.stack([table[i][part[..., i]] for i in range(f.size)], -1))
  return xp.concatenate(parts, -1)


def decode(fields: Fields, logits: Float[Array, '*b K V'], decoding: Literal['argmax', 'mean']
           ) -> Float[Array, '*b A']:
  """Map logits to raw actions: likeliest tokens, or means of bins."""
  xp, parts, at = namespace(logits), [], 0
  if decoding == 'argmax':
    return detokenize(fields, xp.argmax(logits, -1).astype(xp.int32))
  for f in fields:
    part, table = logits[..., at:at + f.num_tokens, :f.bins], xp.asarray(_table(f))
    at += f.num_tokens
    if f.kind == 'classes':
      parts.append(table[xp.argmax(part, -1)[..., 0]])
    else:
      share = xp.exp(part - part.max(-1, keepdims=True))
      parts.append((share * table).sum(-1) / share.sum(-1))
  return xp.concatenate(parts, -1)


def smooth_labels(fields: Fields, tokens: Int[Array, '*b K'], width: float, vocab_size: int
                  ) -> Float[jax.Array, '*b K V']:
  """Spread tokens over neighbouring bins by a Gaussian of `width` bins."""
  bins = np.arange(vocab_size)
  apart = bins - bins[:, None]
  tables = []
  for f in fields:
    near = (apart == 0) | (bins < f.bins) & (f.kind == 'continuous')
    spread = np.where(near, np.exp(-0.5 * (apart / width) ** 2), 0)
    tables += [spread / spread.sum(-1, keepdims=True)] * f.num_tokens
  return jnp.asarray(np.array(tables, np.float32))[np.arange(len(tables)), tokens]


def namespace(array: Array) -> Any:
  """Return the module of an array's functions, NumPy or JAX's."""
  return jnp if isinstance(array, jax.Array) else np


def _parts(fields: Fields, array: Array, sizes: Sequence[int]) -> Iterator[tuple[ActionField, Array]]:
  """Yield each field with its part of the last dimension."""
  for f, size, end in zip(fields, sizes, np.cumsum(sizes), strict=True):
    yield f, array[..., end - size:end]


def _token(value: np.ndarray, f: ActionField) -> np.ndarray:
  """Apply the reference's rule to `value`, float32 [size, ...] within bounds."""
  low = np.asarray(f.low, np.float32).reshape(-1, *[1] * (value.ndim - 1))
  high = np.asarray(f.high, np.float32).reshape(low.shape)
  return ((value - low) / (high - low) * np.float32(f.bins - 1)).astype(np.int32)


@functools.cache
def _thresholds(f: ActionField) -> np.ndarray:
  """Return the threshold of each token: float32 [size, bins - 1]."""
  wanted = np.arange(1, f.bins)
  # Bisect over the floats in their own order: as integers, positive floats are ordered and negative ones reversed.
  lower = _ordered(np.asarray(f.low, np.float32))[:, None] + np.zeros_like(wanted)
  upper = _ordered(np.asarray(f.high, np.float32))[:, None] + np.zeros_like(wanted)
  while np.any(lower < upper):
    middle = (lower + upper) >> 1
    reached = _token(_from_ordered(middle), f) >= wanted
    lower, upper = np.where(reached, lower, middle + 1), np.where(reached, middle, upper)
  return _from_ordered(lower)


def _ordered(value: np.ndarray) -> np.ndarray:
  bits = value.view(np.int32).astype(np.int64)
  return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _from_ordered(order: np.ndarray) -> np.ndarray:
  bits = np.where(order < 0, -order | 0x80000000, order)
  return bits.astype(np.uint32).view(np.float32)


@functools.cache
def _table(f: ActionField) -> np.ndarray:
  """Return the number or one-hot row of each token."""
  if f.kind == 'classes':
    return np.eye(f.bins, dtype=np.float32)
  low, high = np.asarray([f.low], np.float32).T, np.asarray([f.high], np.float32).T
  return np.arange(f.bins, dtype=np.float32) / np.float32(f.bins - 1) * (high - low) + low
