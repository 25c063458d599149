"""One step of training, and one of validation: pure functions of the state and the batch."""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from rtjax.models import LossTerms
from rtjax.training.state import TrainState, Tree, batch_stats_of, merge

Batch = dict[str, jax.Array]
Augment = Callable[[Batch, jax.Array], Batch]  # batch, key -> batch
Soften = Callable[[Batch, Tree], Batch]  # batch, teacher's variables -> batch with soft targets
Balance = Callable[[Batch], Batch]  # whole batch -> batch with weights, see cotrain.py


def train_step(state: TrainState, batch: Batch, teacher: Tree = None, *, graphdef: nnx.GraphDef,
               optimizer: optax.GradientTransformation, micro_batches: int = 1, ema_decay: float = 0.0,
               augment: Augment | None = None, soften: Soften | None = None,
               balance: Balance | None = None) -> tuple[TrainState, dict[str, Any]]:
  """One update of the parameters.

  A loss or gradient that is not finite changes nothing but `step`; whether to go on is for the caller to decide.

  Args:
    batch: the global batch; each array holds its B examples along the first axis.
    teacher, soften: for distillation, see distill.py.
    balance: weighs what a batch holds of several kinds, before it is cut into parts.
    micro_batches: n: gradients are summed over n parts of B / n examples, which bounds memory. Every target counts the
      same, so that only BatchNorm, whose statistics are those of one part, can tell.

  Returns:
    The next state, and `loss` (float32), `grad_norm` (before clipping), `finite` (bool) and `metrics`, the model's
    {name: (sum, count)}.
  """
  step_key = jax.random.fold_in(state.rng, state.step)
  if balance is not None:
    batch = balance(batch)

  def loss_terms(params: Tree, batch_stats: Tree, part: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
    augment_key, dropout_key = jax.random.split(key)
    if augment is not None:
      part = augment(part, augment_key)
    if soften is not None:
      part = soften(part, teacher)
    model = merge(graphdef, params, batch_stats, state.constants)
    terms = model.loss(part, train=True, rngs=nnx.Rngs(dropout_key))
    return terms.total, (terms, batch_stats_of(model))

  gradient = jax.grad(loss_terms, has_aux=True)

  def add_part(carry: tuple[Tree, Any], indexed: tuple[jax.Array, Batch]) -> tuple[Any, None]:
    batch_stats, sums = carry
    index, part = indexed
    grads, (terms, batch_stats) = gradient(state.params, batch_stats, part, jax.random.fold_in(step_key, index))
    return (batch_stats, jax.tree.map(jnp.add, sums, (grads, terms))), None

  parts = _parts(batch, micro_batches)
  first = jax.tree.map(lambda x: x[0], parts)
  grads, (terms, _) = jax.eval_shape(gradient, state.params, state.batch_stats, first, step_key)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, terms))
  carry = state.batch_stats, zeros
  if micro_batches == 1:  # no loop around it: XLA's dense convolutions are 15 times slower in one on a CPU
    (batch_stats, (grads, terms)), _ = add_part(carry, (jnp.zeros((), jnp.int32), first))
  else:
    (batch_stats, (grads, terms)), _ = jax.lax.scan(add_part, carry, (jnp.arange(micro_batches), parts))

  scale = merge(graphdef, state.params, state.batch_stats, state.constants).loss_scale(len(jax.tree.leaves(batch)[0]))
  scale = scale / jnp.maximum(terms.weight, 1)  # a batch may hold no target at all
  loss, grads = terms.total * scale, jax.tree.map(lambda g: g * scale, grads)
  norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)

  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  new = dataclasses.replace(state, params=params, batch_stats=batch_stats, opt_state=opt_state,
                            ema=_moved(state, params, ema_decay))
  new = jax.tree.map(lambda old, new: old if old is new else jnp.where(finite, new, old), state, new)
  new = dataclasses.replace(new, step=state.step + 1)
  return new, {'loss': loss, 'grad_norm': norm, 'finite': finite, 'metrics': terms.metrics}


def eval_step(state: TrainState, batch: Batch, *, graphdef: nnx.GraphDef) -> LossTerms:
  """Sums over one validation batch, in inference mode and with the moving average of the parameters if there is one."""
  model = merge(graphdef, state.weights, state.batch_stats, state.constants)
  return model.loss(batch, train=False, rngs=None)


def _parts(batch: Batch, count: int) -> Batch:
  """[B, ...] to [count, B / count, ...]. Part i takes every count-th example, so that each device keeps its own."""
  return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)


def _moved(state: TrainState, params: Tree, decay: float) -> Tree | None:
  if state.ema is None:
    return None
  # As in TensorFlow: a young average forgets faster, or it would keep the random start for long.
  kept = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
  return optax.incremental_update(params, state.ema, 1 - kept)
