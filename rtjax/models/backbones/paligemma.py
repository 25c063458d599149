"""PaliGemma (Beyer et al. 2024) and PaliGemma 2 (Steiner et al. 2024): a prefix language model.

    images [B, H, W, 3]  ->  SigLIP, projection  ->  [B, N, D]
    text   [B, L]        ->  embedding           ->  [B, L, D]

    prefix    v1 ... vN <bos> p1 ... pL \n     Gemma, full attention; the memory is the keys and values of each layer
    decode    a1 ... aM                        Gemma, causal, attends to the memory

The output of the prefix's last token predicts a1. Positions count real tokens alone.

Source: google-research/big_vision, models/proj/paligemma; names and numbers as published on Hugging Face.
"""
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from rtjax.language import formats
from rtjax.models import registry
from rtjax.models.backbones import gemma
from rtjax.models.backbones.conv_stem import ConvStemConfig
from rtjax.models.backbones.gemma import DecoderCache, GemmaConfig, KeyValue, Masks
from rtjax.models.backbones.siglip import SigLIP, SigLIPConfig
from rtjax.models.backbones.vision_language import ImageFeatures, Memory, TwoPartConfig, VisionLanguageBackbone
from rtjax.models.layers.common import lecun_linear


@dataclasses.dataclass(frozen=True)
class PaliGemmaConfig(TwoPartConfig):
  """Shape of the network; the defaults are PaliGemma 3B's at 224.

  Attributes:
    vision: image encoder.
    text: language model.
    image_id: id that stands for an image's tokens in transformers; not used here, where images come first. The tokens
      of coordinates and segments stand right before it.
  """
  vision: SigLIPConfig = SigLIPConfig()  # noqa: RUF009 (frozen)
  text: GemmaConfig = GemmaConfig()  # noqa: RUF009 (frozen)
  image_id: int = 257152

  pad_id: ClassVar[int] = 0
  begin_id: ClassVar[int] = 2
  end_id: ClassVar[int] = 1
  prompt_format: ClassVar[formats.PromptFormat] = formats.PALIGEMMA
  partitions: ClassVar[dict[str, str]] = {'decoder': 'text/'}

  @property
  def pieces(self) -> Mapping[int, str]:
    return {**super().pieces, self.image_id - 1152: '<loc0000>', self.image_id - 1: '<seg127>'}

  def feature_width(self, stem: ConvStemConfig) -> int:
    return no_stem(stem)


def no_stem(stem: ConvStemConfig) -> int:
  """Return 0, the width of a feature map that does not exist.

  Raises:
    ValueError: the stem has patches.
  """
  if stem.patch:
    raise ValueError(f'stem.patch is {stem.patch}: this backbone is used as published, without a convolutional stem. '
                     'Set --model.auxiliary.stem.patch 0.')
  return 0


class Prefix(NamedTuple):
  """Content of the memory.

  Attributes:
    layers: keys and values of all layers.
    offsets: positions relative to the first token behind the prefix, negative.
    length: real tokens of the prefix.
    last: output of the last real token.
  """
  layers: KeyValue
  offsets: Int[Array, 'B N']
  length: Int[Array, ' B']
  last: Float[Array, 'B D']


class GemmaDecoder(nnx.Module):
  """Embeddings and layers of the language model."""

  def __init__(self, config: GemmaConfig, *, rngs: nnx.Rngs):
    self.token_embedding = gemma.Embedding(config, rngs=rngs)
    self.decoder = gemma.Stack(config, rngs=rngs)


