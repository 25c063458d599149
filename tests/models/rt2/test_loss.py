"""Losses of RT-2 against sums by hand: action horizon, ends of episodes, knowledge insulation."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import rt2_training, tiny_rt2
from helpers.tiny_rt2 import compiled, randomised

from rtjax.models.backbones.t5 import END
from rtjax.models.loss import IMPOSSIBLE
from rtjax.observation import Batch

HORIZON = 3
CLASSIFIER, TEXT = (dataclasses.replace(config, horizon=HORIZON) for config in (tiny_rt2.TINY, tiny_rt2.TEXT))
INSULATED = rt2_training.with_text_config(
    dataclasses.replace(tiny_rt2.TINY, horizon=2, proprioception_size=3, knowledge_insulation=True), encoder_layers=1,
    decoder_layers=1)
# Windows with all their actions, at the last step of an episode, one step before, and of padding.
MASK = np.array([[[1, 1, 1]], [[1, 0, 0]], [[1, 1, 0]], [[0, 0, 0]]], bool)


def batch_at_the_end(config):
  return jax.device_put(dataclasses.replace(tiny_rt2.robot_batch(config, 4), action_mask=MASK))


def bits(logits, label):
  """Cross-entropy of one row of logits."""
  scores = np.asarray(logits, np.float64)
  return np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label]


def test_actions_after_the_end_of_an_episode_add_nothing_to_the_classifiers_loss():
  model, batch = randomised(CLASSIFIER), batch_at_the_end(CLASSIFIER)
  logits = compiled(model, 'logits', batch.observation).reshape(4, HORIZON, 3, -1)
  labels = tiny_rt2.SPEC.tokenize(np.asarray(batch.actions))[:, 0]
  expected = sum(bits(logits[b, f, k], labels[b, f, k]) / (3 * HORIZON)
                 for b in range(4) for f in range(HORIZON) for k in range(3) if MASK[b, 0, f])
  terms = compiled(model, 'loss', batch, train=True)
  np.testing.assert_allclose(terms.total, expected, rtol=1e-5)
  assert terms.weight == 3 and terms.metrics['accuracy'][1] == 3 * MASK.sum()
  noisy = dataclasses.replace(batch, actions=jnp.where(MASK[..., None], batch.actions, 0.3))
  assert compiled(model, 'loss', noisy, train=True).total == terms.total


def test_actions_after_the_end_of_an_episode_add_nothing_to_the_loss_of_text():
  """The end of the text is a target of complete chunks alone."""
  model, batch = randomised(TEXT), batch_at_the_end(TEXT)
  labels = tiny_rt2.SPEC.tokenize(np.asarray(batch.actions)).reshape(4, -1)
  targets = np.pad(np.array(TEXT.action_ids)[labels], ((0, 0), (0, 1)), constant_values=END)
  encoded = compiled(model, 'encode_observation', batch.observation)
  logits = compiled(model, 'text_logits', encoded, jnp.asarray(targets))
  recorded = [(b, position) for b in range(4) for position in range(10)
              if (MASK[b, 0, position // 3] if position < 9 else MASK[b, 0].all())]
  expected = sum(bits(logits[b, position], targets[b, position]) / 10 for b, position in recorded)
  terms = compiled(model, 'loss', batch, train=True)
  np.testing.assert_allclose(terms.total, expected, rtol=1e-5)
  assert terms.weight == 3 and terms.metrics['accuracy'][1] == len(recorded) - 1


@pytest.mark.parametrize('config', [CLASSIFIER, TEXT], ids=['classifier', 'text'])
def test_losses_of_parts_of_a_batch_add_up(config):
  model, batch = randomised(config), batch_at_the_end(config)
  parts = [compiled(model, 'loss', jax.tree.map(lambda leaf, at=at: leaf[at:at + 2], batch), train=True)
           for at in (0, 2)]
  whole = compiled(model, 'loss', batch, train=True)
  np.testing.assert_allclose(sum(part.total for part in parts), whole.total, rtol=1e-5)
  assert sum(part.weight for part in parts) == whole.weight


def gradients(config, batch):
  def loss(model):
    return model.loss(batch, train=True).total
  found = nnx.jit(nnx.grad(loss))(randomised(config))
  return {'/'.join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(found)}


def test_insulated_gradients_are_zero_in_the_backbone_and_the_usual_ones_elsewhere():
  batch = tiny_rt2.robot_batch(INSULATED, 3)
  state = np.random.default_rng(0).normal(size=(3, 1, 3)).astype(np.float32)
  batch = jax.device_put(dataclasses.replace(
      batch, observation=dataclasses.replace(batch.observation, proprioception=state)))
  usual = gradients(dataclasses.replace(INSULATED, knowledge_insulation=False), batch)
  insulated = gradients(INSULATED, batch)
  backbone = {name for name in usual if name.startswith('backbone/')}
  assert {name.split('/')[0] for name in usual if name not in backbone} == {'classifier', 'state'}
  for name in usual:
    if name in backbone:
      assert not insulated[name].any()
      assert usual[name].any() or 'token_head' in name
    else:
      np.testing.assert_allclose(insulated[name], usual[name], rtol=1e-3, atol=1e-4 * np.abs(usual[name]).max())
  texts = jax.device_put(Batch(text=tiny_rt2.text_batch(INSULATED, 3)))
  assert all(gradient.any() for name, gradient in gradients(INSULATED, texts).items() if name in backbone)


def test_logits_of_a_horizon_are_those_of_each_action_alone():
  """Queries see earlier ones: those of the first f actions give action f, by its own classifiers."""
  model = randomised(CLASSIFIER)
  observation = batch_at_the_end(CLASSIFIER).observation
  encoded = compiled(model, 'encode_observation', observation)
  logits = compiled(model, 'action_logits', encoded)
  head = model.classifier
  for f in range(HORIZON):
    queries = jnp.broadcast_to(head.queries[...][:3 * f + 3], (4, 3 * f + 3, 16))
    hidden = np.asarray(compiled(model.backbone, 'decode', queries, encoded.memory))
    for k in range(3 * f, 3 * f + 3):
      expected = hidden[:, k] @ np.asarray(head.kernel[...][k]) + np.asarray(head.bias[...][k])
      np.testing.assert_allclose(logits[:, k], expected, rtol=1e-4, atol=1e-4)


def test_text_of_a_horizon_is_the_likeliest_action_after_action():
  model = randomised(TEXT)
  encoded = compiled(model, 'encode_observation', batch_at_the_end(TEXT).observation)
  logits = np.asarray(compiled(model, 'action_logits', encoded))
  ids, written = np.array(TEXT.action_ids), np.zeros((4, 9), np.int32)
  for position in range(9):
    following = compiled(model, 'text_logits', encoded, jnp.asarray(written))[:, position]
    bins = tiny_rt2.SPEC.token_bins[position % 3]
    scores = np.asarray(following)[:, ids[:bins]]
    np.testing.assert_allclose(logits[:, position, :bins], scores, rtol=1e-4, atol=1e-4)
    assert (logits[:, position, bins:] == IMPOSSIBLE).all()
    written[:, position] = ids[scores.argmax(1)]
