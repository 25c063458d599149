"""Co-training: pictures with text beside robot episodes, so that a model that learns to act keeps its language.

A batch then holds both: the arrays of rtjax.data, and those of rtjax.data.image_text as `text_images`, `text_prompts`,
`text_targets` and `text_kinds`. Either may be missing. The loss is

    L = L_action + weight * L_text        each a mean: over actions, and over the tokens of the texts

(RT-2, section 3.2, mixes the data; weighing the losses is the same in expectation, and needs no resampling.)
"""
from typing import Any

import jax.numpy as jnp

from rtjax.models.backbones.t5 import PAD

Batch = dict[str, Any]


def balance(batch: Batch, weight: float) -> Batch:
  """The batch with `text_weights` float32 [b, M], what the loss of each token of a text is multiplied by.

  The trainer divides a batch's loss by the number of its actions, or of its tokens where there is no action. Done for
  the whole batch before that is cut into parts, so that their number changes nothing.

  Args:
    weight: of the texts' mean loss where the batch holds actions too.
  """
  if 'text_targets' not in batch:
    return batch
  there = (batch['text_targets'] != PAD).astype(jnp.float32)
  if 'actions' in batch:
    there = there * weight * jnp.sum(batch['mask'][:, -1]) / jnp.maximum(jnp.sum(there), 1)
  return batch | {'text_weights': there}
