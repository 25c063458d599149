"""T5Gemma 2 (Zhang et al. 2025): an encoder-decoder of Gemma 3's layers.

    images [B, H, W, 3]  ->  SigLIP, average over squares, norm, projection  ->  [B, N, D]
    text   [B, L]        ->  embedding                                       ->  [B, L, D]

    prefix    v1 ... vN p1 ... pL      encoder, attention both ways; the memory is its output
    decode    > a1 ... aM              decoder: one softmax over the memory and the tokens so far

An image's tokens stand between markers: two newlines and begin-of-image, end-of-image and two newlines. In the decoder,
the memory's keys have no position, and local layers see all of it.

Source: names and numbers as published on Hugging Face.
"""
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from rtjax.language import formats
from rtjax.models import registry
from rtjax.models.backbones import gemma
from rtjax.models.backbones.conv_stem import ConvStemConfig
from rtjax.models.backbones.gemma import DecoderCache, GemmaConfig, KeyValue, Masks, RMSNorm
from rtjax.models.backbones.paligemma import no_stem
from rtjax.models.backbones.siglip import SigLIP, SigLIPConfig
from rtjax.models.backbones.vision_language import ImageFeatures, Memory, VisionLanguageBackbone, VisionLanguageConfig
from rtjax.models.layers import initializers

_LAYERS_270M = GemmaConfig(
    vocab_size=262144, width=640, layers=18, heads=4, kv_heads=1, head_size=256, mlp_width=2048, post_norms=True,
    head_norms=True, local=tuple((i + 1) % 6 != 0 for i in range(18)), local_span=512, rope_base=1e6, rope_factor=8.0)


@dataclasses.dataclass(frozen=True)
class T5Gemma2Config(VisionLanguageConfig):
  """Shape of the network; the defaults are the 270m-270m model's.

  Attributes:
    vision: image encoder.
    encoder, decoder: layers of both stacks; embeddings and head are the encoder's.
    pooled_tokens: tokens of an image after the average, a square number.
    image_begin, image_end: ids of the markers before and after an image.
    end_of_image: id that has an embedding of its own beside the table.
    image_id: id that stands for an image's tokens in transformers; not used here.
  """
  vision: SigLIPConfig = SigLIPConfig(image_size=(896, 896), interpolation='linear')  # noqa: RUF009 (frozen)
  encoder: GemmaConfig = _LAYERS_270M
  decoder: GemmaConfig = _LAYERS_270M
  pooled_tokens: int = 256
  image_begin: tuple[int, ...] = (108, 255999)
  image_end: tuple[int, ...] = (256000, 108)
  end_of_image: int = 256000
  image_id: int = 256001

  pad_id: ClassVar[int] = 0
  begin_id: ClassVar[int] = 2
  end_id: ClassVar[int] = 1
  prompt_format: ClassVar[formats.PromptFormat] = formats.GEMMA
  partitions: ClassVar[dict[str, str]] = {'decoder': 'decoder/'}

  def __post_init__(self) -> None:
    side, (rows, columns) = math.isqrt(self.pooled_tokens), self.vision.grid
    if side ** 2 != self.pooled_tokens or rows % side or columns % side:
      raise ValueError(f'T5Gemma2Config.pooled_tokens is {self.pooled_tokens}, expected the square of a divisor of '
                       f'{rows} and {columns}, the patches of an image.')
    if (self.encoder.width, self.encoder.vocab_size) != (self.decoder.width, self.decoder.vocab_size):
      raise ValueError('T5Gemma2Config.encoder and decoder have different widths or vocabularies, and share one '
                       'table of embeddings.')

  @property
  def pieces(self) -> Mapping[int, str]:
    return {**super().pieces, self.image_begin[-1]: '<start_of_image>', self.image_end[0]: '<end_of_image>',
            self.image_end[-1]: '\n\n'}

  @property
  def width(self) -> int:
    return self.encoder.width

  @property
  def image_tokens(self) -> int:
    return len(self.image_begin) + self.pooled_tokens + len(self.image_end)

  @property
  def image_size(self) -> tuple[int, int]:
    return self.vision.image_size

  @property
  def vocab_size(self) -> int:
    return self.encoder.vocab_size

  def feature_width(self, stem: ConvStemConfig) -> int:
    return no_stem(stem)

  def with_computation(self, dtype: Literal['float32', 'bfloat16'], remat: bool) -> 'T5Gemma2Config':
    return dataclasses.replace(self, **{name: dataclasses.replace(getattr(self, name), dtype=dtype, remat=remat)
                                        for name in ('vision', 'encoder', 'decoder')})


