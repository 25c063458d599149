"""Losses of RT-2: cross-entropy of recorded actions and of answers."""
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from rtjax.language import prompts
from rtjax.models.auxiliary.pointing import pointing_loss
from rtjax.models.base import LossTerms
from rtjax.models.loss import IMPOSSIBLE, action_loss
from rtjax.models.rt2.decoding import allowed_bins
from rtjax.observation import Batch, TextBatch

if TYPE_CHECKING:
  from rtjax.models.rt2.model import RT2, Context


def robot_loss(model: 'RT2', batch: Batch, *, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  """Return the loss of the newest frame's action, which is one target."""
  c, (observation, _, mask) = model.config, batch.windows()
  context = model.encode_observation(observation, rngs)
  terms = (_classifier_loss if c.action_head == 'classifier' else _text_action_loss)(model, context, batch, train, rngs)
  terms.metrics.pop('accuracy_per_frame', None)  # there is one frame
  counted = mask[:, -1, 0].astype(jnp.float32)
  count = jnp.sum(counted)
  total = terms.total * (count / jnp.maximum(terms.weight, 1))
  metrics = terms.metrics | {'action_loss': (total, count)}
  if model.waypoint is not None:
    assert context.grounded is not None  # a waypoint weight needs language tokens
    waypoints = None if batch.waypoints is None else batch.waypoints[:, -1:]
    squared, distance = model.waypoint.errors(context.grounded[:, None], waypoints)
    metrics['waypoint_distance'] = jnp.sum(distance[:, 0] * counted), count
    total += c.auxiliary.waypoint_weight * jnp.sum(squared[:, 0] * counted)
  return LossTerms(total, count, metrics)


def text_loss(model: 'RT2', batch: TextBatch, *, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  """Return the loss of answers to prompts about images.

  With a pointing weight, the pointing loss is added.
  Outside of training, answers are also generated: the metric `answers` has the share per task that equals the target.
  """
  c, targets = model.config, batch.targets
  images = model.encode_images(batch.images[:, None], rngs)
  context = model.encode(images, batch.prompts, rngs=rngs)
  logits = model.text_logits(context, targets, rngs)
  loss = _cross_entropy(logits, targets, c.label_smoothing if train else 0.0)
  is_token = (targets != c.backbone.pad_id).astype(jnp.float32)
  weights = is_token if batch.weights is None else batch.weights
  total, count = jnp.sum(loss * weights), jnp.sum(is_token)
  metrics = {'text_loss': (jnp.sum(loss * is_token), count),
             'text_accuracy': (jnp.sum((jnp.argmax(logits, -1) == targets) * is_token), count)}
  if not train:
    answers = model.generate_ids(batch.images, batch.prompts, jax.random.key(0), length=targets.shape[1])
    correct = jnp.all(answers == targets, 1)
    tasks = jax.nn.one_hot(batch.tasks, len(prompts.TASKS)) * jnp.any(is_token, 1)[:, None]
    metrics['answers'] = jnp.sum(tasks * correct[:, None], 0), jnp.sum(tasks, 0)
  if c.auxiliary.pointing_weight:
    assert images.feature_map is not None and context.scores is not None  # a pointing weight needs language tokens
    _, height, width, _ = images.feature_map.shape
    error, hit, asked = pointing_loss(context.scores, (height, width), batch.points, batch.grid)
    metrics['pointing_loss'] = jnp.sum(error * asked), jnp.sum(asked)
    metrics['pointing'] = jnp.sum(hit * asked), jnp.sum(asked)
    # A row counts as much as its answer.
    total += c.auxiliary.pointing_weight * jnp.sum(error * asked * jnp.sum(weights, 1))
  return LossTerms(total, jnp.sum(weights), metrics)


def _classifier_loss(model: 'RT2', context: 'Context', batch: Batch, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  c, spec, (_, actions, mask), targets = model.config, model.config.action_spec, batch.windows(), None
  if train and c.label_smoothing:
    labels = spec.tokenize(actions[:, -1:])
    sharp = (spec.smooth_labels(labels, c.bin_smoothing) if c.bin_smoothing else
             jax.nn.one_hot(labels, spec.vocab_size))
    targets = optax.smooth_labels(sharp, c.label_smoothing)
  logits = model.action_logits(context, rngs)
  return action_loss(spec, logits[:, None], actions[:, -1:], mask[:, -1:], targets, train=train,
                     bin_smoothing=c.bin_smoothing if train else 0.0, decoding=c.decoding)


def _text_action_loss(model: 'RT2', context: 'Context', batch: Batch, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  """Return the loss over all text tokens, and metrics over bins.

  The end of the text is a target too.
  """
  c, spec, (_, actions, mask) = model.config, model.config.action_spec, batch.windows()
  actions, mask, ids = actions[:, -1:], mask[:, -1:], jnp.asarray(model.action_ids)
  targets = jnp.pad(ids[spec.tokenize(actions)[:, 0, 0]], ((0, 0), (0, 1)), constant_values=c.backbone.end_id)
  logits = model.text_logits(context, targets, rngs)
  bins = jnp.where(allowed_bins(spec.token_bins, spec.vocab_size), logits[:, :-1, ids], IMPOSSIBLE)
  metrics = action_loss(spec, bins[:, None], actions, mask, train=train).metrics
  counted = jnp.broadcast_to(mask[:, 0], targets.shape).astype(jnp.float32)
  loss = _cross_entropy(logits, targets, c.label_smoothing if train else 0.0)
  return LossTerms(jnp.sum(loss * counted), jnp.sum(counted), metrics)


def _cross_entropy(logits: Float[Array, '*B vocab'], labels: Int[Array, '*B'], smoothing: float) -> Float[Array, '*B']:
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  if not smoothing:
    return loss
  uniform = jax.nn.logsumexp(logits, -1) - jnp.mean(logits, -1)
  return (1 - smoothing) * loss + smoothing * uniform
