"""Settings of the auxiliary parts; all are off by default."""
import dataclasses


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
