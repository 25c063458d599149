"""Configurations to JSON and back, by their type hints.

A dataclass becomes an object with an entry for each field; in a union of dataclasses the entry 'type' names the class.
Reading is strict: unknown settings, and values of another type, are errors that name the place. Settings that are
missing, since an older version did not have them, get their defaults; `missing` lists them.
"""
import dataclasses
import json
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import cattrs

_T = TypeVar('_T')
_converter = cattrs.Converter(forbid_extra_keys=True)


class UnreadableError(ValueError):
  """JSON is not the configuration that it should be."""


def to_json(config: Any, declared: Any = None) -> Any:
  """Return the JSON form of a configuration.

  Args:
    config: a dataclass instance.
    declared: type that `from_json` will be given, if not the instance's class: a union adds the entry 'type'.
  """
  return json.loads(json.dumps(_converter.unstructure(config, declared or type(config))))


def from_json(data: Any, declared: type[_T]) -> _T:
  """Return the configuration that `to_json` wrote.

  Raises:
    UnreadableError: lists the settings that are unknown, missing without a default, or of another type.
  """
  try:
    return _converter.structure(data, declared)
  except (cattrs.BaseValidationError, cattrs.StructureHandlerNotFoundError) as error:
    found = '; '.join(cattrs.transform_error(error, format_exception=_describe))
    raise UnreadableError(f'this {getattr(declared, "__name__", declared)} cannot be read: {found}.') from error
  except (AttributeError, TypeError) as error:  # cattrs takes objects and lists to be such
    raise UnreadableError(f'this {getattr(declared, "__name__", declared)} cannot be read: {repr(data)[:60]} has '
                          'another type.') from error


def missing(data: Any, complete: Any) -> dict[str, Any]:
  """Return the settings, by place, that `data` lacks; both are JSON."""
  given = flat(data)
  return {name: value for name, value in flat(complete).items() if name not in given}


def flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  """Return the values of nested JSON by their places, such as model.width."""
  values: dict[str, Any] = {}
  for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
    is_nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))
    values |= flat(value, f'{prefix}{key}.') if is_nested else {f'{prefix}{key}': value}
  return values


def register(base: type, write: Callable[[Any], Any], read: Callable[[Any], Any]) -> None:
  """Register the conversion of fields declared as `base`.

  Args:
    write: from a configuration to its JSON form.
    read: back; raises ValueError.
  """
  def structure(data: Any, _: Any) -> Any:
    try:
      return read(data)
    except ValueError as error:
      raise _ReadError(str(error)) from error
  _converter.register_unstructure_hook_func(lambda declared: declared is base, write)
  _converter.register_structure_hook_func(lambda declared: declared is base, structure)


class _ReadError(ValueError):
  """An error whose message tells all."""


def _describe(error: BaseException, expected: Any) -> str:
  if isinstance(error, cattrs.ForbiddenExtraKeysError):
    return f'unknown settings ({", ".join(sorted(error.extra_fields))})'
  of_class = type(error) in (ValueError, ImportError)  # of a dataclass that checks its fields
  return str(error).rstrip('.') if of_class or isinstance(error, _ReadError) else cattrs.v.format_exception(
      error, expected)


def _dataclasses_of(declared: Any) -> dict[str, type]:
  """Return the dataclasses of a union by name."""
  members = typing.get_args(declared) if typing.get_origin(declared) in (typing.Union, types.UnionType) else ()
  return {m.__name__: m for m in members} if len(members) > 1 and all(map(dataclasses.is_dataclass, members)) else {}


@_converter.register_structure_hook_factory(lambda declared: bool(_dataclasses_of(declared)))
def _structure_union(declared: Any) -> Callable[[Any, Any], Any]:
  members = _dataclasses_of(declared)

  def structure(data: Any, _: Any) -> Any:
    name = data.get('type') if isinstance(data, dict) else None
    if name not in members:
      raise _ReadError(f'type is {name!r}, expected one of {sorted(members)}')
    return _converter.structure({k: v for k, v in data.items() if k != 'type'}, members[name])
  return structure


@_converter.register_unstructure_hook_factory(lambda declared: bool(_dataclasses_of(declared)))
def _unstructure_union(declared: Any) -> Callable[[Any], Any]:
  return lambda value: {'type': type(value).__name__} | _converter.unstructure(value, type(value))


@_converter.register_structure_hook
def _structure_numbers(data: Any, _: Any) -> float | tuple[float, ...]:
  return tuple(map(float, data)) if isinstance(data, (list, tuple)) else float(data)


def _strictly(declared: type, *accepted: type) -> Callable[[Any, Any], Any]:
  """Return a conversion that refuses values of another type."""
  def structure(data: Any, _: Any) -> Any:
    if type(data) not in accepted:
      raise _ReadError(f'{repr(data)[:60]}, expected {declared.__name__}')
    return declared(data)
  return structure


_converter.register_structure_hook(int, _strictly(int, int))
_converter.register_structure_hook(float, _strictly(float, float, int))
_converter.register_structure_hook(str, _strictly(str, str))
_converter.register_structure_hook(bool, _strictly(bool, bool))
