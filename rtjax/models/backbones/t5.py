"""T5 1.1 (Raffel et al. 2020; Shazeer 2020), mT5 and UL2: an encoder-decoder.

    encoder    embeddings [B, N, D]  full attention
                 layer:  x += attention(norm(x));  x += mlp(norm(x))
                                 |
    decoder    tokens [B, M]         causal, with cross-attention to the encoder's output, its memory
                 layer:  x += attention(norm(x));  x += cross_attention(norm(x), memory);  x += mlp(norm(x))

Norms divide by the root mean square, no linear map has a bias, and scores are not divided by sqrt(head_size). Positions
enter through a bias of the scores alone: one table for each stack, by head and by bucket of the distance, shared by
all its layers; cross-attention has none. Embeddings enter unscaled. A text begins with padding (id 0).

PaLI encodes `concatenate([image tokens, t5.embed(ids)], 1)` (pali.py).

Source: google-research/text-to-text-transfer-transformer and t5x; names and numbers as published on Hugging Face.
"""
import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rtjax.models.layers import initializers
from rtjax.models.layers.attention import Attention, fan_in_normal
from rtjax.models.layers.common import dropout
from rtjax.models.layers.layer_stack import LayerStack
from rtjax.models.layers.mlp import GatedMlp
from rtjax.models.registry import register

EPSILON = 1e-6  # of the norms
PAD = 0  # also begins a text
END = 1


@dataclasses.dataclass(frozen=True)
class T5Config:
  """Shape of the network; by default half the depth of T5 1.1 large.

  Attributes:
    vocab_size: number of token ids.
    width: D, width of the transformer.
    head_size: width of a head; heads times it need not be the width.
    mlp_width: width of the hidden layer of the MLPs.
    encoder_layers: layers of the encoder.
    decoder_layers: layers of the decoder.
    heads: attention heads of a layer.
    buckets: rows of the tables of position biases; the encoder spends half of them on each side.
    max_distance: from here on, all distances share one bucket.
    activation: of the gated MLPs: tanh GELU (T5 1.1, mT5) or SiLU (UL2).
    tied: whether the logits come from the embedding table (UL2) or from a separate head.
    dropout: rate on embeddings, attention probabilities, hidden layers, the output of each part, and the final output.
    dtype: type of the computation; parameters are always float32, and so are norms, scores and logits inside.
    remat: recompute each layer in the backward pass instead of keeping its activations.
  """
  vocab_size: int = 32128
  width: int = 1024
  head_size: int = 64
  mlp_width: int = 2816
  encoder_layers: int = 12
  decoder_layers: int = 12
  heads: int = 16
  buckets: int = 32
  max_distance: int = 128
  activation: Literal['gelu_tanh', 'silu'] = 'gelu_tanh'
  tied: bool = False
  dropout: float = 0.1
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  remat: bool = False

  def __post_init__(self) -> None:
    for name in ('vocab_size', 'width', 'head_size', 'mlp_width', 'encoder_layers', 'decoder_layers', 'heads'):
      if getattr(self, name) < 1:
        raise ValueError(f'T5Config.{name} is {getattr(self, name)}, it must be at least 1.')
    if self.buckets < 4 or self.buckets % 2:
      raise ValueError(f'T5Config.buckets is {self.buckets}, expected an even number from 4 on, such as 32.')
    if self.max_distance <= self.buckets // 2:
      raise ValueError(f'T5Config.max_distance is {self.max_distance}, it must be above half of the {self.buckets} '
                       'buckets, such as 128.')
    if not 0 <= self.dropout < 1:
      raise ValueError(f'T5Config.dropout is {self.dropout}, expected 0 (none) to below 1.')


class LayerCache(NamedTuple):
  """Keys and values of decoder layers: tokens so far, and memory."""
  key: Float[Array, '*L B M h d']
  value: Float[Array, '*L B M h d']
  memory_key: Float[Array, '*L B N h d']
  memory_value: Float[Array, '*L B N h d']


