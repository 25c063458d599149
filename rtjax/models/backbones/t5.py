"""T5 1.1 (Raffel et al. 2020; Shazeer 2020), mT5 and UL2: an encoder-decoder of text, and of whatever comes embedded.

    encoder    embeddings [B, N, D]  everyone attends to all that is there
                 layer:  x += attention(norm(x));  x += mlp(norm(x))
                                 |
    decoder    tokens [B, M]         each attends to itself and those before, and to the encoder's output
                 layer:  x += attention(norm(x));  x += cross_attention(norm(x), memory);  x += mlp(norm(x))

Norms divide by the root mean square, no linear map has a bias, and scores are not divided by sqrt(head_size). Places
enter through a bias of the scores alone: one table for each stack, by head and by bucket of the distance, shared by
all its layers; cross-attention has none. Embeddings enter unscaled. A text begins with padding (id 0).

PaLI's way in: `encode(concatenate([visual, t5.embed(ids)], 1), mask)`.

Source: google-research/text-to-text-transfer-transformer and t5x; names and numbers as published on Hugging Face.
"""
import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rtjax.models.layers.attention import Attention
from rtjax.models.layers.common import dropout, run_again

EPSILON = 1e-6  # of the norms
PAD = 0  # also begins a text
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {'gelu': jax.nn.gelu, 'silu': jax.nn.silu}  # the tanh GELU


@dataclasses.dataclass(frozen=True)
class T5Config:
  """The network's shape; the defaults are half the depth of T5 1.1 large.

  Attributes:
    vocab_size: ids there are.
    width: D.
    head_size: width of a head; heads times it need not be the width.
    mlp_width: width inside the MLPs.
    encoder_layers, decoder_layers, heads: how many.
    buckets: rows of the tables of position biases; the encoder spends half of them on each side.
    max_distance: from here on, all distances share one bucket.
    activation: of the gated MLPs: tanh GELU (T5 1.1, mT5) or SiLU (UL2).
    tied: whether the table of embeddings gives the logits as well (UL2), or a head of its own does.
    dropout: of embeddings, attention probabilities, MLPs, what each part adds, and the output.
    dtype: numbers to compute in; parameters are always float32, and so are norms, scores and logits inside.
    remat: compute each layer again in the backward pass in place of keeping what is inside it.
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
  activation: Literal['gelu', 'silu'] = 'gelu'
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

  def to_dict(self) -> dict[str, Any]:
    return {'model': 't5'} | dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, config: dict[str, Any]) -> 'T5Config':
    return cls(**{key: value for key, value in config.items() if key != 'model'})


class LayerCache(NamedTuple):
  """Keys and values of one decoder layer: of the tokens so far, and of the encoder's output."""
  key: Float[Array, 'B M h d']
  value: Float[Array, 'B M h d']
  memory_key: Float[Array, 'B N h d']
  memory_value: Float[Array, 'B N h d']


class Cache(NamedTuple):
  """What the decoder remembers from token to token.

  Attributes:
    layers: of each layer.
    memory_mask: which positions of the encoder's output are there.
    length: tokens taken in so far, up to M.
  """
  layers: tuple[LayerCache, ...]
  memory_mask: Bool[Array, 'B N']
  length: Int[Array, '']


