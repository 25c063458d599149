"""Layers of Gemma (2024), Gemma 2 (2024) and Gemma 3 (2025), as PaliGemma and T5Gemma 2 use them.

    tokens [B, M, D], at positions [B, M]
      layer:  x += post_norm(attention(norm(x)));  x += post_norm(mlp(norm(x)))     Gemma 1 has no post_norm
      norm

Norms divide by the root mean square and multiply by 1 + their weight; no linear map has a bias. Positions enter through
a rotation of queries and keys (rope.py). Several heads share keys and values. Gemma 2 bounds scores and logits by a
soft cap; some of its layers are local: they see a window of positions alone. Gemma 3 normalises each head's queries and
keys, and rotates in local and global layers with different bases.

A stack computes keys and values of a prefix once; later tokens attend to them (`KeyValue`, `DecoderCache`).

Source: google-deepmind/gemma; names and numbers as published on Hugging Face.
"""
import dataclasses
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rtjax.models.layers import initializers, rope
from rtjax.models.layers.attention import Attention
from rtjax.models.layers.layer_stack import LayerStack
from rtjax.models.layers.mlp import GatedMlp
from rtjax.models.layers.rope import Rotation


@dataclasses.dataclass(frozen=True)
class GemmaConfig:
  """Shape of layers and embeddings; the defaults are PaliGemma 3B's.

  Attributes:
    vocab_size: number of token ids.
    width: D, width of the transformer.
    layers: number of layers.
    heads: attention heads of a layer.
    kv_heads: heads of keys and values.
    head_size: width of a head; heads times it need not be the width.
    mlp_width: width of the hidden layer of the MLPs.
    query_scale: scores are divided by the square root of it; 0 = head_size.
    post_norms: whether attention and MLP are normalised before they are added (Gemma 2 and 3).
    head_norms: whether each head's queries and keys are normalised (Gemma 3).
    attention_cap: soft cap of the scores; 0 = none.
    logit_cap: soft cap of the logits; 0 = none.
    local: whether each layer is local; empty: none is.
    local_span: positions that a local layer sees.
    rope_base: base of the rotation in global layers.
    rope_factor: divides the positions there.
    local_rope_base: base of the rotation in local layers.
    epsilon: of the norms.
    dtype: type of the computation; parameters are always float32, and so are norms, scores and logits inside.
    remat: recompute each layer in the backward pass instead of keeping its activations.
  """
  vocab_size: int = 257216
  width: int = 2048
  layers: int = 18
  heads: int = 8
  kv_heads: int = 1
  head_size: int = 256
  mlp_width: int = 16384
  query_scale: float = 0.0
  post_norms: bool = False
  head_norms: bool = False
  attention_cap: float = 0.0
  logit_cap: float = 0.0
  local: tuple[bool, ...] = ()
  local_span: int = 4096
  rope_base: float = 1e4
  rope_factor: float = 1.0
  local_rope_base: float = 1e4
  epsilon: float = 1e-6
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  remat: bool = False

  def __post_init__(self) -> None:
    for name in ('vocab_size', 'width', 'layers', 'heads', 'kv_heads', 'head_size', 'mlp_width', 'local_span'):
      if getattr(self, name) < 1:
        raise ValueError(f'GemmaConfig.{name} is {getattr(self, name)}, it must be at least 1.')
    if self.heads % self.kv_heads:
      raise ValueError(f'GemmaConfig.kv_heads is {self.kv_heads}, expected a divisor of the {self.heads} heads.')
    if self.head_size % 2:
      raise ValueError(f'GemmaConfig.head_size is {self.head_size}, expected an even number: channels rotate in pairs.')
    if len(self.local) not in (0, self.layers):
      raise ValueError(f'GemmaConfig.local has {len(self.local)} entries for {self.layers} layers.')


class KeyValue(NamedTuple):
  """Keys and values of the tokens, of one layer or stacked."""
  key: Float[Array, '*L B N g d']
  value: Float[Array, '*L B N g d']


class Masks(NamedTuple):
  """Columns that each row may attend to."""
  full: Bool[Array, 'B M N']
  local: Bool[Array, 'B M N']


class RMSNorm(nnx.Module):
  """Root mean square norm; a weight of zero multiplies by one."""

  def __init__(self, width: int, epsilon: float):
    self.scale, self.epsilon = nnx.Param(jnp.zeros(width)), epsilon

  def __call__(self, x: Float[Array, '*B D']) -> Float[Array, '*B D']:
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + self.epsilon)
    return (normed * (1 + self.scale[...])).astype(x.dtype)


