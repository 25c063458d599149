"""Steps of training and validation, as pure functions."""
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from rtjax.models import LossTerms
from rtjax.models.layers.common import random_streams
from rtjax.observation import Batch
from rtjax.training.state import TrainState, Tree, batch_stats_of, merge

Augment = Callable[[Batch, jax.Array], Batch]  # batch, key -> batch
DistillationTargets = Callable[[Batch, Tree], Batch]  # batch, variables of the teacher -> batch with targets

_PAD = 0  # token id of padding, see rtjax.language.tokenizer


def train_step(state: TrainState, batch: Batch, teacher: Tree = None, *, graphdef: nnx.GraphDef,
               optimizer: optax.GradientTransformation, grad_accum_steps: int = 1, ema_decay: float = 0.0,
               augment: Augment | None = None, distillation_targets: DistillationTargets | None = None,
               text_loss_weight: float = 1.0) -> tuple[TrainState, dict[str, Any]]:
  """Update the parameters once.

  A loss or gradient that is not finite changes nothing but `step`; the caller decides whether to go on.

  Args:
    batch: the global batch; each array has its B examples along the first axis.
    teacher, distillation_targets: for distillation, see distill.py.
    grad_accum_steps: n: gradients are summed over n parts of B / n examples, which bounds memory. Every target counts
      the same, so that the result depends on n through BatchNorm alone, whose statistics are those of a part.
    text_loss_weight: see `with_text_loss_weights`.

  Returns:
    The next state, and `loss` (float32), `grad_norm` (before clipping), `finite` (bool) and `metrics`, the model's
    {name: (sum, count)}.
  """
  step_key = jax.random.fold_in(state.rng, state.step)
  batch = with_text_loss_weights(batch, text_loss_weight)

  def loss_terms(params: Tree, batch_stats: Tree, part: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
    augment_key, dropout_key = jax.random.split(key)
    if augment is not None and part.observation is not None:
      part = augment(part, augment_key)
    if distillation_targets is not None:
      part = distillation_targets(part, teacher)
    model = merge(graphdef, params, batch_stats, state.constants)
    terms = model.loss(part, train=True, rngs=random_streams(dropout_key))
    return terms.total, (terms, batch_stats_of(model))

  gradient_of_one = jax.grad(loss_terms, has_aux=True)

  def gradient(params: Tree, batch_stats: Tree, part: Batch, key: jax.Array) -> tuple[Tree, tuple[LossTerms, Tree]]:
    windows, *texts = part.apart()
    grads, (terms, batch_stats) = gradient_of_one(params, batch_stats, windows, key)
    for text in texts:  # when the first gradient is whole: both together would take twice the memory
      text, grads = jax.lax.optimization_barrier((text, grads))
      more, (added, batch_stats) = gradient_of_one(params, batch_stats, text, jax.random.fold_in(key, 1))
      grads = jax.tree.map(jnp.add, grads, more)
      terms = LossTerms(terms.total + added.total, terms.weight, terms.metrics | added.metrics)
    return grads, (terms, batch_stats)

  def add_part(carry: tuple[Tree, Any], indexed: tuple[jax.Array, Batch]) -> tuple[Any, None]:
    batch_stats, sums = carry
    index, part = indexed
    grads, (terms, batch_stats) = gradient(state.params, batch_stats, part, jax.random.fold_in(step_key, index))
    return (batch_stats, jax.tree.map(jnp.add, sums, (grads, terms))), None

  parts = _parts(batch, grad_accum_steps)
  first = jax.tree.map(lambda x: x[0], parts)
  grads, (terms, _) = jax.eval_shape(gradient, state.params, state.batch_stats, first, step_key)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, terms))
  carry = state.batch_stats, zeros
  if grad_accum_steps == 1:  # no scan: on a CPU, XLA's dense convolutions are 15 times slower inside one
    (batch_stats, (grads, terms)), _ = add_part(carry, (jnp.zeros((), jnp.int32), first))
  else:
    (batch_stats, (grads, terms)), _ = jax.lax.scan(add_part, carry, (jnp.arange(grad_accum_steps), parts))

  loss_scale = merge(graphdef, state.params, state.batch_stats, state.constants).loss_scale(batch.size)
  scale = loss_scale / jnp.maximum(terms.weight, 1)  # a batch may hold no target at all
  loss, grads = terms.total * scale, jax.tree.map(lambda g: g * scale, grads)
  norm = optax.tree.norm(grads)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)

  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  new = dataclasses.replace(state, params=params, batch_stats=batch_stats, opt_state=opt_state,
                            ema=_updated_ema(state, params, ema_decay))
  new = jax.tree.map(lambda old, new: old if old is new else jnp.where(finite, new, old), state, new)
  new = dataclasses.replace(new, step=state.step + 1)
  return new, {'loss': loss, 'grad_norm': norm, 'finite': finite, 'metrics': terms.metrics}


def eval_step(state: TrainState, batch: Batch, *, graphdef: nnx.GraphDef) -> LossTerms:
  """Return the loss terms of a validation batch, in inference mode."""
  model = merge(graphdef, state.eval_params, state.batch_stats, state.constants)
  return model.loss(batch, train=False, rngs=None)


def with_text_loss_weights(batch: Batch, weight: float) -> Batch:
  """Return the batch with a loss weight for each answer token.

  The loss of co-training (RT-2, section 3.2) is

      L = L_action + weight * L_text        each a mean: over actions, and over answer tokens

  where RT-2 samples both kinds of data by weight; weighting the losses has the same expectation. The trainer divides a
  batch's loss by its number of actions, or of answer tokens without any actions, hence the factors. They are set before
  the batch is divided for gradient accumulation, so that the number of parts changes nothing.
  """
  text = batch.text
  if text is None:
    return batch
  weights = (text.targets != _PAD).astype(jnp.float32)
  if batch.action_mask is not None:
    weights = weights * weight * jnp.sum(batch.action_mask[:, -1]) / jnp.maximum(jnp.sum(weights), 1)
  return dataclasses.replace(batch, text=dataclasses.replace(text, weights=weights))


def _parts(batch: Batch, count: int) -> Batch:
  """Reshape [B, ...] to [count, B / count, ...].

  Part i has every count-th example, so that each device keeps its own.
  """
  return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)


def _updated_ema(state: TrainState, params: Tree, decay: float) -> Tree | None:
  if state.ema is None:
    return None
  # As in TensorFlow: a young average decays faster, or the random start would stay in it for long.
  young = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
  return optax.incremental_update(params, state.ema, 1 - young)
