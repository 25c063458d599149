"""Settings of the auxiliary parts; all are off by default."""
import dataclasses

from rtjax.models.backbones.conv_stem import ConvStemConfig


@dataclasses.dataclass(frozen=True)
class AuxiliaryConfig:
  """Additions to the papers for small networks trained from scratch.

  Attributes:
    language_tokens: tokens per frame pooled by language attention (language_pooling.py); 0 = none.
    waypoint_weight: weight of the hindsight waypoint's squared error in the loss (waypoint.py); 0 = none.
  """
  language_tokens: int = 0
  waypoint_weight: float = 0.0

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, (int, float)) and value < 0:
        raise ValueError(f'model.auxiliary.{field.name} is {value}, expected 0 (none) or more.')


@dataclasses.dataclass(frozen=True)
class GroundingConfig(AuxiliaryConfig):
  """Additions of RT-2, with language tokens that ground words.

  Attributes:
    pointing_weight: weight of the pointing loss of the first language token (pointing.py); 0 = none.
    stem: convolutional stem of the image encoder; language tokens are pooled from its feature map.
  """
  pointing_weight: float = 0.0
  stem: ConvStemConfig = ConvStemConfig()  # noqa: RUF009 (frozen)

  def __post_init__(self) -> None:
    super().__post_init__()
    for name, task in (('waypoint_weight', 'predict the waypoint'), ('pointing_weight', 'point')):
      if getattr(self, name) and not self.language_tokens:
        raise ValueError(f'model.auxiliary.{name} is {getattr(self, name)} and model.auxiliary.language_tokens is 0: '
                         f'language tokens {task}. Set --model.auxiliary.language-tokens 4 or '
                         f'--model.auxiliary.{name.replace("_", "-")} 0.')
