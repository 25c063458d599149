"""Presets: one file each, found by its name.

The docstring of a preset gives command, hardware, time and result.
"""
import ast
import importlib
import pathlib
import pkgutil
from typing import TYPE_CHECKING

from rtjax.runtime.suggest import did_you_mean

if TYPE_CHECKING:
  from rtjax.training.config import TrainConfig


def names() -> list[str]:
  """Return the names of the presets, the modules of this folder."""
  return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> 'TrainConfig':
  """Return the preset of this name, the value `config` of its module.

  Raises:
    ValueError: there is no such preset.
  """
  _require(name)
  return importlib.import_module(f'{__name__}.{name}').config


def summary(name: str) -> str:
  """Return the first line of a preset's docstring, without importing it."""
  _require(name)
  text = pathlib.Path(__path__[0], f'{name}.py').read_text()
  return (ast.get_docstring(ast.parse(text)) or '').splitlines()[0]


def _require(name: str) -> None:
  if name not in names():
    raise ValueError(f'unknown preset {name!r}, expected one of {", ".join(names())}.{did_you_mean(name, names())}')
