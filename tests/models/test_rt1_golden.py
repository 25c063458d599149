"""RT-1 against the official TensorFlow code, on the same weights and inputs."""
import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import golden_rt1

from rtjax import actions
from rtjax.models.layers.convolution import dense_conv
from rtjax.models.layers.transformer import attention_mask
from rtjax.models.parameters import named
from rtjax.models.rt1 import RT1
from rtjax.observation import Batch, observe
from rtjax.pretrained import tf_rt1


@pytest.fixture(scope='module')
def model(shared) -> RT1:
  return golden_rt1.model(shared)


@pytest.fixture(scope='module')
def forward(shared):
  return np.load(shared / 'parity/rt1_tf/train_forward.npz')


def close(value, expected, atol, rtol=0.0):
  np.testing.assert_allclose(np.asarray(value), expected, atol=atol, rtol=rtol)


# These two find the stage that differs when test_forward fails.
@pytest.mark.slow
def test_stages(shared, model):
  golden = np.load(shared / 'parity/rt1_tf/stages.npz')
  images, instruction = jnp.asarray(golden['image']), jnp.asarray(golden['embedding'])
  encoder = model.image_encoder

  @jax.jit
  def run(images, instruction):
    normalized = encoder.normalize(images)
    features = encoder(images, instruction)
    weights = model.token_learner.weights(features.reshape(2, -1, features.shape[-1]))
    tokens = model.encode_frames(observe(images[:, None], instruction))[:, 0]
    return normalized[:, ::6, ::6], encoder.encoder(normalized, instruction), features, weights, tokens

  names = ('normalized', 'features_net', 'features', 'token_weights', 'tokens')
  for name, value, tolerance in zip(names, run(images, instruction), (1e-5, 1e-3, 1e-3, 5e-4, 1e-3), strict=True):
    close(value, golden[name], tolerance)


@pytest.mark.slow
def test_every_block(shared, model):
  """The output of each of the 26 blocks: means over the image, and its middle pixel."""
  golden = np.load(shared / 'parity/rt1_tf/stages.npz')
  images, instruction = jnp.asarray(golden['image']), jnp.asarray(golden['embedding'])
  encoder = model.image_encoder.encoder
  names = [str(name) for name in golden['stage_names']]
  films = [name for name in names if name.startswith('film_')]

  @jax.jit
  def run(x):
    x = dense_conv(x, encoder.stem[...], 2, ((0, 1), (0, 1)))
    x = encoder.stem_norm(x, swish=True)
    found = []
    for block in encoder.blocks:
      x = block(x, instruction)
      found.append(x)
    return found

  outputs = run(model.image_encoder.normalize(images))
  assert len(films) >= 26
  for index, x in enumerate(outputs):
    assert f'film_{index:02d}' in films
    close(x.mean((1, 2)), golden[f'mean_film_{index:02d}'], 1e-3)
    close(x[:, x.shape[1] // 2, x.shape[2] // 2], golden[f'mid_film_{index:02d}'], 1e-3)


def test_forward(model, forward):
  logits = np.asarray(model(forward['image'], forward['embedding']))
  close(logits, forward['logits'], 2e-3)
  np.testing.assert_array_equal(logits.argmax(-1), forward['predictions'])
  tokens = jax.jit(model.encode_frames)(observe(forward['image'], forward['embedding']))
  close(tokens, forward['image_tokens'], 3e-3)
  raw = actions.RT1.unpack(actions.RT1.detokenize(logits.argmax(-1).astype(np.int32)))
  for name in actions.RT1.names:
    np.testing.assert_array_equal(raw[name][:, -1], forward[f'last_{name}'], err_msg=name)


def test_attention_mask(forward):
  np.testing.assert_array_equal(attention_mask(6, 8, 11), forward['attention_mask'].astype(bool))


@pytest.mark.slow
def test_loss_and_gradients(shared, model, forward):
  """The official loss and the gradient of every trainable variable."""
  model = copy.copy(model)
  model.config = dataclasses.replace(model.config, loss='official')
  raw = actions.RT1.pack({name: forward[f'action_{name}'] for name in actions.RT1.names})
  np.testing.assert_array_equal(actions.RT1.tokenize(raw), forward['labels'])
  batch = jax.device_put(Batch(observe(forward['image'], forward['embedding']), raw[:, :, None],
                                          np.ones((2, 6, 1), bool)))
  graphdef, params, rest = nnx.split(model, nnx.Param, ...)

  @jax.jit
  def run(params):
    model = nnx.merge(graphdef, params, rest)
    terms = model.loss(batch, train=False)
    return model.loss_scale(2) * terms.total / terms.weight

  loss, gradients = jax.value_and_grad(run)(params)
  close(loss, forward['loss'], 0, 1e-5)
  by_name = {'/'.join(map(str, path)): v[...] for path, v in nnx.to_flat_state(gradients)}
  place_of = {golden_rt1.PREFIX + name: place for name, place in tf_rt1.variables(8)}
  names = [str(name) for name in forward['grad_names']]
  assert {place_of[name] for name in names} == set(by_name)
  for index, name in enumerate(names):
    gradient = np.asarray(by_name[place_of[name]])
    norm = np.linalg.norm(gradient)
    if forward['grad_norms'][index] > 1e-8:
      close(norm, forward['grad_norms'][index], 1e-4, 1e-3)
    close(golden_rt1.probe(shared, name, gradient), forward['grad_probes'][index], 1e-4, 1e-3)
  for name in map(str, forward['no_grad_names']):
    assert place_of[name] not in by_name


@pytest.mark.slow
def test_batch_norm_in_training(shared, model):
  """Features of a batch on its own statistics, and all moving statistics after it."""
  golden = np.load(shared / 'parity/rt1_tf/bn_train.npz')
  images, instruction = jnp.asarray(golden['image']), jnp.asarray(golden['embedding'])
  graphdef, state = nnx.split(model)

  @jax.jit
  def run(state):
    model = nnx.merge(graphdef, state)
    features = model.image_encoder(images, instruction, train=True)
    return features, nnx.state(model)

  features, state = run(state)
  close(features, golden['features'], 5e-2)
  moved = named(nnx.merge(graphdef, state))
  place_of = {golden_rt1.PREFIX + name: place for name, place in tf_rt1.variables(8)}
  assert len(golden['stat_names']) == 156
  for index, name in enumerate(map(str, golden['stat_names'])):
    close(golden_rt1.probe(shared, name, moved[place_of[name]]), golden['stat_probes'][index], 5e-3)
  close(moved['image_encoder/encoder/stem_norm/mean'], golden['stem_moving_mean'], 1e-5)
  close(moved['image_encoder/encoder/stem_norm/var'], golden['stem_moving_variance'], 1e-5)


def test_drop_connect_rates(shared, model):
  golden = np.load(shared / 'parity/rt1_tf/bn_train.npz')
  ours = [block.drop_rate for block in model.image_encoder.encoder.blocks if block.residual]
  rates = [rate for rate in golden['drop_rates'] if rate > 0]
  close(ours, rates, 1e-6)
