"""Auxiliary parts of RT-2 on tiny networks: grounded tokens, waypoint, pointing."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import tiny_rt2
from helpers.compiled import Compiled
from helpers.tiny_rt2 import GROUNDED, compiled, randomised

from rtjax.models.backbones.t5 import PAD
from rtjax.observation import Batch


def words(model, prompts):
  """Return the sum of each prompt's embeddings at the scale of one."""
  embedded = [model.backbone.embed_text(row[row != PAD][None])[0] for row in jnp.asarray(prompts)]
  return jnp.stack([row.sum(0) / np.sqrt(len(row)) for row in embedded])


def feature_map(model, images):
  vision = Compiled(model.backbone.vision)
  return vision.features(vision.preprocess(images))


@pytest.mark.parametrize('action_head', ['classifier', 'text'])
def test_grounded_tokens_predict_the_waypoint(action_head):
  config = dataclasses.replace(GROUNDED, action_head=action_head, window=2)
  model, batch = nnx.clone(randomised(config)), jax.device_put(tiny_rt2.robot_batch(config, 3))
  mean, std = np.array([1.0, 2.0, 3.0, 9.0]), np.array([0.5, 1.0, 2.0, 1.0])
  model.set_normalization(lambda name: {'proprioception': (mean, std)}[name])
  with pytest.raises(ValueError, match="the batch has no 'waypoints'"):
    compiled(model, 'loss', batch, train=True)
  waypoints = jax.random.normal(jax.random.key(0), (3, 2, 3))
  terms = compiled(model, 'loss', dataclasses.replace(batch, waypoints=waypoints), train=True)
  pooling, observation = model.language_pooling, batch.observation
  features = pooling.add_coordinates(feature_map(model, observation.images[:, 1]))
  grounded = model.grounding_projection(pooling(features, words(model, observation.prompt)))
  np.testing.assert_allclose(grounded, compiled(model, 'encode_observation', observation).grounded, atol=1e-5)
  squared = jnp.square(
      model.waypoint.linear(grounded.reshape(3, -1)) - (waypoints[:, 1] - mean[:3]) / std[:3]).mean(-1)
  expected = terms.metrics['action_loss'][0] + 10 * squared.sum()
  np.testing.assert_allclose(terms.total, expected, rtol=1e-4)


@pytest.mark.parametrize('size', [0, 5])
def test_classifiers_read_grounded_tokens_and_state(size):
  model = nnx.clone(randomised(dataclasses.replace(GROUNDED, proprioception_size=size)))
  observation = jax.device_put(tiny_rt2.robot_batch(model.config, 2).observation)
  states = jax.random.normal(jax.random.key(1), (2, 1, size)) if size else None
  context = compiled(model, 'encode_observation', dataclasses.replace(observation, proprioception=states))
  mask = context.memory.mask
  assert mask.shape[1] == 4 + model.config.prompt_length + bool(size) + 2 and mask[:, -2:].all()
  residual = model.grounding_residual
  logits, inputs = compiled(model, 'action_logits', context), context.grounded.reshape(2, -1)
  inputs = inputs if states is None else jnp.concatenate([inputs, context.state], -1)
  added = residual.out(jax.nn.gelu(residual.hidden(inputs)))
  residual.out.kernel[...] *= 0
  residual.out.bias[...] *= 0
  difference = logits - compiled(model, 'action_logits', context)
  np.testing.assert_allclose(difference, jnp.einsum('bd,kdv->bkv', added, model.classifier.kernel[...]), atol=1e-5)
  assert np.abs(difference).max() > 0.1


@pytest.fixture
def pointing():
  """Three prompts, and {row: (column, row of the cell)} of the two that point."""
  cells = {1: (1, 0), 2: (0, 1)}
  batch = tiny_rt2.text_batch(GROUNDED, 3)
  return dataclasses.replace(batch, points=np.array([(-1, -1), *cells.values()], np.int32)), cells


def test_the_first_language_token_attends_to_the_cell_to_point_at(pointing):
  batch, cells = pointing
  batch = jax.device_put(batch)
  model = randomised(GROUNDED)
  silent = randomised(dataclasses.replace(GROUNDED, auxiliary=dataclasses.replace(
      GROUNDED.auxiliary, pointing_weight=0.0)))
  terms, without = (compiled(m, 'loss', Batch(text=batch), train=True) for m in (model, silent))
  pooling = model.language_pooling
  features = pooling.add_coordinates(feature_map(model, batch.images))
  weights = np.asarray(jax.nn.softmax(pooling.scores(features, words(model, batch.prompts))[:, 0])).reshape(3, 4, 4)
  errors, hits = {}, 0
  for number, (column, row) in cells.items():
    errors[number] = -np.log(weights[number, 2 * row:2 * row + 2, 2 * column:2 * column + 2].sum())
    down, across = np.unravel_index(weights[number].argmax(), (4, 4))
    hits += (across // 2, down // 2) == (column, row)
  np.testing.assert_allclose(terms.metrics['pointing_loss'], (sum(errors.values()), 2), rtol=1e-4)
  assert terms.metrics['pointing'] == (hits, 2)
  counts = batch.weights.sum(1)  # a row counts as much as its answer
  np.testing.assert_allclose(terms.total - without.total, sum(errors[row] * counts[row] for row in cells), rtol=1e-3)
  assert terms.weight == without.weight and 'pointing' not in without.metrics


@pytest.mark.parametrize('grid', [0, 5])
def test_a_grid_that_is_unknown_or_finer_than_the_feature_map(pointing, grid):
  batch, _ = pointing
  model = randomised(GROUNDED)
  model.check_text(batch)
  message = rf'grid of \[{grid}\] cells across, expected 1 to 4, .*--model\.auxiliary\.pointing-weight 0'
  wrong = dataclasses.replace(batch, grid=np.array([grid, 2, grid], np.int32))  # the first row does not point
  with pytest.raises(ValueError, match=message):
    model.check_text(wrong)
  with_grid = dataclasses.replace(batch, grid=np.array([grid, 2, 2], np.int32))
  model.check_text(with_grid)
