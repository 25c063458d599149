"""What is added to the paper's RT-1, piece by piece, on tiny networks; off by default it must not be there at all."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.tiny_rt1 import TINY, tiny_batch

from rtjax import actions, configs, models
from rtjax.models import RT1Config, build, parameters
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, Stage
from rtjax.models.loss import action_loss
from rtjax.policies.policy import Policy
from rtjax.training import initialize, state

DENSE = EfficientNetConfig(width=0.2, depth=0.2, head=160, stages=(
    Stage(3, 1, 48, 1, 2, dense=True), Stage(3, 2, 48, 1, 1, dense=True)))
ALL = dataclasses.replace(TINY, queried_tokens=2, proprioception_size=7, standardize_embeddings=True,
                          waypoint_weight=10.0, smoothing=2.0, decoding='mean', encoder=DENSE)


def batch_of(config, size=3):
  random = np.random.default_rng(5)
  shape = size, config.window
  return tiny_batch(config, size) | {'waypoints': random.normal(size=(*shape, 3)).astype(np.float32),
                                     'proprioception': random.normal(size=(*shape, 7)).astype(np.float32)}


@functools.cache
def built(config):
  return build(config, rngs=nnx.Rngs(0))


@pytest.fixture(scope='module')
def gradients():
  """{variable: largest gradient} of the training loss with all additions."""
  graphdef, params, stats, constants = state.split(built(ALL))

  @jax.jit
  def gradient(params, batch):
    def loss(params):
      terms = state.merge(graphdef, params, stats, constants).loss(batch, train=True)
      return terms.total / terms.weight
    return jax.grad(loss)(params)
  return {name: np.abs(leaf).max() for name, leaf in state.named(gradient(params, batch_of(ALL))).items()}


def test_off_by_default():
  params = nnx.state(models.abstract(RT1Config()))
  names = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(params)]
  additions = 'queried', 'state/', 'waypoint', 'embedding', 'conv/norm'
  assert not [name for name in names if any(part in name for part in additions)]
  assert configs.get('rt1').model == RT1Config()


def test_a_batch_with_waypoints_changes_nothing_where_they_do_not_count():
  """Traced with and without, the loss is the same program."""
  model = built(TINY)
  batch = tiny_batch(TINY, 2)

  def program(batch):
    return str(jax.make_jaxpr(lambda images, rest: nnx.clone(model).loss(rest | {'images': images}, train=False).total)(
        batch['images'], {k: v for k, v in batch.items() if k in ('embeddings', 'actions', 'mask', 'frames')}))
  assert program(batch) == program(batch | {'waypoints': np.ones((2, TINY.window, 3), np.float32)})


@pytest.mark.parametrize('part', ['tokenizer/queried/query/kernel', 'tokenizer/queried/coordinates/kernel',
                                  'state/project/kernel', 'waypoint/linear/kernel', 'tokenizer/encoder/blocks/0/conv',
                                  'tokenizer/encoder/blocks/1/film/mult/kernel', 'tokenizer/film/add/kernel'])
def test_the_gradient_reaches(gradients, part):
  assert gradients[part] > 1e-7


def test_dense_block_is_a_convolution_with_norm_film_and_residual():
  model = built(ALL)
  block = model.tokenizer.encoder.blocks[1]
  random = np.random.default_rng(0)
  kernel = np.asarray(block.conv[...])
  x, condition = (random.normal(size=size).astype(np.float32) for size in ((2, 7, 6, kernel.shape[2]), (2, 512)))
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  convolved = sum(padded[:, i:i + 7, j:j + 6] @ kernel[i, j] for i in range(3) for j in range(3))
  normed = convolved / np.sqrt(1 + 1e-3)  # new moving averages: mean 0, variance 1
  y = x + normed / (1 + np.exp(-normed))
  add, mult = (np.asarray(layer(jnp.asarray(condition)))[:, None, None] for layer in (block.film.add, block.film.mult))
  np.testing.assert_allclose(block(jnp.asarray(x), jnp.asarray(condition)), (1 + mult) * y + add, atol=1e-4)


def test_queried_tokens_are_weighted_means_of_placed_features():
  queried = built(ALL).tokenizer.queried
  random = np.random.default_rng(0)
  features, embeddings = random.normal(size=(2, 3, 5, 16)), random.normal(size=(2, 512))
  placed = np.asarray(queried.place(jnp.asarray(features, jnp.float32)))
  corner = features[:, 0, 4] + np.array([-1, 1]) @ np.asarray(queried.coordinates.kernel[...])
  np.testing.assert_allclose(placed[:, 4], corner, atol=1e-5)
  weights = np.asarray(jax.nn.softmax(queried.scores(jnp.asarray(placed), jnp.asarray(embeddings, jnp.float32))))
  normed = (placed - placed.mean(-1, keepdims=True)) / np.sqrt(placed.var(-1, keepdims=True) + 1e-6)
  queries = np.einsum('be,end->bnd', embeddings, np.asarray(queried.query.kernel[...]).reshape(512, 2, 16))
  scores = np.exp(np.einsum('bnd,bNd->bnN', queries, normed) / 4)
  np.testing.assert_allclose(weights, scores / scores.sum(-1, keepdims=True), rtol=1e-4)
  np.testing.assert_allclose(queried(jnp.asarray(placed), jnp.asarray(embeddings, jnp.float32)),
                             np.einsum('bnN,bNd->bnd', weights, placed), atol=1e-5)


def test_waypoints_add_their_mean_squared_error():
  """Mean cross-entropy + weight * mean squared error, over the frames that are there."""
  batch = batch_of(ALL)
  batch['frames'][0, :2] = batch['mask'][0, :2] = False
  batch['waypoints'][0, :2] = 1e6
  model = models.from_values(ALL, parameters.named(built(ALL)))
  mean, std = np.array([1.0, 2, 3, 9, 9, 9, 9]), np.array([0.5, 1, 2, 9, 9, 9, 9])
  model.standardize(lambda name: (mean, std) if name == 'proprioception' else (np.zeros(512), np.ones(512)))
  batch = jax.tree.map(jnp.asarray, batch)
  terms = model.loss(batch, train=False)
  tokens = model.tokens(batch['images'], batch['embeddings'], batch['proprioception'])
  plain = model.judge(model.decode(tokens), batch, False)
  found = np.asarray(model.waypoint.linear(tokens.reshape(3, ALL.window, -1)))
  missed = (found - (np.asarray(batch['waypoints']) - mean[:3]) / std[:3])[np.asarray(batch['frames'])]
  np.testing.assert_allclose(terms.total / terms.weight,
                             plain.total / plain.weight + ALL.waypoint_weight * np.mean(missed ** 2), rtol=1e-4)
  total, count = terms.metrics['waypoint_distance']
  assert count == batch['frames'].sum()
  np.testing.assert_allclose(total / count, np.linalg.norm(missed * std[:3], axis=-1).mean(), rtol=1e-4)
  with pytest.raises(ValueError, match=r"no 'waypoints'.*--pipeline\.waypoints"):
    model.loss({name: array for name, array in batch.items() if name != 'waypoints'}, train=False)


def test_instruction_embeddings_are_centred_and_scaled_by_one_number():
  random = np.random.default_rng(0)
  raw = random.normal(1, [0.1] * 256 + [0.0] * 256, (400, 512))
  found = {'data': {'steps': 400, 'embedding': {'mean': raw.mean(0), 'std': raw.std(0)},
                    'proprioception': {'mean': np.zeros(7), 'std': np.ones(7)}}}
  model = models.from_values(ALL, parameters.named(built(ALL)))
  initialize.standardize(model, found)
  seen = np.asarray(model.tokenizer.embedding(jnp.asarray(raw, jnp.float32)))
  np.testing.assert_allclose(seen.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose(np.sqrt(np.mean(seen ** 2)), 1, rtol=1e-4)
  np.testing.assert_allclose(seen[:, :256].std(), np.sqrt(2), rtol=1e-3)


def test_smoothed_targets_are_gaussians_cut_at_the_bounds():
  spec = actions.ActionSpec((actions.classes('mode', 3), actions.ActionField('move', 1, bins=6)), vocab_size=8)
  tokens = np.array([[2, 0], [1, 4]])
  expected = np.zeros((2, 2, 8))
  for row, (mode, move) in enumerate(tokens):
    expected[row, 0, mode] = 1
    weights = [np.exp(-0.5 * ((bin - move) / 1.5) ** 2) for bin in range(6)]
    expected[row, 1, :6] = np.array(weights) / sum(weights)
  np.testing.assert_allclose(spec.smoothed(jnp.asarray(tokens), 1.5), expected, atol=1e-6)


def test_smoothed_loss_is_that_of_numpy():
  random = np.random.default_rng(0)
  spec = actions.ARM_7D
  logits = random.normal(size=(2, 3, 7, 256)).astype(np.float32)
  low, high = (np.concatenate([getattr(f, side) for f in spec.fields]) for side in ('low', 'high'))
  recorded = random.uniform(low, high, (2, 3, 1, 7)).astype(np.float32)
  mask = random.random((2, 3, 1)) > 0.3
  terms = action_loss(spec, jnp.asarray(logits), jnp.asarray(recorded), jnp.asarray(mask), train=True, smoothing=3.0)
  shares = np.exp(-0.5 * ((np.arange(256) - spec.tokenize(recorded)[..., None]) / 3.0) ** 2)
  shares /= shares.sum(-1, keepdims=True)
  likely = logits[:, :, None] - np.log(np.exp(logits).sum(-1))[:, :, None, :, None]
  np.testing.assert_allclose(terms.total, -np.sum((shares * likely).sum(-1) * mask[..., None]), rtol=1e-4)
  given = action_loss(spec, jnp.asarray(logits), jnp.asarray(recorded), jnp.asarray(mask), jnp.asarray(shares),
                      train=True, smoothing=9.0)
  np.testing.assert_allclose(given.total, terms.total, rtol=1e-5)  # a teacher's probabilities stay as they are


def test_mean_of_the_bins():
  """Halfway between two bins; the same in NumPy, JAX and compiled; classes take the likeliest."""
  spec = actions.ActionSpec((actions.classes('mode', 3), actions.ActionField('move', 2, -1.0, 1.0, bins=5)), 8)
  logits = np.full((3, 8), -100.0, np.float32)
  logits[0, 1] = logits[1, 2] = logits[1, 3] = logits[2, 4] = 0.0
  logits[1, 7] = 50.0  # a token that the field does not have
  np.testing.assert_allclose(spec.decode(logits, 'mean'), [0, 1, 0, 0.25, 1], atol=1e-6)
  random = np.random.default_rng(0).normal(size=(4, 7, 256)).astype(np.float32)
  expected = actions.ARM_7D.decode(random, 'mean')
  np.testing.assert_allclose(jax.jit(lambda x: actions.ARM_7D.decode(x, 'mean'))(random), expected, atol=1e-7)
  np.testing.assert_array_equal(actions.ARM_7D.decode(random), actions.ARM_7D.detokenize(random.argmax(-1)))


def test_the_state_token_is_the_last_of_its_frame():
  model, batch = nnx.clone(built(ALL)), batch_of(ALL, 2)
  mean, std = np.arange(7.0), np.arange(7) + 0.5
  model.state.set(mean, std)
  images, embeddings, states = (jnp.asarray(batch[name]) for name in ('images', 'embeddings', 'proprioception'))
  tokens = np.asarray(model.tokens(images, embeddings, states))
  weights, bias = np.asarray(model.state.project.kernel[...]), np.asarray(model.state.project.bias[...])
  np.testing.assert_allclose(tokens[:, :, -1], (states - mean) / std @ weights + bias, atol=1e-5)
  np.testing.assert_array_equal(tokens[:, :, :-1], model.tokens(images, embeddings, states + 1)[:, :, :-1])


def test_the_state_is_asked_for_by_shape():
  batch = jax.tree.map(jnp.asarray, batch_of(ALL, 2))
  inputs = batch['images'], batch['embeddings']
  with pytest.raises(ValueError, match='proprioception has shape None, expected'):
    built(ALL)(*inputs)
  with pytest.raises(ValueError, match='expected None'):
    built(TINY)(*inputs, batch['proprioception'])
  with pytest.raises(ValueError, match=r"looks at the robot's state.*--pipeline.proprioception"):
    built(ALL).loss({k: v for k, v in batch.items() if k != 'proprioception'}, train=False)
  with pytest.raises(ValueError, match=r'has 3 numbers, the network takes 7: say --model\.proprioception-size 3'):
    built(ALL).standardize(lambda name: (np.zeros(3),) * 2 if name == 'proprioception' else (np.zeros(512),) * 2)


@pytest.mark.parametrize('padding', ['back', 'front'])
def test_policy_with_the_robots_state_equals_the_window(padding):
  config = dataclasses.replace(ALL, padding=padding)
  model, batch = build(config, rngs=nnx.Rngs(0)), batch_of(config, 1)
  policy = Policy(model)
  policy.reset(embedding=batch['embeddings'][0, 0])
  steps = [policy.step(batch['images'][0, t], proprioception=batch['proprioception'][0, t])
           for t in range(config.window)]
  whole = model(batch['images'], batch['embeddings'][:, 0], batch['proprioception'])
  np.testing.assert_allclose(steps[-1].logits, np.asarray(whole)[0, -1], atol=1e-4)


def test_policy_acts_by_the_mean_and_tells_the_likeliest_tokens():
  policy = Policy(built(ALL))
  batch = batch_of(ALL, 1)
  policy.reset(embedding=batch['embeddings'][0, 0])
  out = policy.step(batch['images'][0, 0], proprioception=batch['proprioception'][0, 0])
  first = (batch[name][:, :1] for name in ('images', 'embeddings', 'proprioception'))
  logits = np.asarray(built(ALL)(*first))[0, 0]
  np.testing.assert_allclose(out.plan[0], ALL.action_spec.decode(logits, 'mean'), atol=1e-5)
  np.testing.assert_array_equal(out.tokens, out.logits.argmax(-1))
  share = np.asarray(jax.nn.softmax(out.logits[0]))
  np.testing.assert_allclose(out.action['translation'][0], share @ np.linspace(-0.05, 0.05, 256), atol=1e-5)


def test_the_preset_learns_a_batch():
  """The network of rt1_tabletop, all of it, driven by the trainer's optimizer on eight frames."""
  config = configs.get('rt1_tabletop')
  assert RT1Config.from_dict(config.model.to_dict()) == config.model
  model = build(config.model, rngs=nnx.Rngs(0))
  graphdef, params, stats, constants = state.split(model)
  random = np.random.default_rng(0)
  batch = batch_of(dataclasses.replace(config.model, image_size=(96, 96)), 8) | {
      'images': random.integers(0, 256, (8, 1, 96, 96, 3), np.uint8)}
  batch = jax.tree.map(jnp.asarray, batch)
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
