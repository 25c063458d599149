"""Configuration of RT-2: its backbone, action head, additions and loss."""
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.language.formats import ActionVocabulary, PromptFormat
from rtjax.models.auxiliary.config import GroundingConfig
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.models.backbones.vision_language import VisionLanguageConfig
from rtjax.models.base import Decoding, Dtype, PolicyConfig
from rtjax.models.layers.lora import LoraConfig
from rtjax.runtime.flags import Hidden

if TYPE_CHECKING:
  from rtjax.language.tokenizer import Tokenizer

# Parameters outside of the backbone that train in every partition.
_OWN = '^(classifier|grounding_residual|state|waypoint)/'


@dataclasses.dataclass(frozen=True)
class RT2Config(PolicyConfig):
  """Shape of RT-2; the defaults act with an arm and a gripper.

  The default backbone is ViT-L/16 into half the depth of T5 1.1 large.

  Attributes:
    action_spec: fields, bounds and bins of an action.
    action_head: 'classifier', one learned query and one linear map per action token, or 'text', action tokens generated
      as text.
    window: T, frames of a window; the paper's is one frame.
    proprioception_size: S, size of the robot state, one more token of the prefix; 0 = not used.
    prompt_length: L, tokens of a prompt, its end included.
    answer_length: M, most tokens of an answer, its end included.
    backbone: vision-language backbone.
    action_vocabulary: text tokens of the bins: 'integers', 'rarest', PaliGemma's 'loc', or 'auto'.
      Auto takes the integers where the vocabulary has them, and otherwise the rarest (`Tokenizer.action_ids`).
    action_ids: text token of each of the V bins; `with_tokenizer` sets them.
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
  action_head: Literal['classifier', 'text'] = 'classifier'
  window: int = 1
  proprioception_size: int = 0
  prompt_length: int = 64
  answer_length: Hidden[int] = 64
  backbone: Hidden[VisionLanguageConfig] = PaLIConfig()  # noqa: RUF009 (frozen)
  action_vocabulary: ActionVocabulary = 'auto'
  action_ids: Hidden[tuple[int, ...]] = ()
  lora: LoraConfig = LoraConfig()  # noqa: RUF009 (frozen)
  label_smoothing: Hidden[float] = 0.0
  bin_smoothing: Hidden[float] = 0.0
  decoding: Decoding = 'argmax'
  auxiliary: Hidden[GroundingConfig] = GroundingConfig()  # noqa: RUF009 (frozen)
  dtype: Dtype = 'float32'
  remat: bool = False

  generates_text: ClassVar[bool] = True
  tensorflow_export: ClassVar[bool] = False
  normalization: ClassVar[Literal['from_weights', 'from_data']] = 'from_data'

  def __post_init__(self) -> None:
    object.__setattr__(self, 'backbone', self.backbone.with_computation(self.dtype, self.remat))
    for name in ('window', 'prompt_length', 'answer_length'):
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
    if self.action_head == 'text' and (self.bin_smoothing or self.decoding != 'argmax'):
      raise ValueError("model.bin_smoothing and model.decoding 'mean' need model.action_head 'classifier', and it is "
                       "'text'.")
    self._check_action_ids()

  def _check_action_ids(self) -> None:
    bins, ids = self.action_spec.vocab_size, self.action_ids
    if ids and (len(set(ids)) != bins or len(ids) != bins):
      raise ValueError(f'model.action_ids has {len(set(ids))} different ids for {bins} bins of an action, expected one '
                       'for each. Leave it empty: training takes them from the tokenizer.')
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

  def with_tokenizer(self, tokenizer: 'Tokenizer') -> 'RT2Config':
    """Return the configuration with the ids of the action tokens.

    Raises:
      ValueError: the tokenizer has more ids than the backbone, other tokens around a prompt, no such action tokens, or
        others than the weights were trained on.
    """
    if tokenizer.size > self.vocab_size:
      raise ValueError(f'the tokenizer {tokenizer.id!r} has {tokenizer.size} tokens, the backbone has embeddings for '
                       f'{self.vocab_size}. Use the tokenizer that it was trained with, or for a new backbone set its '
                       f'vocab_size (--model.backbone.text.vocab-size {tokenizer.size}).')
    tokenizer.check_format(self.prompt_format)
    ids = tuple(map(int, tokenizer.action_ids(self.action_spec.vocab_size, self.action_vocabulary)))
    if self.action_ids and self.action_ids != ids:
      raise ValueError(f'the tokenizer {tokenizer.id!r} has other action tokens than the weights were trained on. Use '
                       'the tokenizer of their checkpoint.')
    return dataclasses.replace(self, action_ids=ids)
