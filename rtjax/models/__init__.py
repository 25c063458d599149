"""The networks, and how to build one from its configuration."""
from collections.abc import Mapping
from typing import Any

from flax import nnx

from rtjax.models import parameters as parameters
from rtjax.models.backbones.siglip import SigLIP as SigLIP
from rtjax.models.backbones.siglip import SigLIPConfig as SigLIPConfig
from rtjax.models.backbones.t5 import T5 as T5
from rtjax.models.backbones.t5 import T5Config as T5Config
from rtjax.models.backbones.vit import ViT as ViT
from rtjax.models.backbones.vit import ViTConfig as ViTConfig
from rtjax.models.loss import LossTerms as LossTerms
from rtjax.models.rt1 import RT1 as RT1
from rtjax.models.rt1 import RT1Config as RT1Config
from rtjax.models.rt1_multiview import MultiviewConfig as MultiviewConfig
from rtjax.models.rt1_multiview import RT1Multiview as RT1Multiview
from rtjax.models.rt2.config import RT2Config as RT2Config
from rtjax.models.rt2.model import RT2 as RT2

Config = Any  # the configuration of a network, such as RT1Config
Model = Any  # a network: an nnx.Module with `config`, and `loss` and `loss_scale` if it is trained, such as RT1

_MODELS: dict[str, tuple[Any, Any]] = {
    'rt1': (RT1Config, RT1), 'rt1_multiview': (MultiviewConfig, RT1Multiview), 'rt2': (RT2Config, RT2)}
_MODELS |= {'siglip': (SigLIPConfig, SigLIP), 'vit': (ViTConfig, ViT), 't5': (T5Config, T5)}  # parts of others


def config_from_dict(config: dict[str, Any]) -> Config:
  """Reads back what a configuration's `to_dict` wrote; its "model" entry says which one it is."""
  name = config.get('model')
  if name not in _MODELS:
    raise ValueError(f'this model configuration is of kind {name!r}, known kinds are {sorted(_MODELS)}.')
  return _MODELS[name][0].from_dict(config)


def build(config: Config, *, rngs: nnx.Rngs) -> Model:
  """A newly initialised network. Its initialisation is compiled as a whole, which is many times faster than eagerly."""
  return nnx.jit(lambda rngs: _class_of(config)(config, rngs=rngs))(rngs)


def abstract(config: Config) -> Model:
  """The network with shapes and types in place of values."""
  return nnx.eval_shape(lambda: _class_of(config)(config, rngs=nnx.Rngs(0)))


def from_values(config: Config, values: Mapping[str, Any]) -> Model:
  """A network with the given variables, by name (see parameters.py); nothing is initialised.

  Raises:
    ValueError: names the variables that are missing, unknown or of another shape.
  """
  model = abstract(config)
  parameters.assign(model, values)
  return model


def _class_of(config: Config) -> Any:
  for config_class, model_class in _MODELS.values():
    if type(config) is config_class:
      return model_class
  raise ValueError(f'no model takes a configuration of type {type(config).__name__}.')
