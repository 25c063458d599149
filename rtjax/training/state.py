"""State of a training run: a plain pytree, without modules."""
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from rtjax.models import PolicyConfig, PolicyModel, parameters

Tree = Any  # nested dicts with string keys and arrays as leaves


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """State of a run; with the batch it determines the next step.

  Attributes:
    step: int32, steps taken.
    params: parameters that the optimizer updates, float32.
    batch_stats: moving averages of BatchNorm.
    constants: weights that are never trained, such as the input normalisation, or parameters that are frozen in this
      run: they have neither gradients nor optimizer state. Frozen kernels and embeddings have the type of the
      computation.
    opt_state: of optax.
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
  def eval_params(self) -> Tree:
    """Parameters to evaluate: the moving average where there is one."""
    return self.params if self.ema is None else self.ema


def split(model: nnx.Module,
          is_trainable: Callable[[str], bool] | None = None) -> tuple[nnx.GraphDef, Tree, Tree, Tree]:
  """Split a model into its definition, parameters, batch statistics and constants.

  Args:
    is_trainable: function from a parameter's name to whether it trains; others count as constants. None: all train.

  Raises:
    ValueError: the model holds random number generators, which would give the same numbers in every step.
  """
  trained: Any = nnx.Param
  if is_trainable is not None:
    trained = nnx.All(nnx.Param, lambda path, _: is_trainable('/'.join(map(str, path))))
  parts: Any = nnx.split(model, trained, nnx.BatchStat, nnx.RngState, ...)  # typed for two parts only
  graphdef, params, batch_stats, random, constants = parts
  if jax.tree.leaves(random):
    names = sorted(parameters.named_leaves(_plain(random)))
    raise ValueError(f'{type(model).__name__} holds random number generators: {names}. Take them as the argument '
                     '`rngs` of `loss` instead.')
  return graphdef, _plain(params), _plain(batch_stats), _plain(constants)


def merge(graphdef: nnx.GraphDef, params: Tree, batch_stats: Tree, constants: Tree) -> PolicyModel:
  """Return the model that `split` took apart; works on traced arrays too."""
  return nnx.merge(graphdef, *map(_with_integer_keys, (params, batch_stats, constants)))


def batch_stats_of(model: nnx.Module) -> Tree:
  return _plain(nnx.state(model, nnx.BatchStat))


def create(params: Tree, batch_stats: Tree, constants: Tree, rng: jax.Array, *,
           optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
  """Return the state before the first step."""
  return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, constants, optimizer.init(params),
                    jax.tree.map(jnp.copy, params) if ema else None, rng)


def with_dtype(constants: Tree, config: PolicyConfig, *, free: bool = False) -> Tree:
  """Return constants in the type of the computation.

  Those that `read_in_dtype` names, so that frozen parameters take less memory and all results stay the same.

  Args:
    config: the model's.
    free: delete each array that another one replaces, so that both trees never exist together.
  """
  def cast(path: Any, leaf: jax.Array) -> jax.Array:
    read = config.read_in_dtype and re.search(config.read_in_dtype, parameters.path_name(path))
    if not read or leaf.dtype == config.dtype:
      return leaf
    new = leaf.astype(config.dtype)
    if free:
      new.block_until_ready()
      leaf.delete()
    return new
  return jax.tree_util.tree_map_with_path(cast, constants)


def _plain(state: nnx.State) -> Tree:
  """Return nested dicts with string keys, as checkpoints need."""
  def with_string_keys(tree: Any) -> Any:
    return {str(key): with_string_keys(value) for key, value in tree.items()} if isinstance(tree, dict) else tree
  return with_string_keys(nnx.to_pure_dict(state))


def _with_integer_keys(tree: Tree) -> Tree:
  """Turn list positions into integers again, to keep their order."""
  if not isinstance(tree, dict):
    return tree
  return {int(key) if key.isdigit() else key: _with_integer_keys(value) for key, value in tree.items()}
