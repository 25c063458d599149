"""PaLI (Chen et al. 2022): a vision transformer into a T5 encoder-decoder.

    images [B, H, W, 3]  ->  ViT or SigLIP, projection  ->  [B, N, D]
    text   [B, L]        ->  embedding                  ->  [B, L, D]

    prefix    v1 ... vN p1 ... pL      T5's encoder, full attention; the memory is its output
    decode    > a1 ... aM              T5's decoder, causal, with cross-attention to the memory

Source: PaLI, section 3.1.
"""
import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from rtjax.models import registry
from rtjax.models.backbones import t5
from rtjax.models.backbones.conv_stem import ConvStem, ConvStemConfig
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5 import T5, DecoderCache, T5Config
from rtjax.models.backbones.vision_language import ImageFeatures, Memory, TwoPartConfig, VisionLanguageBackbone
from rtjax.models.backbones.vit import ViT, ViTConfig
from rtjax.models.layers.common import lecun_linear


@dataclasses.dataclass(frozen=True)
class PaLIConfig(TwoPartConfig):
  """Shape of the network.

  Attributes:
    vision: image encoder.
    text: encoder-decoder.
  """
  vision: ViTConfig | SigLIPConfig = ViTConfig()  # noqa: RUF009 (frozen)
  text: T5Config = T5Config()  # noqa: RUF009 (frozen)

  pad_id: ClassVar[int] = t5.PAD
  begin_id: ClassVar[int] = t5.PAD
  end_id: ClassVar[int] = t5.END
  partitions: ClassVar[dict[str, str]] = {'decoder': 'text/(decoder|token_head)/'}

  def feature_width(self, stem: ConvStemConfig) -> int:
    if not stem.patch:
      return 0
    if self.vision.patch % stem.patch:
      raise ValueError(f'stem.patch is {stem.patch}, expected a divisor of the image encoder\'s patch of '
                       f'{self.vision.patch} pixels, or 0 (no stem).')
    return stem.width


@registry.register('pali', PaLIConfig)
class PaLI(VisionLanguageBackbone):
  """ViT or SigLIP into T5."""
  config: PaLIConfig

  def __init__(self, config: PaLIConfig, *, stem: ConvStemConfig = ConvStemConfig(),  # noqa: B008 (frozen)
               rngs: nnx.Rngs):
    c, dtype = config, jnp.dtype(config.text.dtype)
    self.config = config
    conv_stem = ConvStem(stem, dtype=dtype, rngs=rngs) if config.feature_width(stem) else None
    self.vision: ViT = registry.model_class(c.vision)(c.vision, stem=conv_stem, rngs=rngs)
    self.projection = lecun_linear(c.vision.width, c.text.width, dtype=dtype, rngs=rngs)
    self.text = T5(c.text, rngs=rngs)

  def embed_images(self, images: Num[Array, 'B H W 3'], rngs: nnx.Rngs | None = None) -> ImageFeatures:
    features = self.vision.features(self.vision.preprocess(images))
    tokens = self.projection(self.vision.patches(self.vision.encode(features, rngs)))
    return ImageFeatures(tokens, None if self.vision.stem is None else features)

  def embed_text(self, ids: Int[Array, 'B L']) -> Float[Array, 'B L D']:
    return self.text.embed(ids)

  def prefix(self, tokens: Float[Array, 'B N D'], mask: Bool[Array, 'B N'], rngs: nnx.Rngs | None = None) -> Memory:
    return Memory(self.text.encode(tokens, mask, rngs), mask)

  def decode(self, inputs: Int[Array, 'B M'] | Float[Array, 'B M D'], memory: Memory,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B M D']:
    return self.text.decode(inputs, memory.content, memory.mask, rngs)

  def logits(self, hidden: Float[Array, '*B D']) -> Float[Array, '*B vocab']:
    return self.text.logits(hidden)

  def start_cache(self, memory: Memory, *, length: int) -> DecoderCache:
    return self.text.start_cache(memory.content, memory.mask, length=length)

  def decode_step(self, cache: DecoderCache, tokens: Int[Array, ' B']) -> tuple[DecoderCache, Float[Array, 'B D']]:
    return self.text.decode_step(cache, tokens)
