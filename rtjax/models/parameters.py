"""Variables of a model by name: 'transformer/layers/0/attention/query/kernel' -> array."""
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import DTypeLike

from rtjax.models.layers import lora
from rtjax.models.layers.common import Constant

_VARIABLES = (nnx.Param, nnx.BatchStat, Constant)


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
  """Return the shape of every variable; the model may be abstract."""
  return {'/'.join(map(str, path)): tuple(v.shape) for path, v in nnx.to_flat_state(nnx.state(model, _VARIABLES))}


def named(model: nnx.Module) -> dict[str, jax.Array]:
  """Return the value of every variable."""
  return {'/'.join(map(str, path)): v[...] for path, v in nnx.to_flat_state(nnx.state(model, _VARIABLES))}


def merged(model: nnx.Module) -> dict[str, jax.Array]:
  """Return the value of every variable, with adapters folded into kernels."""
  return {name: value for name, value in named(model).items() if not lora.is_adapter(name)} | lora.merged_kernels(model)


def named_leaves(tree: Any) -> dict[str, Any]:
  """Return the leaves of any pytree by path."""
  return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def path_name(path: tuple[Any, ...]) -> str:
  """Return a pytree path as 'a/b/0'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def count(tree: Any) -> int:
  """Return the number of elements of all arrays of a pytree."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def assign(model: nnx.Module, values: Mapping[str, Any], *, dtype: DTypeLike | None = None) -> None:
  """Set every variable of `model`, in place.

  Args:
    dtype: type that the variables get; None keeps theirs.

  Raises:
    ValueError: names the variables that are missing, unknown or of another shape.
  """
  check(shapes(model), {name: tuple(np.shape(value)) for name, value in values.items()}, 'the values')
  state = nnx.state(model, _VARIABLES)
  flat = [(path, v.replace(jnp.asarray(values['/'.join(map(str, path))], dtype or v.dtype)))
          for path, v in nnx.to_flat_state(state)]
  nnx.update(model, nnx.from_flat_state(flat))


def assign_each(model: nnx.Module, values: Iterable[tuple[str, Any]]) -> None:
  """Set variables of `model`, in place, as they come."""
  variables = {'/'.join(map(str, path)): node for path, node in nnx.iter_graph(model) if isinstance(node, _VARIABLES)}
  for name, value in values:
    variables[name].set_value(jnp.asarray(value, variables[name].dtype))


def check_finite(values: Mapping[str, Any], source: str) -> None:
  """Raise ValueError that names the arrays with NaN or infinite numbers."""
  bad = {name: size - finite for name, value in values.items()
         if (finite := np.count_nonzero(np.isfinite(value))) < (size := np.size(value))}
  if bad:
    shown = '\n  '.join(f'{name} ({count} of {np.size(values[name])} numbers)' for name, count in [*bad.items()][:10])
    more = f'\n  ... and {len(bad) - 10} more' if len(bad) > 10 else ''
    raise ValueError(f'{source} holds NaN or infinite numbers in {len(bad)} arrays:\n  {shown}{more}\n'
                     'Copy the file again, or take a checkpoint from before the training diverged.')


def check(expected: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]], source: str) -> None:
  """Raise ValueError for variables missing, unknown or of another shape."""
  problems = [f'missing: {name} {expected[name]}' for name in expected if name not in given]
  problems += [f'unknown: {name} {given[name]}' for name in given if name not in expected]
  problems += [f'shape {given[name]}, expected {expected[name]}: {name}'
               for name in expected if name in given and given[name] != expected[name]]
  if problems:
    shown = '\n  '.join(problems[:10]) + (f'\n  ... and {len(problems) - 10} more' if len(problems) > 10 else '')
    raise ValueError(f'{source} do not fit the network in {len(problems)} variables:\n  {shown}')