@registry.register('paligemma', PaliGemmaConfig)
class PaliGemma(VisionLanguageBackbone):
  """SigLIP into Gemma; has no dropout, as published."""
  config: PaliGemmaConfig

  def __init__(self, config: PaliGemmaConfig, *, stem: ConvStemConfig = ConvStemConfig(),  # noqa: B008 (frozen)
               rngs: nnx.Rngs):
    config.feature_width(stem)
    self.config = config
    self.vision: SigLIP = registry.model_class(config.vision)(config.vision, rngs=rngs)
    self.projection = lecun_linear(config.vision.width, config.text.width, dtype=jnp.dtype(config.text.dtype),
                                   rngs=rngs)
    self.text = GemmaDecoder(config.text, rngs=rngs)

  def embed_images(self, images: Num[Array, 'B H W 3'], rngs: nnx.Rngs | None = None) -> ImageFeatures:
    return ImageFeatures(self.embed_pixels(self.vision.preprocess(images)), None)

  def embed_pixels(self, pixels: Float[Array, 'B h w 3']) -> Float[Array, 'B N D']:
    """Return image tokens, given the output of the image encoder's `preprocess`."""
    return self.projection(self.vision(pixels))

  def embed_text(self, ids: Int[Array, 'B L']) -> Float[Array, 'B L D']:
    return self.text.token_embedding(ids)

  def prefix(self, tokens: Float[Array, 'B N D'], mask: Bool[Array, 'B N'], rngs: nnx.Rngs | None = None) -> Memory:
    hidden, layers = self._whole(tokens, mask, jnp.zeros_like(mask))
    length = jnp.sum(mask, 1)
    positions = gemma.count_positions(mask)
    newest = jnp.argmax(jnp.where(mask, positions + 1, 0), 1)
    last = jnp.take_along_axis(hidden, newest[:, None, None], 1)[:, 0]
    return Memory(Prefix(layers, positions - length[:, None], length, last), mask)

  def encode_decode(self, tokens: Float[Array, 'B N D'], mask: Bool[Array, 'B N'], answer: Bool[Array, 'B N']
                    ) -> Float[Array, 'B N D']:
    """Return the outputs of prefix and answer in one pass.

    The same as `prefix` and `decode`.

    Args:
      mask: False at padding.
      answer: True at tokens of the answer, to which only tokens behind them attend.
    """
    return self._whole(tokens, mask, answer)[0]

  def decode(self, inputs: Int[Array, 'B M'] | Float[Array, 'B M D'], memory: Memory,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B M D']:
    if not jnp.issubdtype(inputs.dtype, jnp.integer):
      return self._extend(inputs.astype(self._dtype), memory)
    first = memory.content.last[:, None]
    if inputs.shape[1] == 1:
      return first
    return jnp.concatenate([first, self._extend(self.embed_text(inputs[:, 1:]), memory)], 1)

  def logits(self, hidden: Float[Array, '*B D']) -> Float[Array, '*B vocab']:
    return self.text.token_embedding.logits(hidden)

  def start_cache(self, memory: Memory, *, length: int) -> DecoderCache:
    content = memory.content
    return DecoderCache(gemma.with_slots(content.layers, length), memory.mask, content.offsets, content.length,
                        content.last, jnp.zeros((), jnp.int32))

  def decode_step(self, cache: DecoderCache, tokens: Int[Array, ' B']) -> tuple[DecoderCache, Float[Array, 'B D']]:
    # The first token is `begin_id`, whose output is known. What it leaves in the first slot is overwritten.
    before = jnp.maximum(cache.taken - 1, 0)
    hidden, layers = self.text.decoder.step(
        self.embed_text(tokens[:, None]), (cache.first + before)[:, None],
        gemma.step_masks(self.config.text, cache, before), cache.layers, cache.mask.shape[1] + before)
    assert cache.last is not None  # `start_cache` sets it
    output = jnp.where(cache.taken == 0, cache.last, hidden[:, 0])
    return cache._replace(layers=layers, taken=cache.taken + 1), output

  @property
  def _dtype(self) -> jnp.dtype:
    return jnp.dtype(self.config.text.dtype)

  def _whole(self, tokens: Float[Array, 'B N D'], mask: Bool[Array, 'B N'], answer: Bool[Array, 'B N']
             ) -> tuple[Float[Array, 'B N D'], KeyValue]:
    positions = gemma.count_positions(mask)
    ahead = positions[:, None] - positions[:, :, None]
    full = mask[:, None] & ((ahead <= 0) | ~answer[:, None])
    masks = Masks(full, full & (abs(ahead) < self.config.text.local_span))
    return self.text.decoder(tokens.astype(self._dtype), positions, masks)

  def _extend(self, tokens: Float[Array, 'B M D'], memory: Memory) -> Float[Array, 'B M D']:
    content, count = memory.content, tokens.shape[1]
    masks = gemma.causal_masks(self.config.text, count, memory.mask, content.offsets)
    positions = content.length[:, None] + jnp.arange(count)
    return self.text.decoder(tokens, positions, masks, content.layers)[0]
