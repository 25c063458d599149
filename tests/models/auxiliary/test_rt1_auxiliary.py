"""Auxiliary parts of RT-1, one by one, on tiny networks; by default they do not exist."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.compiled import Compiled
from helpers.tiny_rt1 import TINY, observed, tiny_batch

from rtjax import actions, configs, models
from rtjax.models import RT1Config, build, parameters
from rtjax.models.auxiliary.config import AuxiliaryConfig
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.models.loss import action_loss
from rtjax.policies.policy import Policy
from rtjax.training import initialize, state

DENSE = EfficientNetConfig(width=0.2, depth=0.2, head=160, stages=(
    Stage(3, 1, 48, 1, 2, dense=True), Stage(3, 2, 48, 1, 1, dense=True)))
ALL = dataclasses.replace(
    TINY, auxiliary=AuxiliaryConfig(language_tokens=2, waypoint_weight=10.0), proprioception_size=7,
    normalize_instruction=True, bin_smoothing=2.0, decoding='mean', encoder=DENSE)


def inputs(batch):
  o = batch.observation
  return o.images, o.instruction, o.proprioception


@functools.cache
def built(config):
  return build(config, seed=0)


@pytest.fixture(scope='module')
def gradients():
  """{variable: largest gradient} of the training loss with all auxiliary parts."""
  graphdef, params, stats, constants = state.split(built(ALL))

  @jax.jit
  def gradient(params, batch):
    def loss(params):
      terms = state.merge(graphdef, params, stats, constants).loss(batch, train=True)
      return terms.total / terms.weight
    return jax.grad(loss)(params)
  found = parameters.named_leaves(gradient(params, tiny_batch(ALL, 3)))
  return {name: np.abs(leaf).max() for name, leaf in found.items()}


def test_off_by_default():
  params = nnx.state(models.abstract(RT1Config()))
  names = ['/'.join(map(str, path)) for path, _ in nnx.to_flat_state(params)]
  auxiliary = 'language_pooling', 'state/', 'waypoint', 'instruction/', 'conv/norm'
  assert not [name for name in names if any(part in name for part in auxiliary)]
  assert configs.get('rt1').model == RT1Config(dtype='bfloat16')


def test_waypoints_without_a_weight_change_nothing():
  """With and without waypoints in the batch, the loss traces to the same program."""
  model = built(TINY)
  batch = jax.device_put(tiny_batch(TINY, 2))

  def program(waypoints):
    return str(jax.make_jaxpr(lambda observation: nnx.clone(model).loss(dataclasses.replace(
        batch, observation=observation, waypoints=waypoints), train=False).total)(batch.observation))
  assert program(None) == program(jnp.ones((2, TINY.window, 3)))


@pytest.mark.parametrize('part', ['language_pooling/query/kernel', 'language_pooling/coordinates/kernel',
                                  'state/project/kernel', 'waypoint/linear/kernel',
                                  'image_encoder/encoder/blocks/0/conv',
                                  'image_encoder/encoder/blocks/1/film/mult/kernel', 'image_encoder/film/add/kernel'])
def test_gradient_reaches(gradients, part):
  assert gradients[part] > 1e-7


def test_dense_block_is_a_convolution_with_norm_film_and_residual():
  model = built(ALL)
  block = model.image_encoder.encoder.blocks[1]
  random = np.random.default_rng(0)
  kernel = np.asarray(block.conv[...])
  x, condition = (random.normal(size=size).astype(np.float32) for size in ((2, 7, 6, kernel.shape[2]), (2, 512)))
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  convolved = sum(padded[:, i:i + 7, j:j + 6] @ kernel[i, j] for i in range(3) for j in range(3))
  normed = convolved / np.sqrt(1 + 1e-3)  # new moving averages: mean 0, variance 1
  y = x + normed / (1 + np.exp(-normed))
  add, mult = (np.asarray(layer(jnp.asarray(condition)))[:, None, None] for layer in (block.film.add, block.film.mult))
  np.testing.assert_allclose(block(jnp.asarray(x), jnp.asarray(condition)), (1 + mult) * y + add, atol=1e-4)


def test_language_tokens_are_weighted_means_of_features_with_coordinates():
  pooling = built(ALL).language_pooling
  random = np.random.default_rng(0)
  features, instruction = random.normal(size=(2, 3, 5, 16)), random.normal(size=(2, 512))
  placed = np.asarray(pooling.add_coordinates(jnp.asarray(features, jnp.float32)))
  corner = features[:, 0, 4] + np.array([-1, 1]) @ np.asarray(pooling.coordinates.kernel[...])
  np.testing.assert_allclose(placed[:, 4], corner, atol=1e-5)
  weights = np.asarray(jax.nn.softmax(pooling.scores(jnp.asarray(placed), jnp.asarray(instruction, jnp.float32))))
  normed = (placed - placed.mean(-1, keepdims=True)) / np.sqrt(placed.var(-1, keepdims=True) + 1e-6)
  queries = np.einsum('be,end->bnd', instruction, np.asarray(pooling.query.kernel[...]).reshape(512, 2, 16))
  scores = np.exp(np.einsum('bnd,bNd->bnN', queries, normed) / 4)
  np.testing.assert_allclose(weights, scores / scores.sum(-1, keepdims=True), rtol=1e-4)
  np.testing.assert_allclose(pooling(jnp.asarray(placed), jnp.asarray(instruction, jnp.float32)),
                             np.einsum('bnN,bNd->bnd', weights, placed), atol=1e-5)


def test_waypoints_add_their_mean_squared_error():
  """Mean cross-entropy + weight * mean squared error, over the real frames."""
  batch = tiny_batch(ALL, 3)
  batch.observation.frame_mask[0, :2] = batch.action_mask[0, :2] = False
  batch.waypoints[0, :2] = 1e6
  model = models.from_values(ALL, parameters.named(built(ALL)))
  mean, std = np.array([1.0, 2, 3, 9, 9, 9, 9]), np.array([0.5, 1, 2, 9, 9, 9, 9])
  model.set_normalization(lambda name: (mean, std) if name == 'proprioception' else (np.zeros(512), np.ones(512)))
  batch = jax.device_put(batch)
  compiled = Compiled(model)
  terms = compiled.loss(batch, train=False)
  tokens = compiled.encode_frames(batch.observation)
  plain = compiled.loss_from_frames(tokens, batch, train=False)
  predicted = np.asarray(model.waypoint.linear(tokens.reshape(3, ALL.window, -1)))
  error = (predicted - (np.asarray(batch.waypoints) - mean[:3]) / std[:3])[np.asarray(batch.observation.frame_mask)]
  np.testing.assert_allclose(terms.total / terms.weight, plain.total / plain.weight
                             + ALL.auxiliary.waypoint_weight * np.mean(error ** 2), rtol=1e-4)
  total, count = terms.metrics['waypoint_distance']
  assert count == batch.observation.frame_mask.sum()
  np.testing.assert_allclose(total / count, np.linalg.norm(error * std[:3], axis=-1).mean(), rtol=1e-4)
  with pytest.raises(ValueError, match=r"no 'waypoints'.*--pipeline\.waypoints"):
    model.loss(dataclasses.replace(batch, waypoints=None), train=False)


def test_instructions_are_centred_and_scaled_by_one_number():
  random = np.random.default_rng(0)
  raw = random.normal(1, [0.1] * 256 + [0.0] * 256, (400, 512))
  found = {'data': {'steps': 400, 'instruction': {'mean': raw.mean(0), 'std': raw.std(0)},
                    'proprioception': {'mean': np.zeros(7), 'std': np.ones(7)}}}
  model = models.from_values(ALL, parameters.named(built(ALL)))
  initialize.set_normalization(model, found)
  normalized = np.asarray(model.instruction(jnp.asarray(raw, jnp.float32)))
  np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(np.sqrt(np.mean(normalized ** 2)), 1, rtol=1e-4)
  np.testing.assert_allclose(normalized[:, :256].std(), np.sqrt(2), rtol=1e-3)


def test_smoothed_targets_are_gaussians_cut_at_the_bounds():
  spec = actions.ActionSpec((actions.classes('mode', 3), actions.ActionField('move', 1, bins=6)), vocab_size=8)
  tokens = np.array([[2, 0], [1, 4]])
  expected = np.zeros((2, 2, 8))
  for row, (mode, move) in enumerate(tokens):
    expected[row, 0, mode] = 1
    weights = [np.exp(-0.5 * ((bin - move) / 1.5) ** 2) for bin in range(6)]
    expected[row, 1, :6] = np.array(weights) / sum(weights)
  np.testing.assert_allclose(spec.smooth_labels(jnp.asarray(tokens), 1.5), expected, atol=1e-6)


def test_smoothed_loss_is_that_of_numpy():
  random = np.random.default_rng(0)
  spec = actions.ARM_7D
  logits = random.normal(size=(2, 3, 7, 256)).astype(np.float32)
  low, high = spec.bounds
  recorded = random.uniform(low, high, (2, 3, 1, 7)).astype(np.float32)
  mask = random.random((2, 3, 1)) > 0.3
  terms = action_loss(spec, jnp.asarray(logits), jnp.asarray(recorded), jnp.asarray(mask), train=True,
                      bin_smoothing=3.0)
  shares = np.exp(-0.5 * ((np.arange(256) - spec.tokenize(recorded)[..., None]) / 3.0) ** 2)
  shares /= shares.sum(-1, keepdims=True)
  likely = logits[:, :, None] - np.log(np.exp(logits).sum(-1))[:, :, None, :, None]
  np.testing.assert_allclose(terms.total, -np.sum((shares * likely).sum(-1) * mask[..., None]), rtol=1e-4)
  given = action_loss(spec, jnp.asarray(logits), jnp.asarray(recorded), jnp.asarray(mask), jnp.asarray(shares),
                      train=True, bin_smoothing=9.0)
  np.testing.assert_allclose(given.total, terms.total, rtol=1e-5)  # a teacher's probabilities are not smoothed


def test_mean_of_the_bins():
  """Halfway between two bins; the same in NumPy, JAX and compiled; classes take the likeliest."""
  spec = actions.ActionSpec((actions.classes('mode', 3), actions.ActionField('move', 2, -1.0, 1.0, bins=5)), 8)
  logits = np.full((3, 8), -100.0, np.float32)
  logits[0, 1] = logits[1, 2] = logits[1, 3] = logits[2, 4] = 0.0
  logits[1, 7] = 50.0  # a token beyond the field's bins
  np.testing.assert_allclose(spec.decode(logits, 'mean'), [0, 1, 0, 0.25, 1], atol=1e-6)
  random = np.random.default_rng(0).normal(size=(4, 7, 256)).astype(np.float32)
  expected = actions.ARM_7D.decode(random, 'mean')
  np.testing.assert_allclose(jax.jit(lambda x: actions.ARM_7D.decode(x, 'mean'))(random), expected, atol=1e-7)
  np.testing.assert_array_equal(actions.ARM_7D.decode(random), actions.ARM_7D.detokenize(random.argmax(-1)))


def test_state_token_is_the_last_of_its_frame():
  model, batch = nnx.clone(built(ALL)), tiny_batch(ALL, 2)
  mean, std = np.arange(7.0), np.arange(7) + 0.5
  model.state.set(mean, std)
  observation = jax.device_put(batch.observation)
  encode = Compiled(model).encode_frames
  tokens = np.asarray(encode(observation))
  weights, bias = np.asarray(model.state.project.kernel[...]), np.asarray(model.state.project.bias[...])
  expected = (batch.observation.proprioception - mean) / std @ weights + bias
  np.testing.assert_allclose(tokens[:, :, -1], expected, atol=1e-5)
  other = dataclasses.replace(observation, proprioception=observation.proprioception + 1)
  np.testing.assert_array_equal(tokens[:, :, :-1], encode(other)[:, :, :-1])


def test_state_of_a_wrong_shape():
  batch = jax.device_put(tiny_batch(ALL, 2))
  images, instruction, state = inputs(batch)
  with pytest.raises(ValueError, match='proprioception has shape None, expected'):
    built(ALL)(images, instruction)
  with pytest.raises(ValueError, match='expected None'):
    built(TINY)(images, instruction, state)
  with pytest.raises(ValueError, match=r'uses the robot state.*--pipeline.proprioception'):
    built(ALL).loss(observed(batch, proprioception=None), train=False)
  with pytest.raises(ValueError, match=r'has 3 numbers, the model takes 7: set --model\.proprioception-size 3'):
    built(ALL).set_normalization(lambda name: (np.zeros(3 if name == 'proprioception' else 512),) * 2)


@pytest.mark.parametrize('padding', ['back', 'front'])
def test_policy_with_the_robot_state_equals_the_window(padding):
  config = dataclasses.replace(ALL, padding=padding)
  model, batch = build(config, seed=0), tiny_batch(config, 1)
  images, instruction, state = inputs(batch)
  policy = Policy(model)
  policy.reset(embedding=instruction[0, 0])
  steps = [policy.step(images[0, t], proprioception=state[0, t]) for t in range(config.window)]
  expected = model(images, instruction[:, 0], state)
  np.testing.assert_allclose(steps[-1].logits, np.asarray(expected)[0, -1], atol=1e-4)


def test_policy_decodes_the_mean_and_reports_the_likeliest_tokens():
  policy = Policy(built(ALL))
  images, instruction, state = inputs(tiny_batch(ALL, 1))
  policy.reset(embedding=instruction[0, 0])
  out = policy.step(images[0, 0], proprioception=state[0, 0])
  logits = np.asarray(built(ALL)(images[:, :1], instruction[:, :1], state[:, :1]))[0, 0]
  np.testing.assert_allclose(out.plan[0], ALL.action_spec.decode(logits, 'mean'), atol=1e-5)
  np.testing.assert_array_equal(out.tokens, out.logits.argmax(-1))
  share = np.asarray(jax.nn.softmax(out.logits[0]))
  np.testing.assert_allclose(out.action['translation'][0], share @ np.linspace(-0.05, 0.05, 256), atol=1e-5)


@pytest.mark.slow
def test_preset_learns_a_batch():
  """The full network of rt1_tabletop, trained on eight frames."""
  config = configs.get('rt1_tabletop')
  assert models.config_from_json(models.config_to_json(config.model)) == config.model
  model = build(config.model, seed=0)
  graphdef, params, stats, constants = state.split(model)
  batch = jax.device_put(tiny_batch(config.model, 8, size=(96, 96)))
  adam = optax.adam(2e-3)

  @jax.jit
  def step(params, moments):
    def loss(params):
      terms = state.merge(graphdef, params, stats, constants).loss(batch, train=True)
      return terms.total / terms.weight, terms.metrics
    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, moments = adam.update(grads, moments)
    return optax.apply_updates(params, updates), moments, value, metrics
  moments, losses = adam.init(params), []
  for _ in range(60):
    params, moments, value, metrics = step(params, moments)
    losses.append(float(value))
  assert losses[-1] < 0.5 * losses[0]
  total, count = metrics['waypoint_distance']
  assert total / count < 0.7
