"""Variables of a model by name: 'transformer/layers/0/attention/query/kernel' -> array.

Layers that are stored as one (layers/layer_stack.py) have names of their own here, as in published weights and exports.
"""
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding
from jaxtyping import DTypeLike

from rtjax.models.layers import lora
from rtjax.models.layers.common import Constant
from rtjax.models.layers.layer_stack import is_stacked, layer_name, stored_name

_VARIABLES = (nnx.Param, nnx.BatchStat, Constant)


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
  """Return the shape of every variable; the model may be abstract."""
  return shapes_of_layers(stored_shapes(model))


def stored_shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
  """Return the shape of every variable as it is stored, layers stacked."""
  return {name: tuple(v.shape) for name, v in _variables(model).items()}


def shapes_of_layers(stored: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
  """Return stored shapes with those of each layer apart."""
  return {name: shape[1:] if is_stacked(place) else shape
          for place, shape in stored.items() for name in names_of_layers(place, shape)}


def named(model: nnx.Module) -> dict[str, jax.Array]:
  """Return the value of every variable."""
  return each_layer(stored(model))


def hold_in_dtype(model: nnx.Module, pattern: str, dtype: DTypeLike) -> None:
  """Cast the parameters that a pattern matches, in place, one by one."""
  for name, variable in _variables(model).items():
    if re.search(pattern, name):
      variable.set_value(variable[...].astype(dtype).block_until_ready())


def stored(model: nnx.Module) -> dict[str, jax.Array]:
  """Return the value of every variable as it is stored, layers stacked."""
  return {name: v[...] for name, v in _variables(model).items()}


def reader(model: nnx.Module) -> Callable[[str], jax.Array]:
  """Return a function from a variable's name to its value.

  It copies no other layer's.
  """
  values = stored(model)

  def read(name: str) -> jax.Array:
    if name in values:
      return values[name]
    place, layer = stored_name(name)
    return _row(values[place], layer)
  return read


def each_layer(values: Mapping[str, Any]) -> dict[str, Any]:
  """Return stored variables with those of each layer apart."""
  return {name: _row(value, layer) if is_stacked(place) else value
          for place, value in values.items() for layer, name in enumerate(names_of_layers(place, value.shape))}


def names_of_layers(place: str, shape: tuple[int, ...]) -> list[str]:
  """Return the names of a stored variable, one for each layer."""
  return [layer_name(place, layer) for layer in range(shape[0])] if is_stacked(place) else [place]


# Compiled once for each shape, not for each layer.
_row: Callable[[Any, int], Any] = jax.jit(lambda stack, layer: stack[layer])


def _variables(model: nnx.Module) -> dict[str, nnx.Variable]:
  return {'/'.join(map(str, path)): node for path, node in nnx.iter_graph(model) if isinstance(node, _VARIABLES)}


def merged(model: nnx.Module) -> dict[str, jax.Array]:
  """Return variables as they are stored, with adapters folded into kernels."""
  own = {name: value for name, value in stored(model).items() if not lora.is_adapter(name)}
  return own | lora.merged_kernels(model)


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
    values: variables of single layers, or as they are stored.
    dtype: type that the variables get; None keeps theirs.

  Raises:
    ValueError: names the variables that are missing, unknown or of another shape.
  """
  given = shapes_of_layers({place: np.shape(value) for place, value in values.items()})
  check(shapes(model), given, 'the values')
  for place, variable in _variables(model).items():
    value = values[place] if place in values else _stack(
        [values[name] for name in names_of_layers(place, variable.shape)])
    variable.set_value(jnp.asarray(value, dtype or variable.dtype))


def _stack(rows: list[Any]) -> Any:
  return jnp.stack(rows) if any(isinstance(row, jax.Array) for row in rows) else np.stack(rows)


def assign_each(model: nnx.Module, values: Iterable[tuple[str, Any]], *, dtype: DTypeLike | None = None,
                sharding: Callable[[str, tuple[int, ...]], Sharding] | None = None) -> None:
  """Set variables of `model`, in place, as they come.

  Each value is on its devices before the next is taken, so that the host holds one of them at a time.

  Args:
    model: may be abstract; variables that no value is given for stay as they are.
    values: variables of single layers.
    dtype: type that the variables get; None keeps theirs.
    sharding: place on the devices, from the name and shape of a variable; None: that which the variable has, or of an
      abstract one the default device.
  """
  variables = _variables(model)
  for name, value in values:
    place, layer = (name, None) if name in variables else stored_name(name)
    variable = variables[place]
    old = variable.get_value()
    where = sharding(place, variable.shape) if sharding else old.sharding if isinstance(old, jax.Array) else None
    kind = dtype or variable.dtype
    value = value.astype(kind) if isinstance(value, jax.Array) else np.asarray(value, kind)
    if layer is None:
      variable.set_value(_put(value, where).block_until_ready())
    else:
      if not isinstance(old, jax.Array) or old.dtype != value.dtype:
        old = jnp.zeros(variable.shape, value.dtype, device=where)
      row = _put(value, sharding(name, value.shape)) if sharding else value
      variable.set_value(_with_row(old, row, layer).block_until_ready())


def _put(value: np.ndarray | jax.Array, sharding: Sharding | None) -> jax.Array:
  if isinstance(value, jax.Array):
    return value if sharding is None else jax.device_put(value, sharding)
  if sharding is None:
    # jnp.asarray compiles a program for each shape. A copy, since a file may be mapped into the memory of `value`.
    return jax.device_put(value, may_alias=False)
  return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


@functools.partial(jax.jit, donate_argnums=0)
def _with_row(stack: jax.Array, row: jax.Array, layer: int | jax.Array) -> jax.Array:
  return jax.lax.dynamic_update_index_in_dim(stack, row, layer, 0)


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
