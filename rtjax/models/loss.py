"""What a model's loss gives the trainer, and the loss of models that predict one token per action dimension."""
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from rtjax.actions import ActionSpec

# The logit of a token that cannot be, such as a class that the field does not have. Its exponential is 0 in float32,
# and so is its gradient.
IMPOSSIBLE = -1e9


class LossTerms(NamedTuple):
  """What a model's loss gives the trainer.

  Attributes:
    total: sum of the loss over the targets that count.
    weight: how many there are; the loss is `model.loss_scale(batch) * total / weight`.
    metrics: name -> (sum, count), scalars or vectors; an average is sum / count over as many batches as one likes.
  """
  total: jax.Array
  weight: jax.Array
  metrics: dict[str, tuple[jax.Array, jax.Array]]


def action_loss(spec: ActionSpec, logits: Float[Array, 'B T KF V'], actions: Float[Array, 'B T F A'],
                mask: Bool[Array, 'B T F'], targets: Float[Array, 'B T F K V'] | None = None, *,
                train: bool, smoothing: float = 0.0, decoding: Literal['argmax', 'mean'] = 'argmax') -> LossTerms:
  """Cross-entropy of the recorded actions' tokens, summed over those that count.

  Args:
    mask: which actions count.
    targets: probabilities to learn in place of the recorded tokens (distillation).
    train: leaves out all metrics but the accuracy.
    smoothing: spreads the recorded tokens over neighbouring bins, see `ActionSpec.smoothed`; 0 does not.
    decoding: what `l1` judges, see `ActionSpec.decode`.
  """
  labels = spec.tokenize(actions)  # [B, T, F, K]
  logits = logits.reshape(*labels.shape, -1)
  counted = jnp.broadcast_to(mask[..., None], labels.shape).astype(jnp.float32)
  if targets is None and smoothing:
    targets = spec.smoothed(labels, smoothing)
  cross_entropy = (optax.softmax_cross_entropy_with_integer_labels(logits, labels) if targets is None else
                   optax.softmax_cross_entropy(logits, targets))
  total, count = jnp.sum(cross_entropy * counted), jnp.sum(counted)
  predicted = jnp.argmax(logits, -1).astype(jnp.int32)
  right = (predicted == labels) * counted
  metrics = {'accuracy': (jnp.sum(right), count)}
  if not train:
    error = jnp.abs(spec.decode(logits, decoding) - actions) * mask[..., None]
    numbers = jnp.broadcast_to(mask[..., None], error.shape).astype(jnp.float32)
    metrics |= {
        'accuracy_per_token': (right.sum((0, 1)).reshape(-1), counted.sum((0, 1)).reshape(-1)),
        'accuracy_per_step': (right.sum((0, 2, 3)), counted.sum((0, 2, 3))),
        'l1': (error.sum((0, 1, 2)), numbers.sum((0, 1, 2)))}
  return LossTerms(total, count, metrics)