class Embedding(nnx.Module):
  """Token embeddings, whose table is also the output head."""

  def __init__(self, config: GemmaConfig, *, rngs: nnx.Rngs):
    init = initializers.normal(config.width ** -0.5)
    self.embedding = nnx.Param(init(rngs.params(), (config.vocab_size, config.width)))
    self.config = config

  def __call__(self, ids: Int[Array, '*B']) -> Float[Array, '*B D']:
    """Return embeddings times sqrt(D)."""
    dtype = jnp.dtype(self.config.dtype)
    return self.embedding[...][ids].astype(dtype) * jnp.asarray(math.sqrt(self.config.width), dtype)

  def logits(self, hidden: Float[Array, '*B D']) -> Float[Array, '*B vocab']:
    """Return float32 logits of the next token."""
    table, cap = self.embedding[...].astype(hidden.dtype), self.config.logit_cap
    logits = jnp.einsum('...d,vd->...v', hidden, table, preferred_element_type=jnp.float32)
    return cap * jnp.tanh(logits / cap) if cap else logits


class Layer(nnx.Module):
  """One layer; see the module's docstring."""

  def __init__(self, config: GemmaConfig, *, rngs: nnx.Rngs):
    c, dtype = config, jnp.dtype(config.dtype)
    self.attention_norm, self.mlp_norm = (RMSNorm(c.width, c.epsilon) for _ in range(2))
    self.attention_post_norm, self.mlp_post_norm = (
        RMSNorm(c.width, c.epsilon) if c.post_norms else None for _ in range(2))
    self.attention = Attention(
        c.width, c.heads, c.head_size, kv_heads=c.kv_heads, bias=False, scale=(c.query_scale or c.head_size) ** -0.5,
        cap=c.attention_cap, head_norm=(lambda: RMSNorm(c.head_size, c.epsilon)) if c.head_norms else None,
        dtype=dtype, rngs=rngs)
    self.mlp = GatedMlp(c.width, c.mlp_width, 'gelu_tanh', dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, 'B M D'], rotation: Rotation, mask: Bool[Array, 'B M N'],
               memory: KeyValue | None = None) -> tuple[Float[Array, 'B M D'], KeyValue]:
    """Return outputs, and their tokens' own keys and values.

    Args:
      memory: earlier keys and values; None: tokens attend to each other alone.
      mask: columns of the memory stand first.
    """
    y = self.attention_norm(x)
    own = KeyValue(*self.attention.key_value(y, rotation))
    seen = own if memory is None else KeyValue(*(jnp.concatenate(pair, 1) for pair in zip(memory, own, strict=True)))
    return self._add(x, self.attention.attend(y, *seen, mask=mask, rotation=rotation)), own

  def step(self, x: Float[Array, 'B 1 D'], rotation: Rotation, mask: Bool[Array, 'B 1 N'], cache: KeyValue,
           slot: Int[Array, '']) -> tuple[Float[Array, 'B 1 D'], KeyValue]:
    """Return output and cache of one more token, kept at `slot`."""
    y = self.attention_norm(x)
    own = self.attention.key_value(y, rotation)
    cache = KeyValue(*(jax.lax.dynamic_update_slice_in_dim(kept, new.astype(kept.dtype), slot, axis=1)
                       for kept, new in zip(cache, own, strict=True)))
    return self._add(x, self.attention.attend(y, *cache, mask=mask, rotation=rotation)), cache

  def _add(self, x: Float[Array, 'B M D'], attended: Float[Array, 'B M D']) -> Float[Array, 'B M D']:
    x = x + (attended if self.attention_post_norm is None else self.attention_post_norm(attended))
    y = self.mlp(self.mlp_norm(x))
    return x + (y if self.mlp_post_norm is None else self.mlp_post_norm(y))


