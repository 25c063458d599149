"""Configuration of RT-2: its backbone, action head, additions and loss."""
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.language.fast import FastCodec
from rtjax.language.formats import ActionVocabulary, PromptFormat
from rtjax.models.auxiliary.config import GroundingConfig
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.models.backbones.vision_language import VisionLanguageConfig
from rtjax.models.base import Decoding, Dtype, PolicyConfig
from rtjax.models.layers.lora import LoraConfig
from rtjax.models.rt2 import fast
from rtjax.runtime.flags import Hidden

if TYPE_CHECKING:
  from rtjax.language.tokenizer import Tokenizer

# Parameters outside of the backbone that train in every partition.
_OWN = '^(classifier|grounding_residual|state|waypoint)/'
_MOST_TOKENS = 1 << 15  # a pair of them is one int32 (fast.py)


@dataclasses.dataclass(frozen=True)
class RT2Config(PolicyConfig):
  """Shape of RT-2; the defaults act with an arm and a gripper.

  The default backbone is ViT-L/16 into half the depth of T5 1.1 large.

  Attributes:
    action_spec: fields, bounds and bins of an action.
    action_head: 'classifier', a query for each action token; 'text', generated tokens; 'fast', fewer for chunks.
      See rtjax/language/fast.py for the last.
    window: T, frames of a window; the paper's is one frame.
    horizon: F, actions predicted at once: of the newest frame and of the F - 1 steps after it.
    knowledge_insulation: stop the gradient of the action loss at the backbone, which then learns from texts alone; for
      action_head 'classifier' (Driess et al. 2025, arXiv 2505.23705).
    proprioception_size: S, size of the robot state, one more token of the prefix; 0 = not used.
    prompt_length: L, tokens of a prompt, its end included.
    answer_length: M, most tokens of an answer, its end included.
    backbone: vision-language backbone.
    action_vocabulary: text tokens of the bins: 'integers', 'rarest', PaliGemma's 'loc', or 'auto'.
      Auto takes the integers where the vocabulary has them, and otherwise the rarest (`Tokenizer.action_ids`).
    action_ids: text token of each of the V bins, or of each token of the codec; `with_tokenizer` sets them.
    fast_scale, fast_size: of action_head 'fast': steps of a coefficient per 1, and most tokens.
    action_codec: of action_head 'fast'; `with_codec` fits it on the training data.
    lora: low-rank adapters.
    label_smoothing: probability that each target spreads over all tokens, in training.
    bin_smoothing: standard deviation, in bins, of the classifier's targets over neighbouring bins, in training; 0 =
      one-hot.
    decoding: 'argmax', the likeliest bin, or 'mean', the mean of the bins by probability (`ActionSpec.decode`).
    auxiliary: additions for small networks trained from scratch.
    dtype: type of the computation; parameters that train are always float32. Replaces the backbone's.
    remat: recompute layers in the backward pass instead of keeping their activations. Replaces the backbone's.
  """
  action_spec: ActionSpec = actions.ARM_7D
  action_head: Literal['classifier', 'text', 'fast'] = 'classifier'
  window: int = 1
  horizon: int = 1
  knowledge_insulation: Hidden[bool] = False
  proprioception_size: int = 0
  prompt_length: int = 64
  answer_length: Hidden[int] = 64
  backbone: Hidden[VisionLanguageConfig] = PaLIConfig()  # noqa: RUF009 (frozen)
  action_vocabulary: ActionVocabulary = 'auto'
  action_ids: Hidden[tuple[int, ...]] = ()
  fast_scale: Hidden[float] = 10.0
  fast_size: Hidden[int] = 1024
  action_codec: Hidden[FastCodec | None] = None
  lora: LoraConfig = LoraConfig()  # noqa: RUF009 (frozen)
  label_smoothing: Hidden[float] = 0.0
  bin_smoothing: Hidden[float] = 0.0
  decoding: Decoding = 'argmax'
  auxiliary: Hidden[GroundingConfig] = GroundingConfig()  # noqa: RUF009 (frozen)
  dtype: Dtype = 'float32'
  remat: bool = False

  generates_text: ClassVar[bool] = True
  tensorflow_export: ClassVar[bool] = False
  read_in_dtype: ClassVar[str] = r'^(?!classifier/).*/(kernel|embedding)$'  # the action classifier is float32
  normalization: ClassVar[Literal['from_weights', 'from_data']] = 'from_data'

  def __post_init__(self) -> None:
    object.__setattr__(self, 'backbone', self.backbone.with_computation(self.dtype, self.remat))
    for name in ('window', 'horizon', 'prompt_length', 'answer_length'):
      if getattr(self, name) < 1:
        raise ValueError(f'model.{name} is {getattr(self, name)}, it must be at least 1.')
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(f'model.label_smoothing is {self.label_smoothing}, expected 0 (none) to below 1, such as 0.1.')
    for name in ('proprioception_size', 'bin_smoothing'):
      if getattr(self, name) < 0:
        raise ValueError(f'model.{name} is {getattr(self, name)}, expected 0 (none) or more.')
    if not self.backbone.feature_width(self.auxiliary.stem) and self.auxiliary.language_tokens:
      raise ValueError('model.auxiliary.language_tokens are pooled from the feature map of a stem, and '
                       'model.auxiliary.stem.patch is 0: set --model.auxiliary.stem.patch 4, or '
                       '--model.auxiliary.language-tokens 0.')
    if self.action_head != 'classifier' and (self.bin_smoothing or self.decoding != 'argmax'):
      raise ValueError("model.bin_smoothing and model.decoding 'mean' need model.action_head 'classifier', and it is "
                       f'{self.action_head!r}.')
    if self.action_head != 'classifier' and self.knowledge_insulation:
      raise ValueError(f'model.knowledge_insulation is on and model.action_head is {self.action_head!r}, which the '
                       "backbone computes alone: nothing would learn to act. Use model.action_head 'classifier'.")
    self._check_codec()
    self._check_action_ids()

  def _check_codec(self) -> None:
    codec, spec = self.action_codec, self.action_spec
    if self.action_head != 'fast':
      if codec:
        raise ValueError(f"model.action_codec is set and model.action_head is {self.action_head!r}, expected 'fast'.")
      return
    if self.horizon < 2:
      raise ValueError("model.action_head 'fast' writes chunks of actions, and model.horizon is 1: set "
                       '--model.horizon 8, or as many as the robot takes in a second.')
    found, least = [f.name for f in spec.fields if f.kind == 'classes'], self.horizon ** 0.5 / 2
    if found and self.fast_scale <= least:  # a number of -1 or 1 moves by at most sqrt(horizon) / 2 / scale
      raise ValueError(f"model.action_head 'fast' writes a class as numbers, 1 for it and 0 for others, and those of "
                       f'{found} would be mixed up by rounding to model.fast_scale {self.fast_scale}. Set '
                       f'--model.fast-scale {math.floor(least) + 1} or more.')
    for name, size in (('fast_size', self.fast_size), ('action_codec', codec.size if codec else 2)):
      if not 2 <= size <= _MOST_TOKENS:
        raise ValueError(f'model.{name} has {size} tokens, expected 2 to {_MOST_TOKENS}, such as 1024.')
    if codec and not self._fits(codec):
      raise ValueError('model.action_codec was fitted for another model.horizon, other bounds of model.action_spec or '
                       'another model.fast_scale. Leave it empty: training fits one.')

  def _fits(self, codec: FastCodec) -> bool:
    low, high = map(tuple, self.action_spec.bounds)
    return (codec.horizon, codec.low, codec.high, codec.scale) == (self.horizon, low, high, self.fast_scale)

  def _check_action_ids(self) -> None:
    bins, ids = self.action_words, self.action_ids
    if ids and (len(set(ids)) != bins or len(ids) != bins):
      raise ValueError(f'model.action_ids has {len(set(ids))} different ids for {bins} bins or tokens of actions, '
                       'expected one for each. Leave it empty: training takes them from the tokenizer.')
    if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
      raise ValueError(f'model.action_ids are from {min(ids)} to {max(ids)}, the backbone has ids 0 to '
                       f'{self.vocab_size - 1}.')

  @property
  def image_size(self) -> tuple[int, int]:  # type: ignore[override]
    return self.backbone.image_size

  @property
  def prompt_format(self) -> PromptFormat:  # type: ignore[override]
    return self.backbone.prompt_format

  @property
  def vocab_size(self) -> int:  # type: ignore[override]
    return self.backbone.vocab_size

  @property
  def partitions(self) -> Mapping[str, str]:  # type: ignore[override]
    parts = {name: rf'^backbone/(?:{pattern})|{_OWN}' for name, pattern in self.backbone.partitions.items()}
    parts |= {'heads': _OWN} if self.action_head == 'classifier' else {}
    return parts | ({'lora': rf'/lora_[ab]$|{_OWN}'} if self.lora.rank else {})

  @property
  def action_words(self) -> int:
    """Number of text tokens that write actions; 0 without a codec."""
    if self.action_head == 'fast':
      return self.action_codec.size if self.action_codec else 0
    return self.action_spec.vocab_size

  def decode(self, logits: Float[actions.Array, '*b KF V']) -> Float[actions.Array, '*b F A']:
    if self.action_codec is None:
      return super().decode(logits)
    return self.action_spec.decide_classes(fast.decode(self.action_codec, logits.argmax(-1)))

  def with_codec(self, chunks: Callable[[], Float[np.ndarray, 'n F A']], known: Sequence[FastCodec] = ()
                 ) -> 'RT2Config':
    if self.action_head != 'fast' or self.action_codec:
      return self
    codec = next(filter(self._fits, known), None) or FastCodec.fit(
        chunks(), *map(tuple, self.action_spec.bounds), scale=self.fast_scale, size=self.fast_size)
    return dataclasses.replace(self, action_codec=codec, action_ids=())

  def with_tokenizer(self, tokenizer: 'Tokenizer') -> 'RT2Config':
    """Return the configuration with the ids of the action tokens.

    Raises:
      ValueError: the tokenizer has more ids than the backbone, other tokens around a prompt, no such action tokens, or
        others than the weights were trained on.
    """
    if tokenizer.used_size > self.vocab_size:
      raise ValueError(f'{tokenizer} has {tokenizer.size} tokens, the backbone has embeddings for '
                       f'{self.vocab_size}. Use the tokenizer that it was trained with, or for a new backbone set its '
                       f'vocab_size (--model.backbone.text.vocab-size {tokenizer.size}).')
    tokenizer.check_pieces(self.backbone.pieces)
    # Integers mean bins.
    vocabulary = 'rarest' if self.action_head == 'fast' and self.action_vocabulary == 'auto' else self.action_vocabulary
    ids = tuple(map(int, tokenizer.action_ids(self.action_words, vocabulary))) if self.action_words else ()
    if self.action_ids and self.action_ids != ids:
      raise ValueError(f'{tokenizer} has other action tokens than the weights were trained on. Use '
                       'the tokenizer of their checkpoint.')
    return dataclasses.replace(self, action_ids=ids)

  def with_placeholders(self) -> 'RT2Config':
    low, high = self.action_spec.bounds
    config = self.with_codec(lambda: np.random.default_rng(0).uniform(low, high, (1000, self.horizon, len(low))))
    return dataclasses.replace(config, action_ids=tuple(range(config.action_words)))
