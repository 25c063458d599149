"""Loss of models that predict one token per action dimension."""
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from rtjax.actions import ActionSpec
from rtjax.models.base import Decoding, LossTerms

# Logit of an impossible token, such as a class that the field does not have. Its exponential is 0 in float32, and so is
# its gradient.
IMPOSSIBLE = -1e9


def action_loss(spec: ActionSpec, logits: Float[Array, 'B T KF V'], actions: Float[Array, 'B T F A'],
                mask: Bool[Array, 'B T F'], target_probabilities: Float[Array, 'B T F K V'] | None = None, *,
                train: bool, bin_smoothing: float = 0.0, decoding: Decoding = 'argmax') -> LossTerms:
  """Return the summed cross-entropy of the recorded actions' tokens.

  Args:
    mask: True where an action counts.
    target_probabilities: targets in place of the recorded tokens, for distillation.
    train: leave out all metrics but the accuracy.
    bin_smoothing: spread of the recorded tokens over neighbouring bins, see `ActionSpec.smooth_labels`; 0 = none.
    decoding: of the actions in the metric `l1`, see `ActionSpec.decode`.
  """
  labels = spec.tokenize(actions)  # [B, T, F, K]
  logits = logits.reshape(*labels.shape, -1)
  counted = jnp.broadcast_to(mask[..., None], labels.shape).astype(jnp.float32)
  targets = target_probabilities
  if targets is None and bin_smoothing:
    targets = spec.smooth_labels(labels, bin_smoothing)
  cross_entropy = (optax.softmax_cross_entropy_with_integer_labels(logits, labels) if targets is None else
                   optax.softmax_cross_entropy(logits, targets))
  total, count = jnp.sum(cross_entropy * counted), jnp.sum(counted)
  correct = (jnp.argmax(logits, -1).astype(jnp.int32) == labels) * counted
  metrics = {'accuracy': (jnp.sum(correct), count)}
  if not train:
    error = jnp.abs(spec.decode(logits, decoding) - actions) * mask[..., None]
    numbers = jnp.broadcast_to(mask[..., None], error.shape).astype(jnp.float32)
    metrics |= {
        'accuracy_per_token': (correct.sum((0, 1)).reshape(-1), counted.sum((0, 1)).reshape(-1)),
        'accuracy_per_frame': (correct.sum((0, 2, 3)), counted.sum((0, 2, 3))),
        'l1': (error.sum((0, 1, 2)), numbers.sum((0, 1, 2)))}
  return LossTerms(total, count, metrics)
