"""A model's variables by name: 'transformer/layers/0/attention/query/kernel' -> array."""
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rtjax.models.layers.common import Constant

KINDS = (nnx.Param, nnx.BatchStat, Constant)


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
  """Name and shape of every variable, also of an abstract model."""
  return {'/'.join(map(str, path)): tuple(v.shape) for path, v in nnx.to_flat_state(nnx.state(model, KINDS))}


def named(model: nnx.Module) -> dict[str, jax.Array]:
  """Name and value of every variable."""
  return {'/'.join(map(str, path)): v[...] for path, v in nnx.to_flat_state(nnx.state(model, KINDS))}


def assign(model: nnx.Module, values: Mapping[str, Any]) -> None:
  """Gives every variable of `model` its value, in place; the values' names and shapes are the model's.

  Raises:
    ValueError: names the variables that are missing, unknown or of another shape.
  """
  wanted = shapes(model)
  check(wanted, {name: tuple(np.shape(value)) for name, value in values.items()}, 'the values')
  state = nnx.state(model, KINDS)
  flat = [(path, v.replace(jnp.asarray(values['/'.join(map(str, path))], v.dtype)))
          for path, v in nnx.to_flat_state(state)]
  nnx.update(model, nnx.from_flat_state(flat))


def check(wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], what: str) -> None:
  """Raises a ValueError that names what `given` lacks, has too much, or has in another shape."""
  problems = [f'missing: {name} {wanted[name]}' for name in wanted if name not in given]
  problems += [f'unknown: {name} {given[name]}' for name in given if name not in wanted]
  problems += [f'shape {given[name]}, expected {wanted[name]}: {name}'
               for name in wanted if name in given and given[name] != wanted[name]]
  if problems:
    shown = '\n  '.join(problems[:10]) + (f'\n  ... and {len(problems) - 10} more' if len(problems) > 10 else '')
    raise ValueError(f'{what} do not fit the network in {len(problems)} variables:\n  {shown}')
