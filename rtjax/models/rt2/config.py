"""The shape of RT-2, and how it acts and learns; the network is in rt2.py."""
import dataclasses
from typing import Any, ClassVar, Literal

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.vit import ViTConfig
from rtjax.models.layers.lora import LoraConfig

_VISION: dict[str, type[ViTConfig]] = {'vit': ViTConfig, 'siglip': SigLIPConfig}


@dataclasses.dataclass(frozen=True)
class RT2Config:
  """The network's shape.

  Attributes:
    action_spec: what it acts with.
    act: whether an action is read by classification heads or said as text.
    window: T, frames it sees; the paper's sees one.
    proprioception_size: P, numbers of the robot's state, one more token beside its pictures; 0 = it is not looked at.
    prompt_length: L, tokens of a prompt, its end included.
    answer_length: M, the most tokens of an answer, its end included.
    vision: the picture encoder.
    text: the encoder-decoder.
    action_ids: the vocabulary's id of each of the V bins; empty until the trainer has looked into the vocabulary.
    lora: adapters of low rank, for training little.
    label_smoothing: share of each target that is spread over all tokens, in training.
    smoothing: of the heads' targets over neighbouring bins, in training (`ActionSpec.smoothed`); 0 = none.
    decoding: 'argmax', the likeliest bin, or 'mean', that of the bins by their probabilities (`ActionSpec.decode`).
    queried_tokens: n, tokens that the prompt asks for among the newest frame's pieces (queried_tokens.py); 0 = none.
    waypoint_weight: weight of the hindsight waypoint's squared error in the loss (waypoint.py); 0 = none.
    words_weight: weight of what visual tokens say by themselves of the words of captions (rt2_loss.py); 0 = none.
    point_weight: weight of where the first of the queried tokens looks when asked to point (rt2_loss.py); 0 = none.
    point_cells: cells across, and as many down, of the grid that answers to pointing speak of.
    dtype, remat: of both parts, whatever their own configurations say; see T5Config.
  """
  action_spec: ActionSpec = actions.ARM_7D
  act: Literal['heads', 'text'] = 'heads'
  window: int = 1
  proprioception_size: int = 0
  prompt_length: int = 64
  answer_length: int = 64
  vision: ViTConfig | SigLIPConfig = ViTConfig()  # noqa: RUF009 (frozen)
  text: T5Config = T5Config()  # noqa: RUF009 (frozen)
  action_ids: tuple[int, ...] = ()
  lora: LoraConfig = LoraConfig()  # noqa: RUF009 (frozen)
  label_smoothing: float = 0.0
  smoothing: float = 0.0
  decoding: Literal['argmax', 'mean'] = 'argmax'
  queried_tokens: int = 0
  waypoint_weight: float = 0.0
  words_weight: float = 0.0
  point_weight: float = 0.0
  point_cells: int = 8
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  remat: bool = False

  views: ClassVar[int] = 1
  horizon: ClassVar[int] = 1
  padding: ClassVar[Literal['back', 'front']] = 'front'
  # What `TrainConfig.trainable` may name besides 'full': patterns of the parameters that then are trained.
  partitions: ClassVar[dict[str, str]] = {
      'decoder': r'^(text/decoder/|text/token_head/|queries|heads|follow/|state/|waypoint/)',
      'lora': r'/lora_[ab]$|^(queries|heads|follow/|state/|waypoint/)'}

  def __post_init__(self) -> None:
    for part in ('vision', 'text'):
      same = dataclasses.replace(getattr(self, part), dtype=self.dtype, remat=self.remat)
      object.__setattr__(self, part, same)
    for name in ('window', 'prompt_length', 'answer_length'):
      if getattr(self, name) < 1:
        raise ValueError(f'model.{name} is {getattr(self, name)}, it must be at least 1.')
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(f'model.label_smoothing is {self.label_smoothing}, expected 0 (none) to below 1, such as 0.1.')
    for name in ('proprioception_size', 'queried_tokens', 'smoothing', 'waypoint_weight', 'words_weight',
                 'point_weight'):
      if getattr(self, name) < 0:
        raise ValueError(f'model.{name} is {getattr(self, name)}, expected 0 (none) or more.')
    if self.queried_tokens and not self.vision.piece:
      raise ValueError('model.queried_tokens are gathered from pieces, and model.vision.piece is 0: say '
                       '--model.vision.piece 4, or --model.queried-tokens 0.')
    if self.waypoint_weight and not self.queried_tokens:
      raise ValueError('model.waypoint_weight is set and model.queried_tokens is 0: they are what tells the waypoint. '
                       'Say --model.queried-tokens 4, or --model.waypoint-weight 0.')
    if self.point_weight:
      if not self.queried_tokens:
        raise ValueError('model.point_weight is set and model.queried_tokens is 0: the first of them is what points. '
                         'Say --model.queried-tokens 4, or --model.point-weight 0.')
      pieces = min(self.vision.grid) * self.vision.patch // self.vision.piece
      if not 1 <= self.point_cells <= pieces:
        raise ValueError(f'model.point_cells is {self.point_cells}, expected 1 to {pieces}, the pieces across a '
                         'picture.')
    if self.act == 'text' and (self.smoothing or self.decoding != 'argmax'):
      raise ValueError("model.smoothing and model.decoding 'mean' are for heads, model.act is 'text'.")
    bins, ids = self.action_spec.vocab_size, self.action_ids
    if ids and (len(set(ids)) != bins or len(ids) != bins):
      raise ValueError(f'model.action_ids has {len(set(ids))} different ids for {bins} bins of an action, expected one '
                       'for each. Leave it empty: the trainer takes them from the vocabulary.')
    if ids and not 0 <= min(ids) <= max(ids) < self.text.vocab_size:
      raise ValueError(f'model.action_ids go from {min(ids)} to {max(ids)}, the text model has ids 0 to '
                       f'{self.text.vocab_size - 1}.')

  @property
  def image_size(self) -> tuple[int, int]:
    """Height and width that pictures are resized to."""
    return self.vision.image_size

  @property
  def embedding_size(self) -> int:
    """A prompt's ids are what conditions a policy; see rt2.py."""
    return self.prompt_length

  def to_dict(self) -> dict[str, Any]:
    parts = {'vision': self.vision.to_dict(), 'text': self.text.to_dict()}
    return {'model': 'rt2'} | dataclasses.asdict(self) | parts

  @classmethod
  def from_dict(cls, config: dict[str, Any]) -> 'RT2Config':
    values = {key: value for key, value in config.items() if key != 'model'}
    values |= {'action_spec': ActionSpec.from_dict(values['action_spec']), 'lora': LoraConfig(**values['lora']),
               'vision': _VISION[values['vision']['model']].from_dict(values['vision']),
               'text': T5Config.from_dict(values['text']),
               'action_ids': tuple(values['action_ids'])}
    return cls(**values)
