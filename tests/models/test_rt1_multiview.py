"""Multi-view RT-1 on a tiny network; its shape table at full size, by shapes alone."""
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.tiny_rt1 import observed

from rtjax import actions, models
from rtjax.models import RT1Config, RT1MultiviewConfig, build, parameters, rt1_multiview
from rtjax.models.backbones.film_efficientnet import B0_STAGES, EfficientNetConfig
from rtjax.observation import Batch, Observation

SPEC = actions.POSE_7D
VIEWS = RT1MultiviewConfig(
    views=3, image_size=(16, 16), width=16, heads=2, layers=2, hidden=32,
    encoder=EfficientNetConfig(width=0.2, depth=0.2, stages=B0_STAGES[:2]))
STEPS = dataclasses.replace(VIEWS, views=1, window=3)


def make_batch(config: RT1MultiviewConfig, size: int, seed: int = 0) -> Batch:
  """Random images, states and actions within bounds, nothing masked."""
  random = np.random.default_rng(seed)
  lead = (size, config.window)
  low, high = SPEC.bounds
  recorded = random.uniform(low, high, (*lead, 1, SPEC.size)).astype(np.float32)
  recorded[..., 6:] = np.eye(2)[random.integers(0, 2, (*lead, 1))]
  observation = Observation(
      random.integers(0, 256, (*lead, config.views, 20, 24, 3), dtype=np.uint8), np.ones(lead, bool),
      random.normal(size=(*lead, 512)).astype(np.float32),
      proprioception=random.normal(size=(*lead, 7)).astype(np.float32))
  return Batch(observation, recorded, np.ones((*lead, 1), bool))


def inputs(batch):
  o = batch.observation
  return o.images, o.instruction, o.proprioception


def lively(config: RT1MultiviewConfig) -> models.RT1Multiview:
  """A network whose FiLM layers, zero at first, do something."""
  model = build(config, seed=0)
  random = np.random.default_rng(1)
  parameters.assign(model, {
      name: random.normal(0, 0.02, value.shape) if re.search(r'film/(add|mult)/kernel', name) else value
      for name, value in parameters.named(model).items()})
  return model


@pytest.fixture(scope='module')
def views():
  return lively(VIEWS)


@pytest.fixture(scope='module')
def steps():
  return lively(STEPS)


@nnx.jit
def loss_of(model, batch):
  return model.loss(batch, train=False)


# {name in the docstring's table: how it is computed from the rows before}
STAGES = {
    'image_encoder': lambda m, o, t: m.image_encoder.normalize(o.images.reshape(-1, *o.images.shape[3:])),
    'EfficientNet-B3, FiLM after each block': lambda m, o, t: m.image_encoder.encoder(
        t['image_encoder'], jnp.zeros((len(t['image_encoder']), 512))),
    '1x1 convolution, FiLM': lambda m, o, t: m.image_encoder.conv(t['EfficientNet-B3, FiLM after each block']),
    'encode_images': lambda m, o, t: m.encode_images(o),
    'sequence': lambda m, o, t: m.sequence(t['encode_images'], o.instruction[:, -1], o.proprioception[:, -1]),
    'encode': lambda m, o, t: m.encode(t['sequence']),
    'token_learner': lambda m, o, t: m.token_learner(t['encode']),
    'decode': lambda m, o, t: m.decode(t['token_learner']),
    'classify': lambda m, o, t: m.classify(t['decode'])[:, None],
}


def all_stages(model, observation):
  tensors = {'observation': observation.images}
  for name, stage in STAGES.items():
    tensors[name] = stage(model, observation, tensors)
  return tensors


@pytest.mark.parametrize('config', [
    pytest.param(RT1MultiviewConfig(), id='views'),
    pytest.param(RT1MultiviewConfig(views=1, window=6), id='steps', marks=pytest.mark.slow)])
