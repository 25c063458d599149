"""The networks, and how to build one from its configuration."""
from typing import Any

from flax import nnx

from rtjax.models.rt1 import RT1 as RT1, LossTerms as LossTerms, RT1Config as RT1Config

_MODELS: dict[str, tuple[Any, Any]] = {'rt1': (RT1Config, RT1)}


def config_from_dict(config: dict[str, Any]) -> RT1Config:
  """Reads back what a configuration's `to_dict` wrote; its "model" entry says which one it is."""
  name = config.get('model')
  if name not in _MODELS:
    raise ValueError(f'this model configuration is of kind {name!r}, known kinds are {sorted(_MODELS)}.')
  return _MODELS[name][0].from_dict(config)


def build(config: RT1Config, *, rngs: nnx.Rngs) -> RT1:
  """A newly initialised network."""
  for config_class, model_class in _MODELS.values():
    if isinstance(config, config_class):
      return model_class(config, rngs=rngs)
  raise ValueError(f'no model takes a configuration of type {type(config).__name__}.')
