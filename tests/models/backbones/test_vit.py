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
from rtjax.models import ViTConfig
from rtjax.models.backbones.vit import sines
from rtjax.models.layers.resize import cubic_weights

TINY = ViTConfig(image_size=(12, 8), patch=4, width=16, layers=2, heads=2, mlp_width=24, dropout=0.2)


@pytest.fixture(scope='module')
def tiny():
  return models.build(TINY, rngs=nnx.Rngs(0))


def test_positions_begin_as_sines_of_row_and_column():
  table = sines((3, 5), 18).reshape(3, 5, 18)
  assert len(np.unique(table.reshape(15, 18), axis=0)) == 15 and not table[..., 16:].any()
  np.testing.assert_allclose(table[..., :8], np.broadcast_to(table[:, :1, :8], (3, 5, 8)))  # the row's
  np.testing.assert_allclose(table[..., 8:], np.broadcast_to(table[:1, :, 8:], (3, 5, 10)))
  np.testing.assert_allclose(table[2, 0, [0, 4]], [np.sin(2), np.cos(2)], rtol=1e-6)
  model = models.build(TINY, rngs=nnx.Rngs(0))
  np.testing.assert_array_equal(model.positions[...][1:], sines((3, 2), 16))


def picture(seed: int = 0, size: tuple[int, int] = (12, 8)) -> jax.Array:
  return jax.random.uniform(jax.random.key(seed), (2, *size, 3), minval=-1)


@pytest.mark.parametrize('case', ['vit_in21k', 'vit_classifier'])
def test_golden(shared, case):
  model, golden = golden_huggingface.load(shared, case)
  states, tokens = run(model, hidden_states, pixels(golden))
  assert len(states) == model.config.layers + 1
  for i, state in enumerate(states):
    close(state, golden[f'hidden_{i}'], err_msg=f'hidden_{i}')
  close(tokens, golden['last_hidden_state'])
  if case == 'vit_in21k':
    close(run(model, lambda m, x: m.pool(m(x)), pixels(golden)), golden['pooler_output'])
  else:
    close(run(model, lambda m, x: m.classify(m(x)), pixels(golden)), golden['logits'])
  close(run(model, lambda m, x: m.patches(m(x)), pixels(golden)), golden['last_hidden_state'][:, 1:])
  close(run(model, lambda m, x: m(x), pixels(golden, 'interp_pixel_values')), golden['interp_last_hidden_state'])
  np.testing.assert_allclose(model.prepare(golden['image_uint8']), pixels(golden), atol=1e-6)  # of that size already


def test_epsilon_is_the_published_one(shared):
  """A mistake here would stay below what the outputs show."""
  assert golden_huggingface.load(shared, 'vit_in21k')[0].norm.epsilon == 1e-12


@pytest.mark.parametrize('interpolation, name', [('linear', 'vit_bilinear'), ('cubic', 'siglip_bicubic')])
def test_prepare_resizes_as_pillow(shared, tiny, interpolation, name):
  golden = np.load(shared / 'parity/vlm/preprocess.npz')
  tiny = models.build(dataclasses.replace(TINY, image_size=(32, 32), interpolation=interpolation), rngs=nnx.Rngs(0))
  for i in range(3):  # two larger pictures, one smaller
    ours = np.asarray(tiny.prepare(golden[f'image_{i}'][None]))[0]
    difference = np.abs(ours - golden[f'{name}_{i}'].transpose(1, 2, 0)) * 127.5
    # Pillow's weights are whole numbers, so that a half may go the other way.
    assert difference.max() < 1.01 and difference.mean() < 0.01, (i, difference.max(), difference.mean())


def test_what_is_left_over_of_a_picture_is_cut(tiny):
  x = picture(size=(15, 11))
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
      return jnp.mean(jnp.square(model(picture(), nnx.Rngs(dropout=7))))
    return nnx.jit(nnx.value_and_grad(loss))(model)
  (value, grads), (value_again, grads_again) = gradients(tiny), gradients(other)
  np.testing.assert_allclose(value, value_again, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), nnx.to_pure_dict(grads),
               nnx.to_pure_dict(grads_again))


def test_dropout_needs_random_numbers(tiny):
  one, two = tiny(picture(), nnx.Rngs(dropout=1)), tiny(picture(), nnx.Rngs(dropout=2))
  assert np.abs(one - two).max() > 0.1
  np.testing.assert_array_equal(tiny(picture()), tiny(picture()))


def test_bfloat16_stays_near(tiny):
  other = models.from_values(dataclasses.replace(TINY, dtype='bfloat16'), models.parameters.named(tiny))
  assert all(v.dtype == jnp.float32 for v in models.parameters.named(other).values())
  tokens = other(picture())
  assert tokens.dtype == jnp.bfloat16
  np.testing.assert_allclose(tokens.astype(jnp.float32), tiny(picture()), atol=0.05)


def test_configuration_survives_json(tiny):
  assert models.config_from_dict(TINY.to_dict() | {'image_size': [12, 8]}) == TINY


@pytest.mark.parametrize('change, message', [
    ({'heads': 3}, r'width 16 does not divide into 3 heads'), ({'patch': 9}, r'image_size is \(12, 8\)'),
    ({'layers': 0}, 'layers is 0'), ({'dropout': 1.0}, 'dropout is'),
    ({'class_token': False, 'classes': 3}, 'class_token is False'), ({'piece': 3}, 'piece is 3 of width 64'),
    ({'piece': -1}, 'piece is -1'), ({'piece': 2, 'piece_width': 0}, 'piece is 2 of width 0'),
    ({'mixes': 1}, 'mixes is 1'), ({'piece': 2, 'mixes': -1}, 'mixes is -1')])
def test_bad_configurations(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(TINY, **change)


def standardised(x):
  """Each channel over its picture [B, h, w, C]."""
  return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-3)


def test_pieces_and_what_they_make_of_their_neighbours():
  model = models.build(dataclasses.replace(TINY, piece=2, piece_width=3, mixes=1), rngs=nnx.Rngs(0))
  x, first, patch = picture(), model.piece_embedding, model.patch_embedding
  assert first.kernel.shape == (12, 3) and patch.kernel.shape == (12, 16)
  rows, columns = x.shape[1] // 2, x.shape[2] // 2
  cut = [[first(x[:, 2 * i:2 * i + 2, 2 * j:2 * j + 2].reshape(len(x), -1)) for j in range(columns)]
         for i in range(rows)]
  pieces = jax.nn.gelu(standardised(jnp.stack([jnp.stack(row, 1) for row in cut], 1)), approximate=False)
  mixed = jax.lax.conv_general_dilated(pieces, model.mixing[0].kernel[...], (1, 1), 'SAME',
                                       dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
  pieces = pieces + jax.nn.gelu(standardised(mixed), approximate=False)
  np.testing.assert_allclose(model.stem(x), pieces, atol=1e-5)
  patches = [[patch(pieces[:, 2 * i:2 * i + 2, 2 * j:2 * j + 2].reshape(len(x), -1)) for j in range(columns // 2)]
             for i in range(rows // 2)]
  expected = standardised(jnp.stack([jnp.stack(row, 1) for row in patches], 1)).reshape(len(x), -1, 16)
  np.testing.assert_allclose(model.embed(model.stem(x))[:, 1:], expected + model.positions[1:], atol=1e-4)


def test_a_picture_smaller_than_a_patch(tiny):
  with pytest.raises(ValueError, match=r'smaller than one patch of 4 x 4'):
    tiny(picture(size=(3, 8)))
