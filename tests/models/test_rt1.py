"""RT-1: causality, loss, training mode, configurations and errors, on a tiny network."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.tiny_rt1 import TINY, tiny_batch

from rtjax import models
from rtjax.models import RT1Config, build, config_from_json, parameters
from rtjax.models.layers.common import BatchNorm
from rtjax.models.layers.resize import resize_bilinear, resize_with_pad


@pytest.fixture(scope='module')
def model():
  return build(TINY, seed=0)


@nnx.jit
def loss_of(model, batch):
  return model.loss(batch, train=False)


def test_parameter_counts():
  """The official network has as many trainable parameters as its checkpoint, but for the unused action embedding."""
  abstract = models.abstract(RT1Config())
  count = sum(int(np.prod(v.shape)) for v in jax.tree.leaves(nnx.state(abstract, nnx.Param)))
  assert count == 35_252_128 - 131_584
  statistics = nnx.state(abstract, nnx.BatchStat)
  assert len(jax.tree.leaves(statistics)) == 156


def test_causality(model):
  """A frame changes the logits of its own and later frames, not those of earlier ones."""
  batch = tiny_batch(TINY, 1)
  logits = np.asarray(model(batch.observation.images, batch.observation.instruction))
  changed = batch.observation.images.copy()
  changed[:, 1] = 255 - changed[:, 1]
  after = np.asarray(model(changed, batch.observation.instruction))
  np.testing.assert_array_equal(after[:, 0], logits[:, 0])
  assert np.abs(after[:, 1] - logits[:, 1]).max() > 1e-6
  assert np.abs(after[:, 2] - logits[:, 2]).max() > 1e-7


def test_instruction_per_window_or_per_frame(model):
  batch = tiny_batch(TINY, 2)
  one = batch.observation.instruction[:, 0]
  np.testing.assert_array_equal(
      model(batch.observation.images, one), model(batch.observation.images, np.repeat(one[:, None], TINY.window, 1)))


def test_loss_is_the_mean_over_counted_tokens(model):
  batch = tiny_batch(TINY, 3)
  batch.action_mask[0, 0] = False
  terms = loss_of(model, batch)
  logits = jax.nn.log_softmax(model(batch.observation.images, batch.observation.instruction))
  labels = TINY.action_spec.tokenize(batch.actions)[:, :, 0]
  picked = np.take_along_axis(np.asarray(logits), labels[..., None], -1)[..., 0]
  mask = batch.action_mask  # [B, T, 1]
  np.testing.assert_allclose(terms.total / terms.weight, -(picked * mask).sum() / (mask.sum() * 7), rtol=1e-5)
  right = (np.asarray(logits).argmax(-1) == labels) * mask
  assert float(terms.metrics['accuracy'][0]) == right.sum()
  np.testing.assert_array_equal(terms.metrics['accuracy_per_token'][0], right.sum((0, 1)))
  np.testing.assert_array_equal(terms.metrics['accuracy_per_frame'][1], mask[:, :, 0].sum(0) * 7)
  predicted = TINY.action_spec.detokenize(np.asarray(logits).argmax(-1))
  l1 = (np.abs(predicted - batch.actions[:, :, 0]) * mask).sum((0, 1))
  np.testing.assert_allclose(terms.metrics['l1'][0], l1, rtol=1e-4)
  # A masked action does not matter.
  batch.actions[0, 0] = 0.01
  np.testing.assert_array_equal(loss_of(model, batch).total, terms.total)


def test_official_loss_scale():
  config = dataclasses.replace(TINY, loss='official')
  model = build(config, seed=0)
  assert model.loss_scale(4) == pytest.approx(1 / (4 * config.window * (config.image_tokens + 7)))


def test_horizon(model):
  """Two actions per frame: twice the action tokens."""
  config = dataclasses.replace(TINY, horizon=2)
  wide = build(config, seed=0)
  batch = tiny_batch(config, 2)
  assert wide(batch.observation.images, batch.observation.instruction).shape == (2, config.window, 14, 256)
  assert float(loss_of(wide, batch).weight) == 2 * config.window * 14


def test_training_mode(model):
  """Batch statistics move; dropout needs rngs and depends on them; inference does neither."""
  batch = jax.device_put(tiny_batch(TINY, 4))
  graphdef, state = nnx.split(model)

  @functools.partial(jax.jit, static_argnames='drop')
  def run(seed, drop=True):
    model = nnx.merge(graphdef, state, copy=True)
    terms = model.loss(batch, train=True, rngs=nnx.Rngs(dropout=jax.random.key(seed)) if drop else None)
    return terms.total, parameters.named(model)

  (a, moved), (b, _), (c, _), (plain, _) = run(0), run(0), run(1), run(0, drop=False)
  assert a == b != c and plain not in (a, c)
  before = parameters.named(model)
  changed = {name for name in before if np.any(before[name] != moved[name])}
  assert changed and all(name.endswith(('/mean', '/var')) for name in changed)


def test_batch_norm_uses_the_unbiased_variance_for_its_average():
  x = np.random.default_rng(0).normal(3, 2, (2, 3, 1, 5)).astype(np.float32)
  norm = BatchNorm(5)
  y = norm(jnp.asarray(x), train=True)
  flat = x.reshape(-1, 5)
  np.testing.assert_allclose(y, (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-3), atol=1e-5)
  np.testing.assert_allclose(norm.mean[...], 0.01 * flat.mean(0), rtol=1e-5)
  np.testing.assert_allclose(norm.var[...], 0.99 + 0.01 * flat.var(0, ddof=1), rtol=1e-5)


@pytest.mark.slow
def test_bfloat16():
  model = build(dataclasses.replace(TINY, dtype='bfloat16'), seed=0)
  reference = build(TINY, seed=0)
  batch = tiny_batch(TINY, 2)
  inputs = batch.observation.images, batch.observation.instruction
  logits, expected = model(*inputs), reference(*inputs)
  assert logits.dtype == jnp.float32
  assert all(v.dtype == jnp.float32 for v in parameters.named(model).values())
  np.testing.assert_allclose(logits, expected, atol=0.1 * float(jnp.std(expected)) + 0.05)


@pytest.mark.parametrize('source', [(256, 320), (64, 64), (300, 300), (480, 333)])
def test_resize_as_tensorflow(source):
  tf = pytest.importorskip('tensorflow')
  image = np.random.default_rng(0).integers(0, 256, (2, *source, 3)).astype(np.float32)
  ours = resize_bilinear(jnp.asarray(image), (300, 300))
  np.testing.assert_allclose(ours, tf.image.resize(image, (300, 300)), atol=1e-4)


@pytest.mark.parametrize('source', [(64, 64), (480, 640), (120, 213), (300, 200)])
def test_resize_with_pad_as_tensorflow(source):
  tf = pytest.importorskip('tensorflow')
  image = np.random.default_rng(0).integers(0, 256, (1, *source, 3)).astype(np.float32)
  ours = resize_with_pad(jnp.asarray(image), (256, 320))
  np.testing.assert_allclose(ours, tf.image.resize_with_pad(image, 256, 320), atol=1e-3)


def test_preprocessing_golden(shared, model):
  """uint8 to float equals the reference's table; images are not cropped in inference."""
  golden = np.load(shared / 'parity/rt1_tf/preprocess.npz')
  table = np.arange(256, dtype=np.uint8).astype(np.float32) * np.float32(1 / 255)
  np.testing.assert_array_equal(table, golden['uint8_to_float'])
  np.testing.assert_array_equal(table[golden['image'][:, ::4, ::4]], golden['eval_image'])


