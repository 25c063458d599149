"""Heads and layers without effect are removed first; the others stay."""
import dataclasses

import numpy as np
import pytest
from helpers.compiled import Compiled
from helpers.tiny_rt1 import TINY, tiny_batch

from rtjax.models import build, from_values, parameters
from rtjax.training import pruning

CONFIG = dataclasses.replace(TINY, layers=3, heads=4)
LAYER = 'transformer/layers/'


@pytest.fixture(scope='module')
def batches():
  return [tiny_batch(CONFIG, 2, seed) for seed in range(2)]


@pytest.fixture(scope='module')
def values():
  return {name: np.array(value) for name, value in parameters.named(build(CONFIG, seed=0)).items()}


def test_heads_without_output_are_removed_and_nothing_changes(values, batches):
  dead = {0: (1, 3), 1: (0, 1), 2: (2, 3)}
  values = {name: value.copy() for name, value in values.items()}
  for layer, heads in dead.items():
    values[f'{LAYER}{layer}/attention/out/kernel'][list(heads)] = 0
  model = from_values(CONFIG, values)
  encoded = pruning.encode(model, batches)
  importance = pruning.head_importance(model, encoded)
  for layer, heads in dead.items():
    assert sorted(np.argsort(importance[layer])[:2]) == sorted(heads)
    assert (importance[layer][list(heads)] == 0).all()
  smaller = pruning.drop_heads(model, 2, importance)
  assert smaller.config.heads == 2
  inputs = batches[0].observation.images, batches[0].observation.instruction
  np.testing.assert_allclose(smaller(*inputs), model(*inputs), atol=1e-5)


def test_importance_is_the_slope_of_the_loss(values, batches):
  """The reference is a difference quotient in one head's output."""
  model = from_values(CONFIG, values)
  encoded = pruning.encode(model, batches)[:1]
  importance = pruning.head_importance(model, encoded)
  weight = float(batches[0].action_mask.sum() * CONFIG.action_spec.num_tokens)
  for layer, head in [(0, 0), (2, 3)]:
    losses = []
    for factor in (1.05, 0.95):
      scaled = {name: value.copy() for name, value in values.items()}
      scaled[f'{LAYER}{layer}/attention/out/kernel'][head] *= factor
      losses.append(pruning.loss(from_values(CONFIG, scaled), encoded) * weight)
    np.testing.assert_allclose(importance[layer, head], abs(losses[0] - losses[1]) / 0.1, rtol=0.05, atol=1e-3)


def test_layers_that_pass_their_input_on_are_removed(values, batches):
  values = {name: value.copy() for name, value in values.items()}
  for part in ('attention/out/kernel', 'attention/out/bias', 'feed_forward/kernel', 'feed_forward/bias'):
    values[f'{LAYER}1/{part}'][:] = 0
  # Labels that the network itself predicts: every other layer is needed for them.
  model = from_values(CONFIG, values)
  spec = CONFIG.action_spec
  labelled = []
  for batch in batches:
    tokens = np.asarray(model(batch.observation.images, batch.observation.instruction)).argmax(-1).astype(np.int32)
    middle = np.asarray(spec.detokenize(tokens)) + 1e-4  # not on the bin's lower bound
    labelled.append(dataclasses.replace(batch, actions=middle[:, :, None].astype(np.float32)))
  encoded = pruning.encode(model, labelled)
  smaller, kept = pruning.drop_layers(model, 2, encoded)
  assert kept == [0, 2] and smaller.config.layers == 2
  np.testing.assert_allclose(pruning.loss(smaller, encoded), pruning.loss(model, encoded), rtol=1e-5)
  inputs = batches[0].observation.images, batches[0].observation.instruction
  np.testing.assert_allclose(smaller(*inputs), model(*inputs), atol=1e-5)


def test_loss_is_that_of_the_model(values, batches):
  model = from_values(CONFIG, values)
  terms = [Compiled(model).loss(batch, train=False) for batch in batches]
  expected = sum(t.total for t in terms) / sum(t.weight for t in terms)
  np.testing.assert_allclose(pruning.loss(model, pruning.encode(model, batches)), expected, rtol=1e-5)


def test_bad_numbers(values, batches):
  model = from_values(CONFIG, values)
  with pytest.raises(ValueError, match='heads is 5, expected 1 to 4'):
    pruning.drop_heads(model, 5, np.zeros((3, 4)))
  with pytest.raises(ValueError, match='layers is 0, expected 1 to 3'):
    pruning.drop_layers(model, 0, pruning.encode(model, batches))
  with pytest.raises(ValueError, match='empty'):
    pruning.encode(model, [])


def test_prune_to_a_smaller_network(values, batches):
  model = from_values(CONFIG, values)
  smaller, report = pruning.prune(model, TINY, batches)
  assert (smaller.config.layers, smaller.config.heads) == (TINY.layers, TINY.heads)
  assert 'layers 3 -> 2' in report and 'heads  4 -> 2' in report
  assert f'{pruning.loss(smaller, pruning.encode(model, batches)):.3f}' in report
  with pytest.raises(ValueError, match='head_size 8 and width 16, this model 4 and 16'):
    pruning.prune(model, dataclasses.replace(TINY, head_size=4), batches)
