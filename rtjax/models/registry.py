"""Registry of models: building, and configurations as JSON.

Every module of `rtjax.models` may register models; a new one is found without an entry anywhere else.
"""
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from flax import nnx
from jaxtyping import DTypeLike

from rtjax.models import parameters
from rtjax.models.layers.common import random_streams
from rtjax.runtime import limits, serialization

_M = TypeVar('_M', bound=type[nnx.Module])
_models: dict[str, tuple[type, type[nnx.Module]]] = {}


def register(name: str, config_class: type) -> Callable[[_M], _M]:
  """Register the decorated class as the model of `config_class`."""
  def decorate(model_class: _M) -> _M:
    _models[name] = config_class, model_class
    return model_class
  return decorate


def config_to_json(config: Any) -> dict[str, Any]:
  """Return a model's configuration as JSON, with its name as 'model'."""
  return {'model': _entry_of(config)[0]} | serialization.to_json(config)


def config_from_json(data: Any) -> Any:
  """Return the configuration that `config_to_json` wrote.

  Raises:
    ValueError: the model is unknown, or the entries are not those of its configuration.
  """
  data = limits.json_object(data, "a model's configuration")
  _, config_class, _ = _find(lambda name, _: name == data.get('model'),
                             f'this configuration is of the model {data.get("model")!r}')
  return serialization.from_json({k: v for k, v in data.items() if k != 'model'}, config_class)


def model_class(config: Any) -> type[Any]:
  """Return the model class of a configuration."""
  return _entry_of(config)[2]


def build(config: Any, *, seed: int) -> Any:
  """Return a newly initialised model."""
  return _entry_of(config)[2](config, rngs=random_streams(jax.random.key(seed)))


def abstract(config: Any) -> Any:
  """Return the model with shapes and types in place of values.

  Raises:
    ValueError: the configuration is impossible, or beyond a bound.
  """
  limits.check_network(config)
  try:
    return nnx.clone(_shapes(config))
  except (ArithmeticError, TypeError, MemoryError) as error:  # the errors of JAX and NumPy about impossible sizes
    raise ValueError(f'no network can be built from the configuration {config}: {error}') from error


@functools.lru_cache(maxsize=16)  # tracing takes most of a second for RT-1, and a run asks several times
def _shapes(config: Any) -> Any:
  return nnx.eval_shape(lambda: _entry_of(config)[2](config, rngs=random_streams(jax.random.key(0))))


def from_values(config: Any, values: Mapping[str, Any], *, dtype: DTypeLike | None = None) -> Any:
  """Return a model with these variables; nothing is initialised.

  Args:
    dtype: type of the variables; None: that which a new model has.

  Raises:
    ValueError: see `abstract`; or names the variables that are missing, unknown or of another shape.
  """
  model = abstract(config)
  parameters.assign(model, values, dtype=dtype)
  return model


def _entry_of(config: Any) -> tuple[str, type, type[Any]]:
  return _find(lambda name, config_class: config_class is type(config),
               f'no model takes a configuration of type {type(config).__name__}')


def _find(matches: Callable[[str, type], bool], problem: str) -> tuple[str, type, type[Any]]:
  """Find a model; import all modules of rtjax.models if it is unknown."""
  for import_all in (False, True):
    if import_all:
      _import_all()
    for name, (config_class, model_class) in _models.items():
      if matches(name, config_class):
        return name, config_class, model_class
  raise ValueError(f'{problem}, expected one of {sorted(_models)}.')


@functools.cache
def _import_all() -> None:
  package = importlib.import_module('rtjax.models')
  for module in pkgutil.walk_packages(package.__path__, 'rtjax.models.'):
    importlib.import_module(module.name)