def test_configuration_round_trip():
  for config in (RT1Config(), TINY, dataclasses.replace(TINY, dtype='bfloat16', horizon=3)):
    assert config_from_json(models.config_to_json(config)) == config
  with pytest.raises(ValueError, match=r'rt9.*rt1'):
    config_from_json({'model': 'rt9'})


@pytest.mark.parametrize('images,instruction,words', [
    (np.zeros((1, 3, 32, 32), np.uint8), np.zeros((1, 512), np.float32), r'images has shape'),
    (np.zeros((1, 4, 32, 32, 3), np.uint8), np.zeros((1, 512), np.float32), r'T from 1 to 3'),
    (np.zeros((1, 3, 32, 32, 3), np.float32), np.zeros((1, 512), np.float32), r'float32, expected uint8'),
    (np.zeros((1, 3, 32, 32, 3), np.uint8), np.zeros((2, 512), np.float32), r'instruction has shape \(2, 512\)'),
    (np.zeros((1, 3, 32, 32, 3), np.uint8), np.full((1, 512), np.nan, np.float32), 'instruction holds NaN'),
])
def test_bad_input(model, images, instruction, words):
  with pytest.raises(ValueError, match=words):
    model(images, instruction)


def test_values_must_fit(model):
  values = dict(parameters.named(model))
  missing = values.pop('transformer/output/bias')
  values['transformer/other'] = missing
  values['transformer/embed/bias'] = values['transformer/embed/bias'][:-1]
  with pytest.raises(ValueError, match=r'(?s)missing: transformer/output/bias.*unknown: transformer/other.*embed/bias'):
    models.from_values(TINY, values)
