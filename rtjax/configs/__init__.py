"""The experiments: one file each, found by its name; its docstring says how to run it and what to expect."""
import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from rtjax.training.config import TrainConfig


def names() -> list[str]:
  """The presets' names: this folder's modules."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> 'TrainConfig':
  """The preset called `name`; its module calls it `config`."""
  return importlib.import_module(f'rtjax.configs.{name}').config


def summary(name: str) -> str:
  """The first line of a preset's docstring."""
  return (importlib.import_module(f'rtjax.configs.{name}').__doc__ or '').splitlines()[0]
