"""Interface of vision-language backbones, the only one that RT-2 knows.

A backbone computes the memory of a prefix once: of image tokens, of a prompt, and of tokens that a policy adds. It then
decodes learned queries in one pass, or tokens one after the other with a cache. Three shapes of networks fit.
Below, v are image tokens, p the prompt, q the decoded tokens or queries; a row may attend to the columns marked x:

    PaLI: encoder-decoder          prefix language model       T5Gemma 2: merged attention
    (ViT or SigLIP into T5)        (PaliGemma)

         v v p p                       v v p p q q                  v v p p q q
    v    x x x x   encoder         v   x x x x . .              v   x x x x . .   encoder
    p    x x x x                   p   x x x x . .              p   x x x x . .
                                   q   x x x x x .              q   x x x x x .   decoder: one softmax over memory
         memory q q                q   x x x x x x              q   x x x x x x   and earlier queries
    q    x      x .   decoder
    q    x      x x                memory: keys and values      memory: keys and values of the encoder's output
    memory: encoder output         of the prefix in each layer  in each decoder layer

Computing the prefix first and decoding later ("prefill, then extend") is exact for all three: no row of the prefix
attends to a column of q. A new backbone is a file beside this one, with a configuration and a class registered for it;
`rtjax/models/rt2` stays as it is.
"""
import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from rtjax.language.formats import TEXT, PromptFormat
from rtjax.models import registry
from rtjax.models.backbones.conv_stem import ConvStemConfig
from rtjax.runtime import serialization

Cache = Any
"""A pytree of fixed shapes; only the backbone that made it knows what is inside."""


class ImageFeatures(NamedTuple):
  """Output of the image encoder.

  Attributes:
    tokens: image tokens, in the scale in which they enter the prefix.
    feature_map: features finer than tokens, such as the stem's output, for language-attention pooling; None: there are
      none.
  """
  tokens: Float[Array, 'B N D']
  feature_map: Float[Array, 'B H W C'] | None


class Memory(NamedTuple):
  """A computed prefix.

  Attributes:
    content: a pytree; only the backbone that made it knows what is inside.
    mask: False where the prefix is padding.
  """
  content: Any
  mask: Bool[Array, 'B N']


class VisionLanguageConfig(abc.ABC):
  """Base of a backbone's configuration, a frozen dataclass.

  Attributes:
    pad_id: id that fills up prompts and answers.
    begin_id: id in front of a decoded text. In a prefix language model, where the last token of the prefix predicts the
      first token of a text, its output is that token's.
    end_id: id that ends a text.
    prompt_format: ids around a prompt; answers end with `end_id` alone.
    partitions: parts that may train alone, such as 'decoder': name -> pattern that the parameters' names begin with.
    pieces: tokens that ids must be in a tokenizer.
  """
  pad_id: ClassVar[int]
  begin_id: ClassVar[int]
  end_id: ClassVar[int]
  prompt_format: ClassVar[PromptFormat] = TEXT
  partitions: ClassVar[Mapping[str, str]] = {}

  @property
  def pieces(self) -> Mapping[int, str]:
    return self.prompt_format.named

  @property
  @abc.abstractmethod
  def width(self) -> int:
    """D, width of the tokens of prefix, queries and outputs."""

  @property
  @abc.abstractmethod
  def image_tokens(self) -> int:
    """N, tokens of an image."""

  @property
  @abc.abstractmethod
  def image_size(self) -> tuple[int, int]:
    """Height and width that images are resized to."""

  @property
  @abc.abstractmethod
  def vocab_size(self) -> int:
    """Number of token ids."""

  @abc.abstractmethod
  def feature_width(self, stem: ConvStemConfig) -> int:
    """Return C of the feature map with this stem; 0 = none.

    Raises:
      ValueError: the backbone cannot have this stem.
    """

  @abc.abstractmethod
  def with_computation(self, dtype: Literal['float32', 'bfloat16'], remat: bool) -> 'VisionLanguageConfig':
    """Return the configuration with this type of the computation.

    Args:
      remat: recompute layers in the backward pass instead of keeping their activations.
    """


class TwoPartConfig(VisionLanguageConfig):
  """Base for an image encoder whose tokens enter a text network.

  Attributes:
    vision, text: configurations of the parts, dataclasses.
  """
  vision: Any
  text: Any

  @property
  def width(self) -> int:
    return self.text.width

  @property
  def image_tokens(self) -> int:
    return self.vision.tokens

  @property
  def image_size(self) -> tuple[int, int]:
    return self.vision.image_size

  @property
  def vocab_size(self) -> int:
    return self.text.vocab_size

  def with_computation(self, dtype: Literal['float32', 'bfloat16'], remat: bool) -> Any:
    return dataclasses.replace(  # type: ignore[type-var]
        self, vision=dataclasses.replace(self.vision, dtype=dtype, remat=remat),
        text=dataclasses.replace(self.text, dtype=dtype, remat=remat))


class VisionLanguageBackbone(nnx.Module):
  """Base of vision-language backbones.

  All methods are plain traceable code; `rngs` (stream `dropout`) turns dropout on.

  Args:
    stem: convolutional stem of the image encoder.
  """
  config: VisionLanguageConfig

  @abc.abstractmethod
  def __init__(self, config: Any, *, stem: ConvStemConfig = ConvStemConfig(), rngs: nnx.Rngs):  # noqa: B008 (frozen)
    ...

  @abc.abstractmethod
  def embed_images(self, images: Num[Array, 'B H W 3'], rngs: nnx.Rngs | None = None) -> ImageFeatures:
    """Return tokens and feature map of images.

    Args:
      images: in 0..255, as a camera gives them; resized and normalised here.
    """

  @abc.abstractmethod
  def embed_text(self, ids: Int[Array, 'B L']) -> Float[Array, 'B L D']:
    """Return embeddings of token ids, in the scale of the prefix."""

  @abc.abstractmethod
  def prefix(self, tokens: Float[Array, 'B N D'], mask: Bool[Array, 'B N'], rngs: nnx.Rngs | None = None) -> Memory:
    """Return the memory of a prefix with full attention.

    Args:
      mask: False at padding, which has no effect wherever it stands.
    """

  @abc.abstractmethod
  def decode(self, inputs: Int[Array, 'B M'] | Float[Array, 'B M D'], memory: Memory,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B M D']:
    """Return the outputs of all inputs at once.

    Each input attends to the memory, to itself and to earlier inputs.

    Args:
      inputs: token ids, the first of which is `begin_id`, or queries in place of embeddings.
    """

  @abc.abstractmethod
  def logits(self, hidden: Float[Array, '*B D']) -> Float[Array, '*B vocab']:
    """Return float32 logits of the next text token, given outputs."""

  @abc.abstractmethod
  def start_cache(self, memory: Memory, *, length: int) -> Cache:
    """Return the cache of `decode_step` for up to `length` tokens, `begin_id` included."""

  @abc.abstractmethod
  def decode_step(self, cache: Cache, tokens: Int[Array, ' B']) -> tuple[Cache, Float[Array, 'B D']]:
    """Take one token of each row.

    The first token is `begin_id`. The outputs are those of `decode`.
    """


serialization.register(VisionLanguageConfig, registry.config_to_json, registry.config_from_json)
