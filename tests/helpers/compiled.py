"""A network whose methods run compiled: called outside jit, JAX compiles every operation of theirs by itself."""
import functools
import inspect
from typing import Any

import jax
import numpy as np
from flax import nnx


class Compiled:
  """A module's attributes, with its methods compiled; `module` is the module itself.

  Arguments that are no arrays, such as lengths, are constants of the program. Results hold arrays in their place.
  """

  def __init__(self, module: nnx.Module):
    self.module = module

  def __getattr__(self, name: str) -> Any:
    attribute = getattr(self.module, name)
    return functools.partial(self._call, name) if inspect.ismethod(attribute) else attribute

  def __call__(self, *args, **kwargs):
    return self._call('__call__', *args, **kwargs)

  def _call(self, name: str, *args, **kwargs):
    leaves, structure = jax.tree.flatten((args, kwargs))
    arrays = [leaf if isinstance(leaf, jax.Array | np.ndarray) else None for leaf in leaves]
    constants = tuple(leaf if array is None else None for leaf, array in zip(leaves, arrays, strict=True))
    return _run(*nnx.split(self.module), arrays, name, structure, constants)


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _run(graphdef, variables, arrays, name, structure, constants):
  leaves = [constant if array is None else array for array, constant in zip(arrays, constants, strict=True)]
  args, kwargs = jax.tree.unflatten(structure, leaves)
  return getattr(nnx.merge(graphdef, variables), name)(*args, **kwargs)
