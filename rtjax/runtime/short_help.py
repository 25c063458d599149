"""Rules for tyro: a short help without the rarely changed flags."""
import dataclasses
import typing

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from rtjax.runtime.flags import HIDDEN


def registry(short_help: bool) -> ConstructorRegistry:
  """Return rules for `tyro.cli`; the short help has no `Hidden` flags.

  Args:
    short_help: for a command line that asks for `--help`; other ones must accept hidden flags.
  """
  rules = ConstructorRegistry()
  rules.struct_rule(_list_of_settings)
  if short_help:
    rules.struct_rule(_CommonSettings())
  return rules


def _list_of_settings(info: StructTypeInfo) -> StructConstructorSpec | None:
  inner = typing.get_args(info.type)
  if typing.get_origin(info.type) is not tuple or not dataclasses.is_dataclass(inner[0]):
    return None
  return StructConstructorSpec(instantiate=lambda: info.default, fields=())


class _CommonSettings:
  """Return a rule for dataclasses without hidden fields and long texts."""

  def __init__(self) -> None:
    self._active = False

  def __call__(self, info: StructTypeInfo) -> StructConstructorSpec | None:
    if self._active or not dataclasses.is_dataclass(info.type):
      return None
    self._active = True  # so that tyro's own rule applies inside
    try:
      spec = ConstructorRegistry.get_struct_spec(info)
    finally:
      self._active = False
    assert isinstance(spec, StructConstructorSpec)
    return dataclasses.replace(spec, fields=tuple(map(_shorten, spec.fields)))


def _shorten(field: StructFieldSpec) -> StructFieldSpec:
  kind: typing.Any = field.type
  if HIDDEN in getattr(kind, '__metadata__', ()):
    marker: typing.Any = tyro.conf.Suppress
  else:
    text = (field.helptext() if callable(field.helptext) else field.helptext) or ''
    sentence = text[:1].upper() + text[1:].split('. ')[0].rstrip('.')
    marker = tyro.conf.arg(help_behavior_hint=lambda default: f'{sentence} ({default or "none"})'.strip())
  marked: typing.Any = typing.Annotated[kind, marker]
  return dataclasses.replace(field, type=marked)
