"""The state of a training run: a plain pytree, no module in sight."""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

Tree = Any  # nested dicts with string keys and arrays as leaves


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that changes in training; everything of the next step follows from it and from the batch.

  Attributes:
    step: int32, steps taken.
    params: what the optimizer moves, float32.
    batch_stats: moving averages of BatchNorm.
    constants: weights that are never trained, such as the input normalisation, or parameters that are frozen in this
      run: they have neither gradients nor optimizer state.
    opt_state: optax's.
    ema: moving average of `params`, or None if none is kept.
    rng: typed key; the keys of a step are functions of it and of `step` alone.
  """
  step: jax.Array
  params: Tree
  batch_stats: Tree
  constants: Tree
  opt_state: optax.OptState
  ema: Tree | None
  rng: jax.Array

  @property
  def weights(self) -> Tree:
    """The parameters to judge and to act with: the moving average where there is one."""
    return self.params if self.ema is None else self.ema


def split(model: nnx.Module, trainable: Callable[[str], bool] | None = None) -> tuple[nnx.GraphDef, Tree, Tree, Tree]:
  """A model to its definition, parameters, batch statistics and constants.

  Args:
    trainable: tells by a parameter's name whether it is trained; others count as constants. None: all are.

  Raises:
    ValueError: if the model keeps random numbers of its own; they would be the same in every step.
  """
  trained: Any = nnx.Param
  if trainable is not None:
    trained = nnx.All(nnx.Param, lambda path, _: trainable('/'.join(map(str, path))))
  parts: Any = nnx.split(model, trained, nnx.BatchStat, nnx.RngState, ...)  # typed for two parts only
  graphdef, params, batch_stats, random, constants = parts
  if jax.tree.leaves(random):
    raise ValueError(f'{type(model).__name__} keeps random number generators: {sorted(named(_plain(random)))}. '
                     'Take them as the argument `rngs` of `loss` instead.')
  return graphdef, _plain(params), _plain(batch_stats), _plain(constants)


def merge(graphdef: nnx.GraphDef, params: Tree, batch_stats: Tree, constants: Tree) -> Any:
  """The model again; works on traced arrays too."""
  return nnx.merge(graphdef, *map(_numbered, (params, batch_stats, constants)))


def batch_stats_of(model: nnx.Module) -> Tree:
  return _plain(nnx.state(model, nnx.BatchStat))


def create(params: Tree, batch_stats: Tree, constants: Tree, rng: jax.Array, *,
           optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
  """The state before the first step."""
  return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, constants, optimizer.init(params),
                    jax.tree.map(jnp.copy, params) if ema else None, rng)


def named(tree: Tree) -> dict[str, Any]:
  """{'transformer/layers/0/attention/query/kernel': leaf, ...} of any pytree."""
  return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def path_name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def count(tree: Tree) -> int:
  """How many numbers the tree holds."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _plain(state: nnx.State) -> Tree:
  """Nested dicts with string keys: what a checkpoint's file names can hold, list positions included."""
  def stringly(tree: Any) -> Any:
    return {str(key): stringly(value) for key, value in tree.items()} if isinstance(tree, dict) else tree
  return stringly(nnx.to_pure_dict(state))


def _numbered(tree: Tree) -> Tree:
  """The other way round: positions in lists are numbers again, so that the tenth does not come before the second."""
  if not isinstance(tree, dict):
    return tree
  return {int(key) if key.isdigit() else key: _numbered(value) for key, value in tree.items()}
