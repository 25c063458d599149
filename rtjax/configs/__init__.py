"""Presets: one file each, found by its name.

The docstring of a preset gives command, hardware, time and result.
"""
import importlib
import pkgutil
import types

from rtjax.runtime.suggest import did_you_mean
from rtjax.training.config import TrainConfig


def names() -> list[str]:
  """Return the names of the presets, the modules of this folder."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> TrainConfig:
  """Return the preset of this name, the value `config` of its module.

  Raises:
    ValueError: there is no such preset.
  """
  return _module(name).config


def summary(name: str) -> str:
  """Return the first line of a preset's docstring."""
  return (_module(name).__doc__ or '').splitlines()[0]


def _module(name: str) -> types.ModuleType:
  if name not in names():
    raise ValueError(f'unknown preset {name!r}, expected one of {", ".join(names())}.{did_you_mean(name, names())}')
  return importlib.import_module(f'rtjax.configs.{name}')