def test_shape_table(config):
  """Every row of the docstring's table, at full size; no number is computed."""
  rows = re.findall(r'^    (\S.*?)(?:  +([a-z_]+))? +\[([\d, B]+)\]$', rt1_multiview.__doc__, re.MULTILINE)
  table = {name or text.strip(): shape for text, name, shape in rows}
  assert set(table) == {'observation', *STAGES}
  batch = 2
  expected = {name: tuple(int(n.removesuffix('B') or 1) * batch if n.endswith('B') else int(n) for n in row.split(', '))
              for name, row in table.items()}
  lead = (batch, config.window)
  if config.window > 1:
    expected |= {'observation': (*lead, 1, 300, 300, 3), 'encode_images': (*lead, 81, 512)}
  model = models.abstract(config)
  given = Observation(jax.ShapeDtypeStruct((*lead, config.views, 300, 300, 3), np.uint8),
                      instruction=jax.ShapeDtypeStruct((*lead, 512), np.float32),
                      proprioception=jax.ShapeDtypeStruct((*lead, 7), np.float32))
  tensors = nnx.eval_shape(all_stages, model, given)
  assert {name: tensors[name].shape for name in expected} == expected
  assert config.sequence_tokens == 488 and model.position.shape == (488, 512)
  count = sum(int(np.prod(v.shape)) for v in jax.tree.leaves(nnx.state(model, nnx.Param)))
  assert count == 45_425_314


def test_stages_in_a_row_are_the_network(views):
  batch = make_batch(VIEWS, 2)
  logits = nnx.jit(all_stages)(views, jax.device_put(batch.observation))['classify']
  np.testing.assert_allclose(logits, views(*inputs(batch)), atol=1e-5)


def test_position_of_the_last_feature_map():
  for padding, size in [('official', 9), ('same', 10)]:
    assert EfficientNetConfig(padding=padding).out_size(300) == size
  images = jnp.zeros((1, 20, 28, 3))
  encoder = models.abstract(VIEWS).image_encoder.encoder
  shape = nnx.eval_shape(lambda e: e(images, jnp.zeros((1, 512))), encoder).shape
  assert shape[1:3] == (VIEWS.encoder.out_size(20), VIEWS.encoder.out_size(28))


def test_the_decoder_is_causal(views):
  """A learned token changes what is read at it and after it, and nothing before it."""
  learned = np.random.default_rng(0).normal(size=(1, 8, 16)).astype(np.float32)
  read = nnx.jit(lambda m, x: m.classify(m.decode(x))[0, :, :2])
  before = np.asarray(read(views, learned))
  for place in range(8):
    changed = learned.copy()
    changed[:, place] += 1
    moved = np.abs(np.asarray(read(views, changed)) - before).max(-1) > 1e-6
    np.testing.assert_array_equal(moved, np.arange(1, 8) >= place)


def test_every_parameter_and_every_input_matters(views):
  batch = jax.device_put(make_batch(VIEWS, 2))
  graphdef, params, rest = nnx.split(views, nnx.Param, ...)
  gradient = jax.jit(jax.grad(lambda params: nnx.merge(graphdef, params, rest).loss(batch, train=False).total))(params)
  for path, value in nnx.to_flat_state(gradient):
    name = '/'.join(map(str, path))
    # Softmax is blind to what it adds to every position.
    if not re.search(r'key/bias|token_learner/output/bias', name):
      assert np.any(np.abs(value[...]) > 1e-9), name
  before = np.asarray(views(*inputs(batch)))
  for name in ('images', 'instruction', 'proprioception'):
    other = observed(batch, **{name: getattr(batch.observation, name).at[:, -1].set(1)})
    assert np.abs(np.asarray(views(*inputs(other))) - before)[..., :2].max() > 1e-6, name


def test_masked_views(views):
  """A hidden view changes nothing, a visible one does, and an order of views is learned."""
  batch = make_batch(VIEWS, 2)
  frames = np.ones((2, 1, 3), bool)
  frames[:, :, 1] = False
  expected = np.asarray(views(*inputs(batch), frames))
  changed = batch.observation.images.copy()
  changed[:, :, 1] = 255 - changed[:, :, 1]
  np.testing.assert_array_equal(views(changed, *inputs(batch)[1:], frames), expected)
  assert np.abs(np.asarray(views(changed, *inputs(batch)[1:])) - views(*inputs(batch)))[..., :2].max() > 1e-6
  swapped = batch.observation.images[:, :, ::-1]
  assert np.abs(np.asarray(views(swapped, *inputs(batch)[1:])) - views(*inputs(batch)))[..., :2].max() > 1e-6


def test_masked_frame_equals_a_shorter_window(steps):
  batch = make_batch(STEPS, 2)
  frames = np.array([[False, True, True]] * 2)
  shorter = (array[:, 1:] for array in inputs(batch))
  np.testing.assert_allclose(steps(*inputs(batch), frames), steps(*shorter), atol=2e-6)