class Stack(nnx.Module):
  """Layers and the final norm."""

  def __init__(self, config: GemmaConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.layers = LayerStack(lambda: Layer(config, rngs=rngs), config.layers)
    self.norm = RMSNorm(config.width, config.epsilon)

  def __call__(self, x: Float[Array, 'B M D'], positions: Int[Array, 'B M'], masks: Masks,
               memory: KeyValue | None = None) -> tuple[Float[Array, 'B M D'], KeyValue]:
    """Return outputs, and keys and values of all layers.

    Args:
      memory: keys and values of earlier tokens in all layers, the first columns of the masks.
    """
    kinds = self._rotations(positions), masks

    def call(layer: Layer, x: Array, is_local: Array | None, memory: KeyValue | None, rngs: None
             ) -> tuple[Array, KeyValue]:
      return layer(x, *_of_kind(kinds, is_local), memory)
    x, key_value = self.layers.scan(call, x, self._is_local, memory, remat=self.config.remat)
    return self.norm(x), key_value

  def step(self, x: Float[Array, 'B 1 D'], positions: Int[Array, 'B 1'], masks: Masks, caches: KeyValue,
           slot: Int[Array, '']) -> tuple[Float[Array, 'B 1 D'], KeyValue]:
    """Return outputs and caches of one more token."""
    kinds = self._rotations(positions), masks

    def call(layer: Layer, x: Array, is_local: Array | None, cache: KeyValue, rngs: None) -> tuple[Array, KeyValue]:
      return layer.step(x, *_of_kind(kinds, is_local), cache, slot)
    x, caches = self.layers.scan(call, x, self._is_local, caches)
    return self.norm(x), caches

  @property
  def _is_local(self) -> Bool[Array, ' L'] | None:
    return jnp.array(self.config.local) if self.config.local else None

  def _rotations(self, positions: Int[Array, 'B M']) -> tuple[Rotation, Rotation]:
    c = self.config
    return (rope.rotation(positions, c.head_size, c.rope_base, c.rope_factor),
            rope.rotation(positions, c.head_size, c.local_rope_base))


def _of_kind(kinds: tuple[tuple[Rotation, Rotation], Masks], is_local: Bool[Array, ''] | None
             ) -> tuple[Rotation, Bool[Array, 'B M N']]:
  """Return rotation and mask of a global or local layer; None: global."""
  rotations, masks = kinds
  if is_local is None:
    return rotations[0], masks.full
  whole, local = (rotations[0], masks.full), (rotations[1], masks.local)
  return jax.tree.map(lambda whole, local: jnp.where(is_local, local, whole), whole, local)


class DecoderCache(NamedTuple):
  """State of a decoder between two tokens.

  Attributes:
    layers: keys and values of all layers: N of the memory, then M slots.
    mask: False where the memory is padding.
    offsets: positions of the memory, relative to the decoder's first token; 0 where every token may attend to them,
      however far.
    first: position of the decoder's first token.
    last: output of the prefix's last token, for prefix language models.
    taken: tokens taken so far, up to M.
  """
  layers: KeyValue
  mask: Bool[Array, 'B N']
  offsets: Int[Array, 'B N']
  first: Int[Array, ' B']
  last: Float[Array, 'B D'] | None
  taken: Int[Array, '']


def count_positions(mask: Bool[Array, 'B N']) -> Int[Array, 'B N']:
  """Return the position of each token, from 0; padding has no effect."""
  return jnp.maximum(jnp.cumsum(mask, 1) - 1, 0)


def causal_masks(config: GemmaConfig, count: int, memory_mask: Bool[Array, 'B N'], memory_offsets: Int[Array, 'B N']
                 ) -> Masks:
  """Return the masks of `count` tokens behind a memory.

  Args:
    memory_offsets: see `DecoderCache.offsets`; 0 is within every window.
  """
  rows = np.arange(count)
  batch = memory_mask.shape[0]
  own = jnp.broadcast_to(np.tri(count, dtype=bool), (batch, count, count))
  near = jnp.broadcast_to(rows[:, None] - rows < config.local_span, own.shape)
  seen = jnp.broadcast_to(memory_mask[:, None], (batch, count, memory_mask.shape[1]))
  seen_near = (memory_offsets == 0)[:, None] | (rows[:, None] - memory_offsets[:, None] < config.local_span)
  return Masks(jnp.concatenate([seen, own], 2), jnp.concatenate([seen & seen_near, own & near], 2))


def step_masks(config: GemmaConfig, cache: DecoderCache, taken: Int[Array, '']) -> Masks:
  """Return the masks of one token, behind `taken` others."""
  slots = jnp.arange(cache.layers.key.shape[2] - cache.mask.shape[1])
  batch = cache.mask.shape[0]
  own = jnp.broadcast_to(slots <= taken, (batch, len(slots)))
  near = taken - slots < config.local_span
  seen_near = (cache.offsets == 0) | (taken - cache.offsets < config.local_span)
  return Masks(jnp.concatenate([cache.mask, own], 1)[:, None],
               jnp.concatenate([cache.mask & seen_near, own & near], 1)[:, None])


def with_slots(memory: KeyValue, length: int) -> KeyValue:
  """Return the memory with `length` empty slots behind it, in all layers."""
  if length < 1:
    raise ValueError(f'length is {length}, the cache must hold at least 1 token.')
  return jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, 0), (0, length), (0, 0), (0, 0))), memory)
