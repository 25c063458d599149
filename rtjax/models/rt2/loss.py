"""What RT-2 learns from: recorded actions, and texts about pictures."""
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from rtjax.language import prompts
from rtjax.models.backbones.t5 import PAD
from rtjax.models.loss import IMPOSSIBLE, LossTerms, action_loss
from rtjax.models.rt2.decoding import END, allowed_tokens

Batch = Mapping[str, Any]


def newest_prompt(embeddings: Array) -> Int[Array, 'B L']:
  """Ids of the newest frame's prompt."""
  return (embeddings if embeddings.ndim == 2 else embeddings[:, -1]).astype(jnp.int32)


def of_actions(model: Any, batch: Batch, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  """The newest frame's action; one counts as one, of however many tokens. See RT2.loss."""
  c = model.config
  states = batch.get('proprioception')
  state = model.told(None if states is None else states[:, -1])
  context = model.context(model.see(batch['images'], rngs), batch['frames'], newest_prompt(batch['embeddings']), rngs,
                          state)
  terms = (_by_heads if c.act == 'heads' else _as_text)(model, context, batch, train, rngs)
  terms.metrics.pop('accuracy_per_step', None)  # there is but one
  count = jnp.sum(batch['mask'][:, -1].astype(jnp.float32))
  total = terms.total * (count / jnp.maximum(terms.weight, 1))
  metrics = terms.metrics | {'action_loss': (total, count)}
  if model.waypoint is not None:
    error, metrics['waypoint_distance'] = _waypoints(model, context.found, batch)
    total += c.waypoint_weight * error
  return LossTerms(total, count, metrics)


def of_texts(model: Any, batch: Batch, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  """Answers to prompts about pictures. Unless in training, they are written too, and `answers` has the share of each
  kind that is right word for word."""
  images, asked, targets = batch['text_images'], batch['text_prompts'], batch['text_targets']
  seen = model.see(images[:, None], rngs)
  context = model.context(seen, None, asked, rngs)
  logits = model.read(context, targets, rngs)
  loss = _cross_entropy(logits, targets, model.config.label_smoothing if train else 0.0)
  there, weights = (targets != PAD).astype(jnp.float32), batch['text_weights']
  total = jnp.sum(loss * weights)
  metrics = {'text_loss': (jnp.sum(loss * there), jnp.sum(there)),
             'text_accuracy': (jnp.sum((jnp.argmax(logits, -1) == targets) * there), jnp.sum(there))}
  if not train:
    written = model.write(images, asked, jax.random.key(0), length=targets.shape[1])
    right = jnp.all(written == targets, 1)
    kinds = jax.nn.one_hot(batch['text_kinds'], len(prompts.TASKS)) * jnp.any(there, 1)[:, None]
    metrics['answers'] = jnp.sum(kinds * right[:, None], 0), jnp.sum(kinds, 0)
  if model.config.words_weight:
    missed, told = _words(model, seen.tokens[:, 0], asked, targets, batch['text_kinds'])
    metrics['words_loss'] = jnp.sum(missed * told), jnp.sum(told)
    total += model.config.words_weight * jnp.sum(missed * jnp.sum(weights, 1))
  if model.config.point_weight:
    missed, hit, told = _pointing(context.scores, seen.pieces.shape[1:3], model.config.point_cells, batch)
    metrics['pointing_loss'] = jnp.sum(missed * told), jnp.sum(told)
    metrics['pointing'] = jnp.sum(hit * told), jnp.sum(told)
    total += model.config.point_weight * jnp.sum(missed * told * jnp.sum(weights, 1))
  return LossTerms(total, jnp.sum(weights), metrics)


def _words(model: Any, visual: Float[Array, 'B N D'], asked: Int[Array, 'B L'], targets: Int[Array, 'B M'],
           kinds: Int[Array, ' B']) -> tuple[Float[Array, ' B'], Float[Array, ' B']]:
  """How badly visual tokens tell by themselves, through the head of words, which words are said of the picture, and of
  which rows that is asked: captions and the names of things to point at, which are true of it.

  A word is as likely as all tokens together make it. The classification of SuperClass (Huang et al. 2024), pooled over
  patches after their logits and not before, so that a small thing's patch need not speak for the picture.
  """
  caption, point = (kinds == prompts.TASKS.index(kind) for kind in ('caption', 'point'))
  said = jnp.where(caption[:, None], _present(model, targets), _present(model, asked) * point[:, None])
  likely = jax.nn.log_softmax(jax.nn.logsumexp(model.text.logits(visual), 1))
  return -jnp.sum(said * likely, -1) / jnp.maximum(jnp.sum(said, -1), 1), (caption | point).astype(jnp.float32)


def _pointing(scores: Float[Array, 'B n P'], pieces: tuple[int, int], cells: int, batch: Batch
              ) -> tuple[Float[Array, ' B'], Float[Array, ' B'], Float[Array, ' B']]:
  """How little of the first token that is asked for is from the cell where the thing is (the negative log of its
  share), whether the piece it looks at most is in there, and of which rows that is asked.

  The first, so that the others remain free for what a thing is to be compared with. What looks at 'the red cube' when
  asked to point does so when asked to pick it up: the words are the same.
  """
  if 'text_points' not in batch:
    raise ValueError("the batch has no 'text_points', which this network learns from: take batches of "
                     'rtjax.data.image_text, or set --model.point-weight 0.')
  told = batch['text_points'][:, :1] >= 0
  column, row = (jnp.arange(size) * cells // size == batch['text_points'][:, axis, None]
                 for axis, size in enumerate(pieces[::-1]))
  inside = (row[:, :, None] & column[:, None]).reshape(len(told), -1) | ~told
  likely = jax.nn.log_softmax(scores[:, 0])
  missed = -jax.nn.logsumexp(jnp.where(inside, likely, -jnp.inf), 1)
  hit = jnp.take_along_axis(inside, jnp.argmax(likely, 1, keepdims=True), 1)
  return missed, hit[:, 0].astype(jnp.float32), told[:, 0].astype(jnp.float32)


def _present(model: Any, ids: Int[Array, 'B M']) -> Float[Array, 'B V']:
  """1 for each word of a text."""
  rows = jnp.arange(len(ids))[:, None]
  there = ((ids != PAD) & (ids != END)).astype(jnp.float32)
  return jnp.zeros((len(ids), model.config.text.vocab_size)).at[rows, ids].max(there)


def _by_heads(model: Any, context: Any, batch: Batch, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  c, spec, recorded, targets = model.config, model.config.action_spec, batch['actions'][:, -1:], None
  if train and c.label_smoothing:
    labels = spec.tokenize(recorded)
    sharp = spec.smooth_labels(labels, c.smoothing) if c.smoothing else jax.nn.one_hot(labels, spec.vocab_size)
    targets = optax.smooth_labels(sharp, c.label_smoothing)
  logits = model.act(context, rngs)
  return action_loss(spec, logits[:, None], recorded, batch['mask'][:, -1:], targets, train=train,
                     smoothing=c.smoothing if train else 0.0, decoding=c.decoding)


def _as_text(model: Any, context: Any, batch: Batch, train: bool, rngs: nnx.Rngs | None) -> LossTerms:
  """All tokens of the vocabulary compete, and the end of the text is learned too; metrics are those of the bins."""
  spec, recorded, mask = model.config.action_spec, batch['actions'][:, -1:], batch['mask'][:, -1:]
  ids = jnp.asarray(model.action_ids)
  said = jnp.pad(ids[spec.tokenize(recorded)[:, 0, 0]], ((0, 0), (0, 1)), constant_values=END)
  logits = model.read(context, said, rngs)
  bins = jnp.where(allowed_tokens(spec.token_bins, spec.vocab_size), logits[:, :-1, ids], IMPOSSIBLE)
  metrics = action_loss(spec, bins[:, None], recorded, mask, train=train).metrics
  counted = jnp.broadcast_to(mask[:, 0], said.shape).astype(jnp.float32)
  loss = _cross_entropy(logits, said, model.config.label_smoothing if train else 0.0)
  return LossTerms(jnp.sum(loss * counted), jnp.sum(counted), metrics)


def _waypoints(model: Any, found: Float[Array, 'B n D'], batch: Batch) -> tuple[Array, tuple[Array, Array]]:
  """The squared error of what the tokens asked for tell, and the distance, each summed over the actions."""
  if 'waypoints' not in batch:
    raise ValueError("the batch has no 'waypoints', which this network learns: say --pipeline.waypoints and train on "
                     'datasets whose adapters name proprioception, or set --model.waypoint-weight 0.')
  squared, distance = model.waypoint.errors(found[:, None], batch['waypoints'][:, -1:])
  counted = batch['mask'][:, -1].astype(jnp.float32)
  return jnp.sum(squared * counted), (jnp.sum(distance * counted), jnp.sum(counted))


def _cross_entropy(logits: Float[Array, '*b V'], labels: Int[Array, '*b'], smoothing: float) -> Float[Array, '*b']:
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  if not smoothing:
    return loss
  uniform = jax.nn.logsumexp(logits, -1) - jnp.mean(logits, -1)
  return (1 - smoothing) * loss + smoothing * uniform
