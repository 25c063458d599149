"""RT-1-X against the public Flax code, on the same weights and inputs."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import golden_rt1_x

from rtjax import actions
from rtjax.models import RT1, parameters
from rtjax.models.layers.transformer import attention_mask
from rtjax.models.rt1 import RT1_X
from rtjax.observation import observe
from rtjax.pretrained import rt1_x
from rtjax.training import state as training_state


@pytest.fixture(scope='module')
def model(shared) -> RT1:
  return golden_rt1_x.model(shared)


@pytest.fixture(scope='module')
def forward(shared):
  return np.load(shared / 'parity/rt1_x/train_forward.npz')


def spec_of(case: str) -> actions.ActionSpec:
  """The spec of a tokenizer case such as 'v512_r2': 512 bins, world_vector in [-2, 2]."""
  bins, reach = (int(part[1:]) for part in case.split('_'))
  fields = [dataclasses.replace(f, bins=bins) if f.kind == 'continuous' else f for f in actions.RT1_X.fields]
  fields[1] = dataclasses.replace(fields[1], low=-reach, high=reach)
  return actions.ActionSpec(tuple(fields), bins)


@pytest.mark.parametrize('case', ['v512_r2', 'v512_r1', 'v256_r1'])
def test_tokenizer(shared, case):
  golden = np.load(shared / 'parity/rt1_x/tokenizer.npz')
  spec = spec_of(case)
  raw = spec.pack({name: golden[f'action/{name}'].astype(np.float32) for name in spec.names})
  np.testing.assert_array_equal(spec.tokenize(raw), golden[f'tokens/{case}'])
  np.testing.assert_array_equal(jax.jit(spec.tokenize)(raw), golden[f'tokens/{case}'])
  back = spec.unpack(spec.detokenize(golden[f'detokenize_tokens/{case}']))
  np.testing.assert_array_equal(back.pop('terminate_episode'), golden[f'policy_terminate/{case}'])
  for name, value in back.items():
    # One rounding apart: compiled code may multiply and add in one operation.
    np.testing.assert_allclose(value, golden[f'detokenize/{case}/{name}'], rtol=0, atol=5e-7, err_msg=name)
  every = np.repeat(np.arange(spec.vocab_size, dtype=np.int32)[:, None], spec.num_tokens, 1)
  assert np.abs(spec.tokenize(spec.detokenize(every)) - golden[f'roundtrip/{case}'])[:, 1:].max() <= 1


def test_attention_mask(shared):
  packed = np.load(shared / 'parity/rt1_x/stages.npz')['attention_mask_packed']
  expected = np.unpackbits(packed, axis=-1)[:, :1380].astype(bool)
  np.testing.assert_array_equal(attention_mask(15, 81, 11, images_see_actions=False), expected)


# It finds the stage that differs when test_forward fails.
@pytest.mark.slow
def test_stages(shared, model):
  golden = np.load(shared / 'parity/rt1_x/stages.npz')
  image_encoder = model.image_encoder

  @jax.jit
  def run(images, instruction):
    encoder, found = image_encoder.encoder, {}
    x = found['stem'] = encoder.stem_features(image_encoder.normalize(images))
    for index, block in enumerate(encoder.blocks):
      x = found[f'film_{index}'] = block(x, instruction)
    found['head'] = encoder.head_norm(encoder.head(x), swish=True)
    found['conv_1x1'] = image_encoder.conv(found['head'])
    found['film_out'] = image_encoder.film(found['conv_1x1'], instruction)
    return found, model.token_learner(found['film_out'].reshape(len(images), 100, -1))

  found, tokens = run(jnp.asarray(golden['image_uint8'][0]), jnp.asarray(golden['natural_language_embedding'][0]))
  strides = {'stem': 15, 'film_0': 15, 'film_1': 15, 'film_4': 8, 'film_7': 4, 'film_12': 3, 'film_17': 3, 'film_23': 2,
             'film_25': 2, 'head': 3, 'conv_1x1': 2, 'film_out': 2}
  for name, s in strides.items():
    np.testing.assert_allclose(found[name][:, ::s, ::s], golden[name], atol=2e-4, rtol=2e-4, err_msg=name)
  np.testing.assert_allclose(tokens, golden['image_tokens'][0], atol=1e-4)


@pytest.mark.parametrize('window', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_forward(model, forward, window):
  """Every logit of two windows of 15 frames, from the images."""
  forward = {name: array[window:window + 1] for name, array in forward.items()}
  logits = np.asarray(model(forward['image_uint8'], forward['natural_language_embedding']))
  np.testing.assert_allclose(logits, forward['action_logits'], atol=2e-3)
  np.testing.assert_array_equal(logits.argmax(-1), forward['action_logits'].argmax(-1))
  for reach in (1, 2):
    spec = spec_of(f'v512_r{reach}')
    labels = spec.tokenize(spec.pack({name: forward[f'action/{name}'].astype(np.float32) for name in spec.names}))
    np.testing.assert_array_equal(labels, forward[f'labels_range_{reach}'])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean((1, 2))
    np.testing.assert_allclose(loss, forward[f'loss_range_{reach}'], rtol=1e-5)


@pytest.mark.slow
def test_train_step(shared, model, forward):
  """One step of Adam with BatchNorm on the batch's statistics: all gradients, all moving averages."""
  golden = np.load(shared / 'parity/rt1_x/train_step.npz')
  observation = jax.device_put(observe(
      forward['image_uint8'][1:], forward['natural_language_embedding'][1:]))
  labels = forward['labels_range_1_jit'][1:]
  graphdef, params, batch_stats, constants = training_state.split(model)

  def loss(params):
    network = training_state.merge(graphdef, params, batch_stats, constants)
    logits = network.logits(observation, train=True)
    mean = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return mean, (logits, training_state.batch_stats_of(network))

  (value, (logits, moved)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
  np.testing.assert_allclose(value, golden['loss'], rtol=1e-5)
  np.testing.assert_allclose(logits, golden['action_logits'], atol=5e-3)
  optimizer = optax.adam(1e-4, eps=1e-7)
  updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
  updated = parameters.named_leaves(optax.apply_updates(params, updates))
  grads, moved = parameters.named_leaves(grads), parameters.named_leaves(moved)
  norms = dict(zip(golden['grad_paths'].tolist(), golden['grad_norms'], strict=True))
  compared = 0
  for theirs, ours in rt1_x.variables(RT1_X):
    if f'batch_stats/{theirs}' in golden:
      np.testing.assert_allclose(moved[ours], golden[f'batch_stats/{theirs}'], rtol=1e-3, atol=1e-4, err_msg=theirs)
      compared += 1
      continue
    norm = norms[f'params/{theirs}']
    np.testing.assert_allclose(np.linalg.norm(grads[ours]), norm, rtol=5e-3, atol=1e-5, err_msg=theirs)
    if f'grad/params/{theirs}' in golden:
      expected = golden[f'grad/params/{theirs}']
      np.testing.assert_allclose(grads[ours].reshape(expected.shape), expected, rtol=5e-3, atol=5e-3 * norm)
      if norm > 1e-6:
        stepped = golden[f'updated/params/{theirs}']
        np.testing.assert_allclose(updated[ours].reshape(stepped.shape), stepped, atol=2.5e-4)
    compared += 1
  assert compared == 735 == len(parameters.shapes(model)) - 2
