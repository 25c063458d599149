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
from rtjax.models.rt2 import fast
from rtjax.models.rt2.decoding import allowed_bins
from rtjax.observation import Batch, TextBatch

if TYPE_CHECKING:
  from rtjax.models.rt2.model import RT2, Context


def robot_loss(model: 'RT2', batch: Batch, *, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  """Return the loss of the newest frame's actions, which are one target.

  It is the mean over the tokens of F actions. Those after the end of the episode add nothing, so that a token counts
  the same in every window; a chunk that FAST writes is a whole.
  """
  c, (observation, _, mask) = model.config, batch.windows()
  model = _insulated(model) if c.knowledge_insulation else model
  context = model.encode_observation(observation, rngs)
  terms = _ACTION_LOSSES[c.action_head](model, context, batch, train, rngs)
  terms.metrics.pop('accuracy_per_frame', None)  # there is one frame
  counted = mask[:, -1, 0].astype(jnp.float32)
  count, total = jnp.sum(counted), terms.total
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
  terms = action_loss(spec, logits[:, None], actions[:, -1:], mask[:, -1:], targets, train=train,
                      bin_smoothing=c.bin_smoothing if train else 0.0, decoding=c.decoding)
  return terms._replace(total=terms.total / logits.shape[1])


def _text_action_loss(model: 'RT2', context: 'Context', batch: Batch, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  """Return the loss over all text tokens, and metrics over bins.

  The end of the text is a target too, where all F actions were recorded.
  """
  c, spec, (_, actions, mask) = model.config, model.config.action_spec, batch.windows()
  actions, mask, ids = actions[:, -1:], mask[:, -1:], jnp.asarray(model.action_ids)
  words = ids[spec.tokenize(actions)].reshape(len(actions), -1)
  targets = jnp.pad(words, ((0, 0), (0, 1)), constant_values=c.backbone.end_id)
  logits = model.text_logits(context, targets, rngs)
  bins = jnp.where(allowed_bins(spec.token_bins * c.horizon, spec.vocab_size), logits[:, :-1, ids], IMPOSSIBLE)
  metrics = action_loss(spec, bins[:, None], actions, mask, train=train).metrics
  counted = jnp.append(jnp.repeat(mask[:, 0], spec.num_tokens, 1), mask[:, 0, -1:], 1).astype(jnp.float32)
  loss = _cross_entropy(logits, targets, c.label_smoothing if train else 0.0)
  return LossTerms(jnp.sum(loss * counted) / targets.shape[1], jnp.sum(counted), metrics)


def _fast_loss(model: 'RT2', context: 'Context', batch: Batch, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  """Return the loss of a chunk's tokens and of their end.

  Outside of training, chunks are also generated: the metric `l1` compares their numbers.
  """
  c, codec, (_, recorded, masks) = model.config, model.config.action_codec, batch.windows()
  ids, actions, mask = jnp.append(model.action_ids, c.backbone.end_id), recorded[:, -1], masks[:, -1]
  assert codec is not None  # there are no ids without one
  tokens = jnp.pad(fast.encode(codec, fast.repeat_last(actions, mask)), ((0, 0), (0, 1)), constant_values=codec.size)
  is_target = jnp.arange(tokens.shape[1]) <= jnp.sum(tokens < codec.size, 1, keepdims=True)
  targets = jnp.where(is_target, ids[tokens], c.backbone.pad_id)
  logits = model.text_logits(context, targets, rngs)
  counted = (is_target & mask[:, :1]).astype(jnp.float32)
  loss = _cross_entropy(logits, targets, c.label_smoothing if train else 0.0)
  correct = (jnp.argmax(logits[..., ids], -1) == tokens) * counted
  metrics = {'accuracy': (jnp.sum(correct), jnp.sum(counted))}
  if not train:
    error = jnp.abs(c.decode(model.action_logits(context)) - actions) * mask[..., None]
    metrics['l1'] = jnp.sum(error, (0, 1)), jnp.sum(jnp.broadcast_to(mask[..., None], error.shape), (0, 1))
  total = jnp.sum(loss * counted / jnp.sum(is_target, 1, keepdims=True))
  return LossTerms(total, jnp.sum(counted), metrics)


_ACTION_LOSSES = {'classifier': _classifier_loss, 'text': _text_action_loss, 'fast': _fast_loss}


def _insulated(model: 'RT2') -> 'RT2':
  """Return the model with a backbone that no gradient reaches.

  Gradients pass through it, on their way to queries and further tokens of the prefix.
  """
  graphdef, *states = nnx.split(model, lambda path, _: path[0] == 'backbone', ...)
  return nnx.merge(graphdef, jax.lax.stop_gradient(states[0]), states[1])


def _cross_entropy(logits: Float[Array, '*B vocab'], labels: Int[Array, '*B'], smoothing: float) -> Float[Array, '*B']:
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  if not smoothing:
    return loss
  uniform = jax.nn.logsumexp(logits, -1) - jnp.mean(logits, -1)
  return (1 - smoothing) * loss + smoothing * uniform
