"""Reading of checkpoints that have a variable for each layer.

They were written before layers were stacked (rtjax/models/layers/layer_stack.py). A run goes on from them: its state is
restored as it was written, then stacked.
"""
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from rtjax.models import parameters
from rtjax.models.layers.layer_stack import is_stacked, layer_name
from rtjax.training.state import TrainState, Tree


def is_written_so(stored: Tree, target: TrainState) -> bool:
  """Return whether a checkpoint has layers apart that are stacked now.

  Args:
    stored: its tree, as orbax describes it.
    target: shapes of the state.
  """
  names = {name.split('/', 1)[1] for part in ('params', 'constants')
           for name in parameters.named_leaves({part: stored.get(part) or {}})}
  stacks = [name for part in (target.params, target.constants)
            for name in parameters.named_leaves(part) if is_stacked(name)]
  return bool(stacks) and stacks[0] not in names and layer_name(stacks[0], 0) in names


def taken_apart(target: TrainState) -> TrainState:
  """Return the layout of a state with separate layers."""
  counts = {_stack_of(name): leaf.shape[0] for part in (target.params, target.constants)
            for name, leaf in parameters.named_leaves(part).items() if is_stacked(name)}
  return jax.tree.map(lambda tree: _apart(tree, counts, '') if isinstance(tree, dict) else tree, target,
                      is_leaf=lambda tree: isinstance(tree, dict))


def stacked(state: TrainState, target: TrainState) -> TrainState:
  """Return a state of `taken_apart` in the shapes and shardings of `target`."""
  layout = jax.tree.map(lambda leaf: leaf.sharding, target)
  join = jax.jit(lambda state: jax.tree.map(_join, state, target, is_leaf=lambda tree: isinstance(tree, dict)),
                 out_shardings=layout)
  return join(state)


def _stack_of(name: str) -> str:
  return name[:name.index('layers/stacked/')] + 'layers'


def _apart(tree: Tree, counts: dict[str, int], path: str) -> Tree:
  if not isinstance(tree, dict):
    return tree
  if path in counts:
    return {str(layer): jax.tree.map(_one_layer, tree['stacked']) for layer in range(counts[path])}
  return {key: _apart(value, counts, f'{path}/{key}' if path else key) for key, value in tree.items()}


def _one_layer(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
  if leaf.shape == (1,):  # Adafactor's for what it does not factor
    return leaf
  assert isinstance(leaf.sharding, NamedSharding)  # for mypy
  where = NamedSharding(leaf.sharding.mesh, PartitionSpec(*leaf.sharding.spec[1:]))
  return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=where)


def _join(tree: Tree, target: Tree) -> Tree:
  if not isinstance(target, dict):
    return tree
  if 'stacked' in target:
    return {'stacked': jax.tree.map(lambda leaf, *rows: rows[0] if leaf.shape == (1,) else jnp.stack(rows),
                                    target['stacked'], *(tree[str(layer)] for layer in range(len(tree))))}
  return {key: _join(tree[key], value) for key, value in target.items()}