def buckets(offsets: Int[np.ndarray, '*n'], config: T5Config, causal: bool) -> Int[np.ndarray, '*n']:
  """The bucket of each offset, which is the key's position minus the query's.

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


class GatedMlp(nnx.Module):
  """act(x W1) * (x W2), through W3; no biases (Shazeer 2020)."""

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    def linear(inputs: int, outputs: int) -> nnx.Linear:
      init = nnx.initializers.variance_scaling(1.0, 'fan_in', 'normal')
      return nnx.Linear(inputs, outputs, use_bias=False, kernel_init=init, dtype=jnp.dtype(config.dtype), rngs=rngs)
    self.hidden, self.gate = linear(config.width, config.mlp_width), linear(config.width, config.mlp_width)
    self.out = linear(config.mlp_width, config.width)
    self.activation, self.dropout = config.activation, config.dropout

  def __call__(self, x: Float[Array, 'B N D'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    inside = _ACTIVATIONS[self.activation](self.hidden(x)) * self.gate(x)
    return self.out(dropout(inside, self.dropout, rngs))


def _norm(config: T5Config, rngs: nnx.Rngs) -> nnx.RMSNorm:
  return nnx.RMSNorm(config.width, epsilon=EPSILON, dtype=jnp.dtype(config.dtype), rngs=rngs)


class Layer(nnx.Module):
  """One layer; see the module's docstring."""

  def __init__(self, config: T5Config, *, decoder: bool, rngs: nnx.Rngs):
    def attention() -> Attention:
      return Attention(config.width, config.heads, config.head_size, bias=False, scaled=False, dropout=config.dropout,
                       dtype=jnp.dtype(config.dtype), rngs=rngs)
    self.attention_norm, self.attention = _norm(config, rngs), attention()
    if decoder:
      self.cross_attention_norm, self.cross_attention = _norm(config, rngs), attention()
    self.mlp_norm, self.mlp = _norm(config, rngs), GatedMlp(config, rngs=rngs)
    self.dropout = config.dropout

  def __call__(self, x: Float[Array, 'B N D'], position_bias: Float[Array, 'h N N'],
               mask: Bool[Array, '#B #N N'] | None, memory: Float[Array, 'B S D'] | None = None,
               memory_mask: Bool[Array, 'B S'] | None = None, rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    y = self.attention_norm(x)
    x = x + dropout(self.attention(y, y, position_bias, mask, rngs), self.dropout, rngs)
    if memory is not None:
      seen = None if memory_mask is None else memory_mask[:, None]
      gathered = self.cross_attention(self.cross_attention_norm(x), memory, None, seen, rngs)
      x = x + dropout(gathered, self.dropout, rngs)
    return x + dropout(self.mlp(self.mlp_norm(x), rngs), self.dropout, rngs)

  def step(self, x: Float[Array, 'B 1 D'], position_bias: Float[Array, 'h 1 M'], cache: LayerCache,
           memory_mask: Bool[Array, 'B S'], place: Int[Array, '']) -> tuple[LayerCache, Float[Array, 'B 1 D']]:
    """One token of the decoder, at `place`."""
    y = self.attention_norm(x)
    key, value = self.attention.key_value(y)
    cache = cache._replace(key=jax.lax.dynamic_update_slice_in_dim(cache.key, key, place, axis=1),
                           value=jax.lax.dynamic_update_slice_in_dim(cache.value, value, place, axis=1))
    so_far = jnp.arange(cache.key.shape[1])[None, None] <= place
    x = x + self.attention.attend(y, cache.key, cache.value, position_bias, so_far)
    x = x + self.cross_attention.attend(
        self.cross_attention_norm(x), cache.memory_key, cache.memory_value, None, memory_mask[:, None])
    return cache, x + self.mlp(self.mlp_norm(x))


class Stack(nnx.Module):
  """The encoder, or the decoder: layers, the table of position biases that they share, and a norm at the end."""

  def __init__(self, config: T5Config, *, decoder: bool, rngs: nnx.Rngs):
    self.config, self.causal = config, decoder
    init = nnx.initializers.normal(config.width ** -0.5)
    self.relative_bias = nnx.Param(init(rngs.params(), (config.buckets, config.heads)))
    layers = config.decoder_layers if decoder else config.encoder_layers
    self.layers = nnx.List([Layer(config, decoder=decoder, rngs=rngs) for _ in range(layers)])
    self.norm = _norm(config, rngs)

  def position_bias(self, length: int) -> Float[Array, 'h N N']:
    """What is added to the scores of `length` tokens among themselves."""
    places = np.arange(length)
    table = self.relative_bias[...][buckets(places[None] - places[:, None], self.config, self.causal)]
    return table.transpose(2, 0, 1)

  def __call__(self, x: Float[Array, 'B N D'], mask: Bool[Array, '#B #N N'] | None,
               memory: Float[Array, 'B S D'] | None = None, memory_mask: Bool[Array, 'B S'] | None = None,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    rate = self.config.dropout
    x = dropout(x, rate, rngs)
    bias = self.position_bias(x.shape[1])
    for layer in self.layers:
      inputs = x, bias, mask, memory, memory_mask, rngs
      x = run_again(layer, *inputs) if self.config.remat else layer(*inputs)
    return dropout(self.norm(x), rate, rngs)

  def step(self, cache: Cache, x: Float[Array, 'B 1 D']) -> tuple[Cache, Float[Array, 'B 1 D']]:
    """The decoder's next token."""
    longest = cache.layers[0].key.shape[1]
    by_distance = jnp.asarray(buckets(-np.arange(longest), self.config, causal=True))
    distances = jnp.maximum(cache.length - jnp.arange(longest), 0)  # later places are hidden
    bias = self.relative_bias[...][by_distance[distances]].T[:, None]
    layers = []
    for layer, held in zip(self.layers, cache.layers, strict=True):
      held, x = layer.step(x, bias, held, cache.memory_mask, cache.length)
      layers.append(held)
    return cache._replace(layers=tuple(layers), length=cache.length + 1), self.norm(x)


class T5(nnx.Module):
  """See the module's docstring. All methods are plain traceable code; `rngs` (stream `dropout`) turns dropout on."""

  def __init__(self, config: T5Config, *, rngs: nnx.Rngs):
    self.config = config
    self.token_embedding = nnx.Embed(config.vocab_size, config.width, rngs=rngs,
                                     embedding_init=nnx.initializers.normal(1.0))
    self.encoder = Stack(config, decoder=False, rngs=rngs)
    self.decoder = Stack(config, decoder=True, rngs=rngs)
    if not config.tied:
      init = nnx.initializers.normal(config.width ** -0.5)
      self.token_head = nnx.Linear(config.width, config.vocab_size, use_bias=False, kernel_init=init,
                                   dtype=self._dtype, rngs=rngs)

  @property
  def _dtype(self) -> Any:
    return jnp.dtype(self.config.dtype)

  def embed(self, ids: Int[Array, '*b']) -> Float[Array, '*b D']:
    """Token embeddings, in the scale in which they enter both stacks."""
    return self.token_embedding(ids).astype(self._dtype)

  def encode(self, embeddings: Float[Array, 'B N D'], mask: Bool[Array, 'B N'] | None = None,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    """The encoder's output, which the decoder calls its memory.

    Args:
      mask: False where there is padding, which nobody attends to; what comes out there means nothing. None: all are
        there. Padding counts in the distances.
    """
    return self.encoder(embeddings.astype(self._dtype), None if mask is None else mask[:, None], rngs=rngs)

  def decode(self, tokens: Int[Array, 'B M'] | Float[Array, 'B M D'], memory: Float[Array, 'B N D'],
             memory_mask: Bool[Array, 'B N'] | None = None, rngs: nnx.Rngs | None = None) -> Float[Array, 'B M D']:
    """The decoder's output at all positions at once: what `logits`, or any head, reads.

    Args:
      tokens: ids or embeddings of what the decoder has before each position; see `shift_right`.
      memory, memory_mask: the encoder's output, and the mask that it was given.
    """
    causal = jnp.tri(tokens.shape[1], dtype=bool)[None]
    return self.decoder(self._embedded(tokens), causal, memory, memory_mask, rngs)

  def logits(self, hidden: Float[Array, '*b D']) -> Float[Array, '*b V']:
    """The decoder's output to float32 logits of the next token."""
    if not self.config.tied:
      return self.token_head(hidden).astype(jnp.float32)
    table = self.token_embedding.embedding[...].astype(hidden.dtype)
    scaled = hidden * np.float32(self.config.width ** -0.5).astype(hidden.dtype)
    return jnp.einsum('...d,vd->...v', scaled, table, preferred_element_type=jnp.float32)

  def start_cache(self, memory: Float[Array, 'B N D'], memory_mask: Bool[Array, 'B N'] | None = None, *,
                  length: int) -> Cache:
    """What `decode_step` starts from; a plain pytree of fixed shapes, to be carried through a loop.

    Args:
      memory, memory_mask: the encoder's output, and the mask that it was given.
      length: M, tokens that will be taken in at most; each step costs attention over M, and a step beyond it would
        overwrite the last.
    """
    if length < 1:
      raise ValueError(f'length is {length}, the cache must hold at least 1 token.')
    c, batch = self.config, memory.shape[0]
    empty = jnp.zeros((batch, length, c.heads, c.head_size), self._dtype)
    layers = tuple(LayerCache(empty, empty, *layer.cross_attention.key_value(memory)) for layer in self.decoder.layers)
    mask = jnp.ones(memory.shape[:2], bool) if memory_mask is None else memory_mask
    return Cache(layers, mask, jnp.zeros((), jnp.int32))

  def decode_step(self, cache: Cache, tokens: Int[Array, ' B'] | Float[Array, 'B D']) -> tuple[Cache, Array]:
    """Takes in one token (id or embedding) of each row; the cache to go on with, and the decoder's output [B, D]."""
    cache, hidden = self.decoder.step(cache, self._embedded(tokens)[:, None])
    return cache, hidden[:, 0]

  def _embedded(self, tokens: Array) -> Array:
    return self.embed(tokens) if jnp.issubdtype(tokens.dtype, jnp.integer) else tokens.astype(self._dtype)


def shift_right(labels: Int[Array, 'B M']) -> Int[Array, 'B M']:
  """What the decoder takes in to learn `labels`: padding, and then all but the last. Negative labels, which do not
  count in a loss, become padding too."""
  return jnp.maximum(jnp.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=PAD), PAD)