@registry.register('t5gemma2', T5Gemma2Config)
class T5Gemma2(VisionLanguageBackbone):
  """SigLIP into an encoder-decoder; has no dropout, as published."""
  config: T5Gemma2Config

  def __init__(self, config: T5Gemma2Config, *, stem: ConvStemConfig = ConvStemConfig(),  # noqa: B008 (frozen)
               rngs: nnx.Rngs):
    config.feature_width(stem)
    self.config, vision, width = config, config.vision, config.width
    self.vision: SigLIP = registry.model_class(vision)(vision, rngs=rngs)
    self.vision_norm = RMSNorm(vision.width, vision.epsilon)
    self.projection = nnx.Param(initializers.lecun_normal()(rngs.params(), (vision.width, width)))
    self.token_embedding = gemma.Embedding(config.encoder, rngs=rngs)
    # In the scale of the other tokens: RMS norm makes a huge gradient of a vector of zeros.
    self.end_of_image = nnx.Param(initializers.normal(1.0)(rngs.params(), (width,)))
    self.encoder = gemma.Stack(config.encoder, rngs=rngs)
    self.decoder = gemma.Stack(config.decoder, rngs=rngs)

  def embed_images(self, images: Num[Array, 'B H W 3'], rngs: nnx.Rngs | None = None) -> ImageFeatures:
    tokens = self.embed_pixels(self.vision.preprocess(images))

    def markers(ids: tuple[int, ...]) -> Float[Array, 'B n D']:
      embedded = self.embed_text(jnp.array([ids], jnp.int32))
      return jnp.broadcast_to(embedded, (tokens.shape[0], *embedded.shape[1:]))
    return ImageFeatures(
        jnp.concatenate([markers(self.config.image_begin), tokens, markers(self.config.image_end)], 1), None)

  def embed_pixels(self, pixels: Float[Array, 'B h w 3']) -> Float[Array, 'B N D']:
    """Return an image's tokens without markers, given the output of `preprocess`."""
    patches, (rows, columns) = self.vision(pixels), self.config.vision.grid
    side = math.isqrt(self.config.pooled_tokens)
    squares = patches.reshape(patches.shape[0], side, rows // side, side, columns // side, -1)
    pooled = jnp.mean(squares, (2, 4)).reshape(patches.shape[0], side ** 2, -1)
    return self.vision_norm(pooled) @ self.projection[...].astype(pooled.dtype)

  def embed_text(self, ids: Int[Array, 'B L']) -> Float[Array, 'B L D']:
    embedded = self.token_embedding(ids)
    end = self.end_of_image[...].astype(embedded.dtype)
    return jnp.where((ids == self.config.end_of_image)[..., None], end, embedded)

  def prefix(self, tokens: Float[Array, 'B N D'], mask: Bool[Array, 'B N'], rngs: nnx.Rngs | None = None) -> Memory:
    positions, span = gemma.count_positions(mask), self.config.encoder.local_span
    ahead = positions[:, None] - positions[:, :, None]
    full = jnp.broadcast_to(mask[:, None], ahead.shape)
    local = full & (ahead > -((span + 1) // 2)) & (ahead <= span // 2)
    return Memory(self.encoder(tokens.astype(self._dtype), positions, Masks(full, local))[0], mask)

  def decode(self, inputs: Int[Array, 'B M'] | Float[Array, 'B M D'], memory: Memory,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B M D']:
    is_text = jnp.issubdtype(inputs.dtype, jnp.integer)
    tokens = self.embed_text(inputs) if is_text else inputs.astype(self._dtype)
    masks = gemma.causal_masks(self.config.decoder, tokens.shape[1], memory.mask, jnp.zeros_like(memory.mask, int))
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape[:2])
    return self.decoder(tokens, positions, masks, self._key_values(memory))[0]

  def logits(self, hidden: Float[Array, '*B D']) -> Float[Array, '*B vocab']:
    return self.token_embedding.logits(hidden)

  def start_cache(self, memory: Memory, *, length: int) -> DecoderCache:
    first = jnp.zeros_like(memory.mask[:, 0], jnp.int32)
    return DecoderCache(gemma.with_slots(self._key_values(memory), length), memory.mask,
                        jnp.zeros_like(memory.mask, jnp.int32), first, None, jnp.zeros((), jnp.int32))

  def decode_step(self, cache: DecoderCache, tokens: Int[Array, ' B']) -> tuple[DecoderCache, Float[Array, 'B D']]:
    hidden, layers = self.decoder.step(
        self.embed_text(tokens[:, None]), (cache.first + cache.taken)[:, None],
        gemma.step_masks(self.config.decoder, cache, cache.taken), cache.layers, cache.mask.shape[1] + cache.taken)
    return cache._replace(layers=layers, taken=cache.taken + 1), hidden[:, 0]

  @property
  def _dtype(self) -> jnp.dtype:
    return jnp.dtype(self.config.encoder.dtype)

  def _key_values(self, memory: Memory) -> KeyValue:
    """Return the memory's keys and values in all layers of the decoder."""
    return KeyValue(*self.decoder.layers.map(lambda layer: layer.attention.key_value(memory.content)))