class DecoderCache(NamedTuple):
  """State of the decoder between two tokens.

  Attributes:
    layers: caches of all layers, stacked.
    memory_mask: False where the memory is padding.
    length: tokens taken so far, up to M.
  """
  layers: LayerCache
  memory_mask: Bool[Array, 'B N']
  length: Int[Array, '']


def buckets(offsets: Int[np.ndarray, '*n'], config: T5Config, causal: bool) -> Int[np.ndarray, '*n']:
  """Return the bucket of each offset: the key's position minus the query's.

  Half of a side's buckets are for one distance each, the others grow with its logarithm. Computed on the host in
  float32, as the reference does: distances at a bucket's edge depend on the rounding.
  """
  count = config.buckets if causal else config.buckets // 2
  side = np.zeros_like(offsets) if causal else np.where(offsets > 0, count, 0)
  distance = np.maximum(-offsets, 0) if causal else np.abs(offsets)
  exact = count // 2
  ratio = np.maximum(distance, exact).astype(np.float32) / np.float32(exact)
  growth = np.log(ratio) / np.float32(np.log(config.max_distance / exact)) * np.float32(count - exact)
  far = np.minimum(exact + growth.astype(np.int32), count - 1)
  return side + np.where(distance < exact, distance, far)


def _norm(config: T5Config, rngs: nnx.Rngs) -> nnx.RMSNorm:
  return nnx.RMSNorm(config.width, epsilon=EPSILON, dtype=jnp.dtype(config.dtype), rngs=rngs)


def _attention(config: T5Config, rngs: nnx.Rngs) -> Attention:
  # Scores are not divided by sqrt(head_size), so that queries start that much smaller.
  return Attention(config.width, config.heads, config.head_size, bias=False, scale=1.0, dropout=config.dropout,
                   query_init=fan_in_normal(1 / config.head_size), dtype=jnp.dtype(config.dtype), rngs=rngs)


class Layer(nnx.Module):
  """One layer; see the module's docstring."""

  def __init__(self, config: T5Config, *, decoder: bool, rngs: nnx.Rngs):
    self.attention_norm, self.attention = _norm(config, rngs), _attention(config, rngs)
    if decoder:
      self.cross_attention_norm, self.cross_attention = _norm(config, rngs), _attention(config, rngs)
    self.mlp_norm = _norm(config, rngs)
    self.mlp = GatedMlp(config.width, config.mlp_width, config.activation, dropout=config.dropout,
                        dtype=jnp.dtype(config.dtype), rngs=rngs)
    self.dropout = config.dropout

  def __call__(self, x: Float[Array, 'B M D'], position_bias: Float[Array, 'h M M'],
               mask: Bool[Array, '#B #M M'] | None, memory: Float[Array, 'B N D'] | None = None,
               memory_mask: Bool[Array, 'B N'] | None = None, rngs: nnx.Rngs | None = None) -> Float[Array, 'B M D']:
    y = self.attention_norm(x)
    x = x + dropout(self.attention(y, y, position_bias, mask, rngs), self.dropout, rngs)
    if memory is not None:
      columns = None if memory_mask is None else memory_mask[:, None]
      y = self.cross_attention(self.cross_attention_norm(x), memory, None, columns, rngs)
      x = x + dropout(y, self.dropout, rngs)
    return x + dropout(self.mlp(self.mlp_norm(x), rngs), self.dropout, rngs)

  def step(self, x: Float[Array, 'B 1 D'], position_bias: Float[Array, 'h 1 M'], cache: LayerCache,
           memory_mask: Bool[Array, 'B N'], position: Int[Array, '']) -> tuple[LayerCache, Float[Array, 'B 1 D']]:
    """Take one token of the decoder, at `position`."""
    y = self.attention_norm(x)
    key, value = self.attention.key_value(y)
    cache = cache._replace(key=jax.lax.dynamic_update_slice_in_dim(cache.key, key, position, axis=1),
                           value=jax.lax.dynamic_update_slice_in_dim(cache.value, value, position, axis=1))
    so_far = jnp.arange(cache.key.shape[1])[None, None] <= position
    x = x + self.attention.attend(y, cache.key, cache.value, position_bias, so_far)
    x = x + self.cross_attention.attend(
        self.cross_attention_norm(x), cache.memory_key, cache.memory_value, None, memory_mask[:, None])
    return cache, x + self.mlp(self.mlp_norm(x))


