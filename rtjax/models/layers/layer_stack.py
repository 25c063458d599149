"""Equal layers as one, with stacked variables, run by a loop.

A program holds the layer once, however deep the network is, so that compiling takes seconds in place of minutes. Each
variable is stored as 'layers/stacked/attention/query/kernel' [L, D, heads, head_size]. All that names single layers
(published weights, exports) has them as 'layers/0/attention/query/kernel' [D, heads, head_size] and so on, see
rtjax/models/parameters.py.
"""
import re
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rtjax.models.layers.common import random_streams

_L = TypeVar('_L', bound=nnx.Module)

_UNROLLED = 4
"""Stacks of at most so many layers run without a loop, which costs more than it saves in compiling."""

_STACKED, _SINGLE = re.compile(r'(^|/)layers/stacked/'), re.compile(r'(^|/)layers/(\d+)/')


class LayerStack(nnx.Module, Generic[_L]):
  """`count` layers of equal shapes.

  Args:
    make: returns a newly initialised layer.

  Attributes:
    stacked: a layer whose variables hold those of all layers.
  """

  def __init__(self, make: Callable[[], _L], count: int):
    layers = [make() for _ in range(count)]
    graphdef, _ = nnx.split(layers[0])
    values = [jax.tree.leaves(nnx.state(layer)) for layer in layers]
    structure = jax.tree.structure(nnx.state(layers[0]))
    del layers  # the parts of one variable are freed when it is stacked
    stacked = [_stack([parts.pop(0) for parts in values]) for _ in range(len(values[0]))]
    self.stacked: _L = nnx.merge(graphdef, jax.tree.unflatten(structure, stacked))
    self.count = count

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, index: int) -> _L:
    """Return a copy of one layer."""
    graphdef, state = nnx.split(self.stacked)
    return nnx.merge(graphdef, jax.tree.map(lambda stack: stack[range(self.count)[index]], state))

  def __iter__(self) -> Iterator[_L]:
    return (self[index] for index in range(self.count))

  def scan(self, call: Callable[..., tuple[Any, Any]], x: Any, *inputs: Any, remat: bool = False,
           rngs: nnx.Rngs | None = None) -> tuple[Any, Any]:
    """Apply one layer after the other.

    Args:
      call: called as call(layer, x, *inputs, rngs); returns the next x, and an output of this layer.
      inputs: pytrees whose arrays have an entry for each layer.
      remat: recompute each layer in the backward pass instead of keeping its activations.
      rngs: stream `dropout`; each layer gets its own random numbers.

    Returns:
      The last x, and the outputs of all layers, stacked.
    """
    graphdef, state = nnx.split(self.stacked)

    def body(x: Any, scanned: Any) -> tuple[Any, Any]:
      values, key, inputs = scanned
      return call(nnx.merge(graphdef, values), x, *inputs, None if key is None else random_streams(key))
    keys = None if rngs is None else jax.random.split(rngs.dropout(), self.count)
    # In a loop nothing could be shared with the backward pass, so that nothing needs to prevent it.
    body = jax.checkpoint(body, prevent_cse=False) if remat else body
    return jax.lax.scan(body, x, (state, keys, inputs), unroll=self.count <= _UNROLLED)

  def map(self, call: Callable[[_L], Any]) -> Any:
    """Return the results of all layers, stacked."""
    return self.scan(lambda layer, x, rngs: (x, call(layer)), None)[1]


def is_stacked(name: str) -> bool:
  """Return whether the variable of this name is stored for all layers."""
  return bool(_STACKED.search(name))


def layer_name(name: str, layer: int) -> str:
  """Return the name of a stored variable in one layer."""
  return _STACKED.sub(rf'\g<1>layers/{layer}/', name)


def stored_name(name: str) -> tuple[str, int]:
  """Return the stored name of one layer's variable, and the layer.

  Raises:
    KeyError: the name has no layer.
  """
  found = _SINGLE.search(name)
  if found is None:
    raise KeyError(name)
  return f'{name[:found.start()]}{found[1]}layers/stacked/{name[found.end():]}', int(found[2])


def _stack(parts: list[Any]) -> jax.Array:
  """Stack arrays, on a CPU without compiling."""
  if any(isinstance(part, jax.core.Tracer) or not part.is_fully_addressable or len(part.devices()) > 1 or
         next(iter(part.devices())).platform != 'cpu' for part in parts):
    return jnp.stack(parts)
  return jnp.asarray(np.stack(parts))