def test_images_of_one_view_need_no_axis_for_it(steps):
  batch = make_batch(STEPS, 1)
  without = batch.observation.images[:, :, 0], *inputs(batch)[1:]
  np.testing.assert_array_equal(steps(*without), steps(*inputs(batch)))
  images, instruction, state = inputs(batch)
  one = instruction[:, 0]
  np.testing.assert_array_equal(steps(images, one, state), steps(images, np.repeat(one[:, None], 3, 1), state))


@pytest.mark.parametrize('config', [VIEWS, STEPS], ids=['views', 'steps'])
def test_cached_steps_equal_the_window(config, request):
  """Step by step as the full window, from the first step on, with instructions that change."""
  model = request.getfixturevalue('views' if config is VIEWS else 'steps')
  long = make_batch(dataclasses.replace(config, window=5), 2)
  cache = model.init_cache(2)
  assert cache.tokens.shape == (2, config.window - 1, config.views * config.image_tokens, 16)
  take = nnx.jit(lambda m, *step: m.step(*step))
  for step in range(5):
    images, instruction, state = (array[:, step:step + 1] for array in inputs(long))
    cache, logits = take(model, cache, Observation(images, None, instruction, None, state))
    window = slice(max(0, step + 1 - config.window), step + 1)
    np.testing.assert_allclose(logits, model(*(array[:, window] for array in inputs(long)))[:, 0], atol=2e-5)


def numpy_loss(logits, labels, mask):
  """Mean of the cross-entropies, each over the values that its token can take."""
  total = []
  for k, bins in enumerate(SPEC.token_bins):
    part = logits[:, k, :bins].astype(np.float64)
    total.append(np.log(np.exp(part).sum(-1)) - part[np.arange(len(part)), labels[:, k]])
  return np.mean(np.stack(total, 1)[mask])


@pytest.mark.parametrize('config', [VIEWS, STEPS], ids=['views', 'steps'])
def test_loss_is_the_mean_of_seven_cross_entropies(config, request):
  model = request.getfixturevalue('views' if config is VIEWS else 'steps')
  batch = make_batch(config, 4)
  batch.action_mask[1, -1] = False
  terms = loss_of(model, batch)
  logits = np.asarray(model(*inputs(batch)))[:, 0]
  labels, mask = SPEC.tokenize(batch.actions)[:, -1, 0], batch.action_mask[:, -1, 0]
  np.testing.assert_allclose(terms.total / terms.weight, numpy_loss(logits, labels, mask), rtol=1e-5)
  assert terms.weight == 3 * 7 and model.loss_scale(4) == 1
  right = ((logits.argmax(-1) == labels) * mask[:, None]).sum(0)
  np.testing.assert_array_equal(terms.metrics['accuracy_per_token'][0], right)
  predicted = SPEC.detokenize(logits.argmax(-1))
  l1 = (np.abs(predicted - batch.actions[:, -1, 0]) * mask[:, None]).sum(0)
  np.testing.assert_allclose(terms.metrics['l1'][0], l1, rtol=1e-4)
  # Masked actions and those of earlier frames do not matter.
  batch.actions[1, -1] = 0.1
  batch.actions[:, :-1] = 0.1
  np.testing.assert_array_equal(loss_of(model, batch).total, terms.total)


def test_gripper_has_two_classes(views):
  """The other 254 tokens are never chosen, have no probability, and pull at no parameter."""
  batch = jax.device_put(make_batch(VIEWS, 3))
  logits = np.asarray(views(*inputs(batch)))[:, 0]
  assert logits.shape == (3, 7, 256) and np.all(logits[:, :6] > -1e3)
  probability = np.asarray(jax.nn.softmax(logits[:, 6]))
  assert np.all(probability[:, 2:] == 0) and np.all(probability[:, :2] > 0)
  np.testing.assert_allclose(probability.sum(-1), 1, rtol=1e-6)
  assert set(np.unique(logits[:, 6].argmax(-1))) <= {0, 1}
  assert [head.out_features for head in views.heads] == [256] * 6 + [2]
  gradient = jax.grad(lambda bias: -jax.nn.log_softmax(jnp.asarray(logits[0, 6]) + bias)[0])(jnp.zeros(256))
  assert np.all(gradient[2:] == 0) and np.all(gradient[:2] != 0)