class Stack(nnx.Module):
  """Encoder or decoder: layers with common position biases, and a norm."""

  def __init__(self, config: T5Config, *, decoder: bool, rngs: nnx.Rngs):
    self.config, self.causal = config, decoder
    init = initializers.normal(config.width ** -0.5)
    self.relative_bias = nnx.Param(init(rngs.params(), (config.buckets, config.heads)))
    layers = config.decoder_layers if decoder else config.encoder_layers
    self.layers = LayerStack(lambda: Layer(config, decoder=decoder, rngs=rngs), layers)
    self.norm = _norm(config, rngs)

  def position_bias(self, length: int) -> Float[Array, 'h N N']:
    """Return the bias of the scores of `length` tokens among themselves."""
    positions = np.arange(length)
    table = self.relative_bias[...][buckets(positions[None] - positions[:, None], self.config, self.causal)]
    return table.transpose(2, 0, 1)

  def __call__(self, x: Float[Array, 'B M D'], mask: Bool[Array, '#B #M M'] | None,
               memory: Float[Array, 'B N D'] | None = None, memory_mask: Bool[Array, 'B N'] | None = None,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B M D']:
    rate = self.config.dropout
    x = dropout(x, rate, rngs)
    bias = self.position_bias(x.shape[1])
    x, _ = self.layers.scan(lambda layer, x, rngs: (layer(x, bias, mask, memory, memory_mask, rngs), None), x,
                            remat=self.config.remat, rngs=rngs)
    return dropout(self.norm(x), rate, rngs)

  def step(self, cache: DecoderCache, x: Float[Array, 'B 1 D']) -> tuple[DecoderCache, Float[Array, 'B 1 D']]:
    """Take the decoder's next token."""
    longest = cache.layers.key.shape[2]
    by_distance = jnp.asarray(buckets(-np.arange(longest), self.config, causal=True))
    distances = jnp.maximum(cache.length - jnp.arange(longest), 0)  # later positions are hidden
    bias = self.relative_bias[...][by_distance[distances]].T[:, None]

    def take(layer: Layer, x: Array, layer_cache: LayerCache, rngs: None) -> tuple[Array, tuple[Array, Array]]:
      layer_cache, x = layer.step(x, bias, layer_cache, cache.memory_mask, cache.length)
      return x, (layer_cache.key, layer_cache.value)
    x, (key, value) = self.layers.scan(take, x, cache.layers)
    return cache._replace(layers=cache.layers._replace(key=key, value=value), length=cache.length + 1), self.norm(x)


@register('t5', T5Config)
class T5(nnx.Module):
  """Encoder-decoder; see the module's docstring.

  All methods are plain traceable code; `rngs` (stream `dropout`) turns dropout on.
  """

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    self.config = config
    self.token_embedding = nnx.Embed(config.vocab_size, config.width, rngs=rngs,
                                     embedding_init=initializers.normal(1.0))
    self.encoder = Stack(config, decoder=False, rngs=rngs)
    self.decoder = Stack(config, decoder=True, rngs=rngs)
    if not config.tied:
      init = initializers.normal(config.width ** -0.5)
      self.token_head = nnx.Linear(config.width, config.vocab_size, use_bias=False, kernel_init=init,
                                   dtype=self._dtype, rngs=rngs)

  @property
  def _dtype(self) -> jnp.dtype:
    return jnp.dtype(self.config.dtype)

  def embed(self, ids: Int[Array, '*B']) -> Float[Array, '*B D']:
    """Return token embeddings, in the scale in which they enter both stacks."""
    return self.token_embedding(ids).astype(self._dtype)

  def encode(self, embeddings: Float[Array, 'B N D'], mask: Bool[Array, 'B N'] | None = None,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    """Return the encoder's output, the memory of the decoder.

    Args:
      mask: False at padding, to which no token attends and whose output is meaningless; None: no padding. Padding
        counts in distances.
    """
    return self.encoder(embeddings.astype(self._dtype), None if mask is None else mask[:, None], rngs=rngs)

  def decode(self, tokens: Int[Array, 'B M'] | Float[Array, 'B M D'], memory: Float[Array, 'B N D'],
             memory_mask: Bool[Array, 'B N'] | None = None, rngs: nnx.Rngs | None = None) -> Float[Array, 'B M D']:
    """Return the decoder's output at all positions, the input of `logits`.

    Args:
      tokens: ids or embeddings of the input at each position; see `shift_right`.
      memory, memory_mask: the encoder's output, and the mask that it was given.
    """
    causal = jnp.tri(tokens.shape[1], dtype=bool)[None]
    return self.decoder(self._embedded(tokens), causal, memory, memory_mask, rngs)

  def logits(self, hidden: Float[Array, '*B D']) -> Float[Array, '*B vocab']:
    """Return float32 logits of the next token, given the decoder's output."""
    if not self.config.tied:
      return self.token_head(hidden).astype(jnp.float32)
    table = self.token_embedding.embedding[...].astype(hidden.dtype)
    scaled = hidden * np.float32(self.config.width ** -0.5).astype(hidden.dtype)
    return jnp.einsum('...d,vd->...v', scaled, table, preferred_element_type=jnp.float32)

  def start_cache(self, memory: Float[Array, 'B N D'], memory_mask: Bool[Array, 'B N'] | None = None, *,
                  length: int) -> DecoderCache:
    """Return the cache before the first token, a pytree of fixed shapes.

    Args:
      memory, memory_mask: the encoder's output, and the mask that it was given.
      length: M, most tokens that will be taken; each step costs attention over M, and a step beyond it would overwrite
        the last token.
    """
    if length < 1:
      raise ValueError(f'length is {length}, the cache must hold at least 1 token.')
    c, batch = self.config, memory.shape[0]
    empty = jnp.zeros((c.decoder_layers, batch, length, c.heads, c.head_size), self._dtype)
    layers = LayerCache(empty, empty, *self.decoder.layers.map(lambda layer: layer.cross_attention.key_value(memory)))
    mask = jnp.ones(memory.shape[:2], bool) if memory_mask is None else memory_mask
    return DecoderCache(layers, mask, jnp.zeros((), jnp.int32))

  def decode_step(self, cache: DecoderCache, tokens: Int[Array, ' B'] | Float[Array, 'B D']
                  ) -> tuple[DecoderCache, Float[Array, 'B D']]:
    """Take one id or embedding of each row; return cache and output."""
    cache, hidden = self.decoder.step(cache, self._embedded(tokens)[:, None])
    return cache, hidden[:, 0]

  def _embedded(self, tokens: Int[Array, '*B'] | Float[Array, '*B D']) -> Float[Array, '*B D']:
    return self.embed(tokens) if jnp.issubdtype(tokens.dtype, jnp.integer) else tokens.astype(self._dtype)


def shift_right(labels: Int[Array, 'B M']) -> Int[Array, 'B M']:
  """Return the decoder's input to learn `labels`.

  It is padding, then all labels but the last.
  Negative labels, which do not count in a loss, become padding too.
  """
  return jnp.maximum(jnp.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=PAD), PAD)
