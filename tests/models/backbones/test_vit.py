"""ViT against the reference, and its properties."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import golden_huggingface
from helpers.golden_huggingface import close, hidden_states, pixels, run

from rtjax import models
from rtjax.models.backbones.vit import ViTConfig, sincos_position_embedding
from rtjax.models.layers.resize import cubic_weights

TINY = ViTConfig(image_size=(12, 8), patch=4, width=16, layers=2, heads=2, mlp_width=24, dropout=0.2)


@pytest.fixture(scope='module')
def tiny():
  return models.build(TINY, seed=0)


def test_positions_start_as_sines_of_row_and_column():
  table = sincos_position_embedding((3, 5), 18).reshape(3, 5, 18)
  assert len(np.unique(table.reshape(15, 18), axis=0)) == 15 and not table[..., 16:].any()
  np.testing.assert_allclose(table[..., :8], np.broadcast_to(table[:, :1, :8], (3, 5, 8)))  # the row's
  np.testing.assert_allclose(table[..., 8:], np.broadcast_to(table[:1, :, 8:], (3, 5, 10)))
  np.testing.assert_allclose(table[2, 0, [0, 4]], [np.sin(2), np.cos(2)], rtol=1e-6)
  model = models.build(TINY, seed=0)
  np.testing.assert_array_equal(model.positions[...][1:], sincos_position_embedding((3, 2), 16))


def image(seed: int = 0, size: tuple[int, int] = (12, 8)) -> jax.Array:
  return jax.random.uniform(jax.random.key(seed), (2, *size, 3), minval=-1)


@pytest.mark.parametrize('case', ['vit_in21k', 'vit_classifier'])
def test_golden(shared, case):
  model, golden = golden_huggingface.load(shared, case)
  states, tokens = run(model, hidden_states, pixels(golden))
  assert len(states) == model.config.layers + 1
  for i, state in enumerate(states):
    close(state, golden[f'hidden_{i}'], f'hidden_{i}')
  close(tokens, golden['last_hidden_state'], 'last_hidden_state')
  if case == 'vit_in21k':
    close(run(model, lambda m, x: m.pool(m(x)), pixels(golden)), golden['pooler_output'], 'pooler_output')
  else:
    close(run(model, lambda m, x: m.classify(m(x)), pixels(golden)), golden['logits'], 'logits')
  patches = run(model, lambda m, x: m.patches(m(x)), pixels(golden))
  close(patches, golden['last_hidden_state'][:, 1:], 'last_hidden_state')
  close(run(model, lambda m, x: m(x), pixels(golden, 'interp_pixel_values')), golden['interp_last_hidden_state'],
        'interp_last_hidden_state')
  np.testing.assert_allclose(model.preprocess(golden['image_uint8']), pixels(golden), atol=1e-6)  # already of that size


def test_epsilon_is_the_published_one(shared):
  """An error here is too small to show in the outputs."""
  assert golden_huggingface.load(shared, 'vit_in21k')[0].norm.epsilon == 1e-12


@pytest.mark.parametrize('interpolation, name', [('linear', 'vit_bilinear'), ('cubic', 'siglip_bicubic')])
def test_preprocess_resizes_as_pillow(shared, tiny, interpolation, name):
  golden = np.load(shared / 'parity/vlm/preprocess.npz')
  tiny = models.build(dataclasses.replace(TINY, image_size=(32, 32), interpolation=interpolation), seed=0)
  for i in range(3):  # two larger images, one smaller
    ours = np.asarray(tiny.preprocess(golden[f'image_{i}'][None]))[0]
    difference = np.abs(ours - golden[f'{name}_{i}'].transpose(1, 2, 0)) * 127.5
    # Pillow's weights are whole numbers, so that a half may go the other way.
    assert difference.max() < 1.01 and difference.mean() < 0.01, (i, difference.max(), difference.mean())


def test_pixels_beyond_the_last_patch_are_cropped(tiny):
  x = image(size=(15, 11))
  np.testing.assert_array_equal(tiny(x), tiny(x[:, :12, :8]))


def test_cubic_weights():
  """By hand: the middle of three lies at 2.5 of six, between the third and the fourth."""
  np.testing.assert_allclose(cubic_weights(6, 3)[1], [0, -0.09375, 0.59375, 0.59375, -0.09375, 0], atol=1e-7)
  np.testing.assert_array_equal(cubic_weights(5, 5), np.eye(5))
  np.testing.assert_allclose(cubic_weights(5, 13).sum(1), 1, atol=1e-6)


def test_rematerialisation_changes_nothing(tiny):
  other = models.from_values(dataclasses.replace(TINY, remat=True), models.parameters.named(tiny))

  def gradients(model):
    def loss(model):
      return jnp.mean(jnp.square(model(image(), nnx.Rngs(dropout=7))))
    return nnx.jit(nnx.value_and_grad(loss))(model)
  (value, grads), (value_again, grads_again) = gradients(tiny), gradients(other)
  np.testing.assert_allclose(value, value_again, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), nnx.to_pure_dict(grads),
               nnx.to_pure_dict(grads_again))


def test_dropout_needs_random_numbers(tiny):
  one, two = tiny(image(), nnx.Rngs(dropout=1)), tiny(image(), nnx.Rngs(dropout=2))
  assert np.abs(one - two).max() > 0.1
  np.testing.assert_array_equal(tiny(image()), tiny(image()))


def test_bfloat16_stays_near(tiny):
  other = models.from_values(dataclasses.replace(TINY, dtype='bfloat16'), models.parameters.named(tiny))
  assert all(v.dtype == jnp.float32 for v in models.parameters.named(other).values())
  tokens = other(image())
  assert tokens.dtype == jnp.bfloat16
  np.testing.assert_allclose(tokens.astype(jnp.float32), tiny(image()), atol=0.05)


def test_configuration_survives_json(tiny):
  assert models.config_from_json(models.config_to_json(TINY)) == TINY


@pytest.mark.parametrize('change, message', [
    ({'heads': 3}, r'width 16 does not divide into 3 heads'), ({'patch': 9}, r'image_size is \(12, 8\)'),
    ({'layers': 0}, 'layers is 0'), ({'dropout': 1.0}, 'dropout is'),
    ({'class_token': False, 'classes': 3}, 'class_token is False')])
def test_bad_configurations(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(TINY, **change)


def test_an_image_smaller_than_a_patch(tiny):
  with pytest.raises(ValueError, match=r'smaller than one patch of 4 x 4'):
    tiny(image(size=(3, 8)))