def test_training_mode(steps):
  """Batch statistics move, and dropout depends on the key."""
  batch = jax.device_put(make_batch(STEPS, 4))
  graphdef, state = nnx.split(steps)

  @jax.jit
  def run(seed):
    model = nnx.merge(graphdef, state, copy=True)
    terms = model.loss(batch, train=True, rngs=nnx.Rngs(dropout=jax.random.key(seed)))
    return terms.total, parameters.named(model)

  (a, moved), (b, _), (c, _) = run(0), run(0), run(1)
  assert a == b != c
  before = parameters.named(steps)
  changed = {name for name in before if np.any(before[name] != moved[name])}
  assert changed and all(re.search(r'/(mean|var)$', name) and 'encoder' in name for name in changed)


def test_bfloat16(views):
  model = models.from_values(dataclasses.replace(VIEWS, dtype='bfloat16'), parameters.named(views))
  batch = make_batch(VIEWS, 2)
  logits, expected = (np.asarray(m(*inputs(batch)))[..., :6, :] for m in (model, views))
  assert logits.dtype == np.float32
  np.testing.assert_allclose(logits, expected, atol=0.1 * expected.std() + 0.05)


def test_state_is_normalised_by_statistics_kept_as_weights(views):
  model = models.from_values(VIEWS, parameters.named(views))
  mean, std = np.arange(7.0), np.array([2.0, 1, 1, 0.5, 1, 1, 0])
  plain = np.random.default_rng(0).normal(size=(2, 7)).astype(np.float32)
  before = np.asarray(model.state(jnp.asarray(plain)))
  model.set_normalization(lambda name: (mean, std))
  raw = plain * np.where(std > 0, std, 1) + mean  # the last number never changed in the data: only centred
  np.testing.assert_allclose(model.state(jnp.asarray(raw, jnp.float32)), before, atol=1e-5)
  kept = parameters.named(model)
  np.testing.assert_array_equal(kept['state/mean'], mean.astype(np.float32))
  with pytest.raises(ValueError, match=r'--model\.proprioception-size 8'):
    model.set_normalization(lambda name: (np.zeros(8), np.ones(8)))


def test_shares_its_image_encoder_with_rt1():
  """Names and shapes, so that weights of one start the other."""
  def encoder(config):
    shapes = parameters.shapes(models.abstract(config))
    return {name: shape for name, shape in shapes.items() if name.startswith('image_encoder/')}
  rt1 = RT1Config(encoder=VIEWS.encoder, token_width=16, width=16, layers=1)
  assert encoder(VIEWS) == encoder(rt1) and len(encoder(VIEWS)) > 20


def test_configuration_round_trip():
  for config in (RT1MultiviewConfig(), VIEWS, dataclasses.replace(STEPS, dtype='bfloat16')):
    assert models.config_from_json(models.config_to_json(config)) == config


@pytest.mark.parametrize('changes,words', [
    ({'action_spec': actions.RT1}, 'learned_tokens is 8.*11 tokens'),
    ({'heads': 3}, 'width 16 does not divide into 3 heads'),
    ({'views': 0}, 'model.views is 0'),
])
def test_bad_configuration(changes, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(VIEWS, **changes)


@pytest.mark.parametrize('name,value,words', [
    ('images', np.zeros((1, 1, 20, 24, 3), np.uint8), r'\[B, T, 3, H, W, 3\].*3 view'),
    ('images', np.zeros((1, 2, 3, 20, 24, 3), np.uint8), 'T from 1 to 1'),
    ('images', np.zeros((3,), np.uint8), r'images has shape \(3,\)'),
    ('images', np.zeros((1, 1, 3, 20, 24, 3), np.float32), 'float32, expected uint8'),
    ('instruction', np.zeros((1, 2, 512), np.float32), r'instruction.*expected \(1, 512\) or \(1, 1, 512\)'),
    ('proprioception', np.zeros((1, 7), np.float32), r'proprioception.*expected \(1, 1, 7\)'),
    ('frame_mask', np.zeros((1, 1, 2), bool), r'frame_mask.*expected None or \(1, 1\) or \(1, 1, 3\)'),
])
def test_bad_input(views, name, value, words):
  o = make_batch(VIEWS, 1).observation
  given = {'images': o.images, 'instruction': o.instruction, 'proprioception': o.proprioception}
  with pytest.raises(ValueError, match=words):
    views(**given | {name: value})


def test_no_state(views):
  batch = observed(make_batch(VIEWS, 1), proprioception=None)
  with pytest.raises(ValueError, match=r'--pipeline\.proprioception'):
    views.loss(batch, train=False)
  with pytest.raises(ValueError, match='give proprioception'):
    views.step(views.init_cache(1), Observation(jnp.zeros((1, 1, 3, 20, 24, 3), jnp.uint8),
                                                instruction=jnp.zeros((1, 512))))
