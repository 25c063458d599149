import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import tiny_rt2

from rtjax import actions, models
from rtjax.language import prompts
from rtjax.models import RT2Config
from rtjax.models.backbones.t5 import PAD
from rtjax.models.layers import lora
from rtjax.models.loss import IMPOSSIBLE
from rtjax.models.rt2 import decoding
from rtjax.models.rt2.decoding import END

BOTH = pytest.mark.parametrize('config', [tiny_rt2.TINY, tiny_rt2.TEXT], ids=['heads', 'text'])


@functools.cache
def built(config, seed=0):
  """A network whose every parameter is random, so that nothing is hidden by a zero or a one."""
  model = models.build(config, rngs=nnx.Rngs(seed))
  random = np.random.default_rng(seed)
  values = models.parameters.named(model)
  moved = {name: value + 0.3 * random.normal(size=value.shape) for name, value in values.items()}
  models.parameters.assign(model, moved)
  return model


def context(model, seed=0, size=3):
  batch = tiny_rt2.robot_batch(model.config, size, seed)
  return model.context(model.see(jnp.asarray(batch['images'])), None, jnp.asarray(batch['embeddings'], jnp.int32))


@BOTH
def test_shapes_and_order_of_a_batch(config):
  model, batch = built(config), tiny_rt2.robot_batch(config, 3)
  logits = model(batch['images'], batch['embeddings'])
  assert logits.shape == (3, 1, 3, 8) and logits.dtype == jnp.float32
  for row in range(3):
    alone = model(batch['images'][row:row + 1], batch['embeddings'][row:row + 1])
    np.testing.assert_allclose(alone[0], logits[row], rtol=1e-4, atol=1e-4)


@BOTH
def test_bfloat16_is_near(config):
  batch = tiny_rt2.robot_batch(config, 4)
  model = built(config)
  coarse = models.from_values(dataclasses.replace(config, dtype='bfloat16'), models.parameters.named(model))
  found, expected = (m(batch['images'], batch['embeddings'])[..., 0, :] for m in (coarse, model))
  # So narrow a network rounds coarsely: 8 bits of 16 numbers.
  np.testing.assert_allclose(found, expected, atol=0.2 * np.abs(expected).max())
  assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).max()
  assert found.dtype == jnp.float32 and np.abs(found - expected).max() > 0


@BOTH
def test_tokens_that_the_prompt_asks_for_tell_the_waypoint(config):
  config = dataclasses.replace(tiny_rt2.SEEKING, act=config.act, window=2)
  model, batch = built(config), {name: jnp.asarray(array) for name, array in tiny_rt2.robot_batch(
      config, 3).items()}
  mean, std = np.array([1.0, 2.0, 3.0, 9.0]), np.array([0.5, 1.0, 2.0, 1.0])
  model.standardize(lambda name: {'proprioception': (mean, std)}[name])
  with pytest.raises(ValueError, match="the batch has no 'waypoints'"):
    model.loss(batch, train=True)
  waypoints = jax.random.normal(jax.random.key(0), (3, 2, 3))
  terms = model.loss(batch | {'waypoints': waypoints}, train=True)
  words = [model.text.embed(row[row != PAD]) for row in jnp.asarray(batch['embeddings'], jnp.int32)]
  asked = jnp.stack([row.sum(0) / np.sqrt(len(row)) for row in words])
  newest = model.vision.stem(model.vision.prepare(batch['images'][:, 1]))
  found = model.gathered(model.queried(model.queried.place(newest), asked))
  np.testing.assert_allclose(found, context(model).found, atol=1e-5)
  squared = jnp.square(model.waypoint.linear(found.reshape(3, -1)) - (waypoints[:, 1] - mean[:3]) / std[:3]).mean(-1)
  expected = terms.metrics['action_loss'][0] + 10 * squared.sum()
  np.testing.assert_allclose(terms.total, expected, rtol=1e-4)


@pytest.mark.parametrize('size', [0, 5])
def test_the_heads_hear_of_what_was_found_and_of_the_state(size):
  model = built(dataclasses.replace(tiny_rt2.SEEKING, proprioception_size=size))
  batch = {name: jnp.asarray(array) for name, array in tiny_rt2.robot_batch(model.config, 2).items()}
  state = model.told(jax.random.normal(jax.random.key(1), (2, size))) if size else None
  seen = model.context(model.see(batch['images']), None, jnp.asarray(batch['embeddings'], jnp.int32), state=state)
  assert seen.mask.shape[1] == 4 + model.config.prompt_length + bool(size) + 2 and seen.mask[:, -2:].all()
  logits, known = model.act(seen), seen.found.reshape(2, -1)
  heard = model.follow.out(jax.nn.gelu(model.follow.hidden(
      known if state is None else jnp.concatenate([known, state], -1))))
  model.follow.out.kernel[...] *= 0
  model.follow.out.bias[...] *= 0
  difference = logits - model.act(seen)
  np.testing.assert_allclose(difference, jnp.einsum('bd,kdv->bkv', heard, model.heads[...]), atol=1e-5)
  assert np.abs(difference).max() > 0.1


@pytest.mark.parametrize('change, message', [
    ({'queried_tokens': 2}, 'model.vision.piece is 0'), ({'waypoint_weight': 1.0}, 'model.queried_tokens is 0'),
    ({'queried_tokens': -1}, 'model.queried_tokens is -1'), ({'point_weight': 1.0}, 'what points')])
def test_what_finds_things_needs_its_parts(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny_rt2.TINY, **change)


def test_a_grid_to_point_at_is_no_finer_than_the_pieces():
  with pytest.raises(ValueError, match=r'model\.point_cells is 5, expected 1 to 4, the pieces across'):
    dataclasses.replace(tiny_rt2.SEEKING, point_cells=5)


def test_visual_tokens_say_the_words_of_captions_and_of_things_to_point_at():
  model, batch = built(dataclasses.replace(tiny_rt2.TINY, words_weight=0.5)), tiny_rt2.text_batch(tiny_rt2.TINY, 3)
  batch = jax.tree.map(jnp.asarray, batch) | {
      'text_kinds': jnp.array([prompts.KINDS.index(kind) for kind in ('caption', 'vqa', 'point')])}
  terms, without = model.loss(batch, train=True), built(tiny_rt2.TINY).loss(batch, train=True)
  likely = np.log(np.exp(model.text.logits(model.see(batch['text_images'][:, None]).tokens[:, 0])).sum(1))
  likely -= np.log(np.exp(likely).sum(-1, keepdims=True))
  missed = []
  for row, ids in ((0, batch['text_targets'][0]), (2, batch['text_prompts'][2])):
    missed.append(-likely[row, sorted(set(ids.tolist()) - {PAD, END})].mean())
  np.testing.assert_allclose(terms.metrics['words_loss'], (sum(missed), 2), rtol=1e-4)
  counts = batch['text_weights'].sum(1)  # a row weighs as much as its answer
  np.testing.assert_allclose(terms.total - without.total, 0.5 * (missed[0] * counts[0] + missed[1] * counts[2]),
                             rtol=1e-3)
  assert terms.weight == without.weight and 'words_loss' not in without.metrics


def test_the_first_token_that_is_asked_for_looks_where_it_is_told_to_point():
  model, batch = built(tiny_rt2.SEEKING), jax.tree.map(jnp.asarray, tiny_rt2.text_batch(tiny_rt2.SEEKING, 3))
  cells = {1: (1, 0), 2: (0, 1)}  # column and row; the first of the three is not asked to point
  batch['text_points'] = jnp.array([(-1, -1), *cells.values()])
  terms = model.loss(batch, train=True)
  without = built(dataclasses.replace(tiny_rt2.SEEKING, point_weight=0.0)).loss(batch, train=True)
  words = [model.text.embed(row[row != PAD]) for row in batch['text_prompts']]
  asked = jnp.stack([row.sum(0) / np.sqrt(len(row)) for row in words])
  pieces = model.queried.place(model.vision.stem(model.vision.prepare(batch['text_images'])))
  shares = np.asarray(jax.nn.softmax(model.queried.scores(pieces, asked)[:, 0])).reshape(3, 4, 4)
  missed, hits = {}, 0
  for number, (column, row) in cells.items():
    missed[number] = -np.log(shares[number, 2 * row:2 * row + 2, 2 * column:2 * column + 2].sum())
    down, across = np.unravel_index(shares[number].argmax(), (4, 4))
    hits += (across // 2, down // 2) == (column, row)
  np.testing.assert_allclose(terms.metrics['pointing_loss'], (sum(missed.values()), 2), rtol=1e-4)
  assert terms.metrics['pointing'] == (hits, 2)
  counts = batch['text_weights'].sum(1)  # a row weighs as much as its answer
  np.testing.assert_allclose(terms.total - without.total, sum(missed[row] * counts[row] for row in cells), rtol=1e-3)
  assert terms.weight == without.weight and 'pointing' not in without.metrics
  del batch['text_points']
  with pytest.raises(ValueError, match="the batch has no 'text_points'"):
    model.loss(batch, train=True)


def test_teacher_forcing_equals_step_by_step_decoding_with_the_cache():
  model = built(tiny_rt2.TINY)
  seen, targets = context(model), tiny_rt2.prompts(3, 5, 7)
  at_once = model.read(seen, jnp.asarray(targets))
  cache, tokens = model.text.start_cache(*seen.memory, length=5), jnp.full(3, PAD, jnp.int32)
  for place in range(5):
    logits, cache = model._step(tokens, cache)
    np.testing.assert_allclose(logits, at_once[:, place], rtol=1e-4, atol=1e-4)
    tokens = jnp.asarray(targets[:, place])


def test_actions_said_one_by_one_are_those_that_teacher_forcing_finds_likeliest():
  model = built(tiny_rt2.TEXT)
  seen = context(model)
  said = model.act(seen)
  ids = jnp.asarray(model.config.action_ids)
  forced = model.read(seen, jnp.pad(ids[jnp.argmax(said, -1)], ((0, 0), (0, 1)), constant_values=END))
  possible = said > IMPOSSIBLE / 2
  np.testing.assert_allclose(jnp.where(possible, said, 0), jnp.where(possible, forced[:, :-1, ids], 0), rtol=1e-4,
                             atol=1e-4)


@BOTH
def test_padding_of_the_prompt_changes_nothing(config):
  batch = tiny_rt2.robot_batch(config, 4)
  longer = dataclasses.replace(config, prompt_length=config.prompt_length + 5)
  model = built(config)
  roomy = models.from_values(longer, models.parameters.named(model))
  padded = np.pad(batch['embeddings'], ((0, 0), (0, 5)))
  np.testing.assert_allclose(roomy(batch['images'], padded), model(batch['images'], batch['embeddings']), rtol=1e-4,
                             atol=1e-4)


def test_what_stands_in_place_of_frames_that_are_not_there_changes_nothing():
  config = dataclasses.replace(tiny_rt2.TINY, window=3)
  model, batch = built(config), tiny_rt2.robot_batch(config, 2)
  frames = np.array([[False, False, True], [False, True, True]])
  prompts, images, frames = (jnp.asarray(array) for array in (batch['embeddings'], batch['images'], frames))
  black = jnp.where(frames[..., None, None, None], images, 0)
  np.testing.assert_array_equal(model.apply(black, prompts, frames=frames), model.apply(images, prompts, frames=frames))
  assert np.abs(model.apply(black, prompts) - model.apply(images, prompts)).max() > 1e-3


@BOTH
@pytest.mark.parametrize('window, size', [(1, 0), (3, 0), (3, 5)])
def test_a_policy_sees_what_training_shows(config, window, size):
  config = dataclasses.replace(config, window=window, proprioception_size=size)
  model, batch = built(config), tiny_rt2.robot_batch(dataclasses.replace(config, window=5), 2)
  images, prompts = batch['images'], jnp.asarray(batch['embeddings'])
  history = model.empty_history(2)
  for step in range(5):
    state = jnp.full((2, size), step / 4) if size else None
    history, logits = model.advance(history, jnp.asarray(images[:, step]), prompts, state)
    first = max(0, step + 1 - window)
    missing = window - (step + 1 - first)
    padded = np.pad(images[:, first:step + 1], ((0, 0), (missing, 0), *[(0, 0)] * 3))
    frames = jnp.broadcast_to(jnp.arange(window) >= missing, (2, window))
    states = state if state is None else jnp.repeat(state[:, None], window, 1)
    expected = model.apply(jnp.asarray(padded), prompts, states, frames)[:, 0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_state_token_moves_actions_and_leaves_answers_alone():
  config = dataclasses.replace(tiny_rt2.TINY, proprioception_size=5)
  model, batch = built(config), tiny_rt2.robot_batch(config, 2)
  states = np.ones((2, 1, 5), np.float32)
  one, other = (model(batch['images'], batch['embeddings'], s) for s in (states, 2 * states))
  assert np.abs(one - other).max() > 1e-3
  with pytest.raises(ValueError, match=r'proprioception has shape None, expected \(2, 1, 5\)'):
    model(batch['images'], batch['embeddings'])
  with pytest.raises(ValueError, match="looks at the robot's state"):
    model.loss(batch, train=True)
  model.standardize(lambda name: {'proprioception': (np.ones(5), np.ones(5))}[name])
  terms = model.loss(jax.tree.map(jnp.asarray, batch | {'proprioception': states}), train=False)
  assert np.isfinite(terms.total)
  written = model.generate(batch['images'][:, 0], batch['embeddings'].astype(np.int32), length=3)
  assert written.shape == (2, 3)  # of a picture and a prompt alone


def test_the_constraint_never_lets_an_invalid_action_out():
  """Whatever the decoder would rather say: logits drawn at random, with words of the vocabulary far above bins."""
  spec, ids = tiny_rt2.SPEC, np.array(tiny_rt2.TEXT.action_ids)
  allowed = decoding.allowed_tokens(spec.token_bins, spec.vocab_size)
  heard = []

  def step(tokens, key):
    heard.append(tokens)
    key, now = jax.random.split(key)
    logits = 5 * jax.random.normal(now, (64, tiny_rt2.VOCABULARY))
    return logits.at[:, :20].add(1000.0), key

  for seed in range(20):
    with jax.disable_jit(seed < 2):  # twice in plain Python, to hear what the decoder is told
      scores = decoding.decode_actions(step, jax.random.key(seed), ids, allowed, batch=64, start=PAD)
    chosen = np.argmax(scores, -1)
    assert (chosen < np.array(spec.token_bins)).all() and len(np.unique(chosen)) == 8
    assert spec.detokenize(chosen.astype(np.int32)).shape == (64, spec.size)
  told = np.concatenate([np.asarray(tokens) for tokens in heard if not isinstance(tokens, jax.core.Tracer)])
  assert {PAD} < set(told.tolist()) <= {PAD, *ids.tolist()}


def test_a_text_policy_with_random_weights_says_valid_actions_only():
  for seed in range(5):
    model = built(tiny_rt2.TEXT, seed)
    said = np.argmax(model.act(context(model, seed, 32)), -1)
    assert (said < np.array(tiny_rt2.SPEC.token_bins)).all()


def test_greedy_answers_are_what_teacher_forcing_finds_likeliest():
  model = built(tiny_rt2.TINY)
  batch = tiny_rt2.text_batch(model.config, 6)
  written = np.asarray(model.generate(batch['text_images'], batch['text_prompts']))
  pictures = jnp.asarray(batch['text_images'][:, None])
  seen = model.context(model.see(pictures), None, jnp.asarray(batch['text_prompts']))
  likeliest = np.argmax(model.read(seen, jnp.asarray(written)), -1)
  ended = np.cumsum(written == END, 1) - (written == END) > 0
  np.testing.assert_array_equal(np.where(ended, PAD, likeliest), written)


def test_answers_end_where_they_end_and_rows_do_not_disturb_each_other():
  def step(tokens, cache):  # row r says r + 2 and counts down; at 1, the text has ended
    following = jnp.where(tokens == PAD, jnp.arange(4) + 2, tokens - 1)
    return jax.nn.one_hot(following, 9), cache
  written = decoding.generate(step, (), jax.random.key(0), batch=4, length=5, start=PAD, end=END, pad=PAD)
  np.testing.assert_array_equal(written, [[2, 1, 0, 0, 0], [3, 2, 1, 0, 0], [4, 3, 2, 1, 0], [5, 4, 3, 2, 1]])


def test_samples_follow_the_probabilities_of_the_likeliest_tokens():
  logits, keys = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]])), jax.random.split(jax.random.key(0), 4000)

  def share(temperature, top_k):
    drawn = jax.vmap(lambda key: decoding.sample(logits, key, temperature, top_k))(keys)
    return np.bincount(np.asarray(drawn).ravel(), minlength=4) / 4000
  np.testing.assert_allclose(share(1.0, 0), [0.5, 0.3, 0.15, 0.05], atol=0.03)
  np.testing.assert_allclose(share(1.0, 2), [0.625, 0.375, 0, 0], atol=0.03)
  np.testing.assert_allclose(share(0.5, 0), np.array([0.25, 0.09, 0.0225, 0.0025]) / 0.365, atol=0.03)  # squares
  assert share(0.0, 0)[0] == 1


def test_a_seed_gives_the_same_samples_and_another_one_others():
  model = built(tiny_rt2.TINY)
  batch = tiny_rt2.text_batch(model.config, 16)
  def draw(seed):
    return np.asarray(model.generate(batch['text_images'], batch['text_prompts'], temperature=1.0, seed=seed))
  np.testing.assert_array_equal(draw(1), draw(1))
  assert (draw(1) != draw(2)).any()


def test_lora_changes_nothing_at_first_and_merged_as_little():
  plain = built(tiny_rt2.TINY)
  adapted = models.build(tiny_rt2.ADAPTED, rngs=nnx.Rngs(1))
  values = models.parameters.named(adapted)
  added = [name for name in values if name not in models.parameters.named(plain)]
  assert len(added) == 2 * len(lora.adapted(adapted)) > 0 and all(name.endswith(('lora_a', 'lora_b')) for name in added)
  models.parameters.assign(adapted, values | models.parameters.named(plain))
  batch = tiny_rt2.robot_batch(tiny_rt2.TINY, 4)
  inputs = batch['images'], batch['embeddings']
  np.testing.assert_array_equal(adapted(*inputs), plain(*inputs))

  random = np.random.default_rng(0)
  moved = {name: random.normal(size=values[name].shape) * 0.3 for name in added}
  models.parameters.assign(adapted, models.parameters.named(adapted) | moved)
  before = adapted(*inputs)
  assert np.abs(before - plain(*inputs)).max() > 0.05
  merged = lora.merge(adapted)
  assert merged.config == tiny_rt2.TINY
  assert models.parameters.shapes(merged) == models.parameters.shapes(plain)
  np.testing.assert_allclose(merged(*inputs), before, rtol=1e-3, atol=1e-3)


@BOTH
def test_a_configuration_survives_json(config):
  import json
  assert models.config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize('change, message', [
    ({'prompt_length': 0}, 'model.prompt_length is 0'), ({'window': 0}, 'model.window is 0'),
    ({'label_smoothing': 1.0}, 'label_smoothing is 1.0'), ({'words_weight': -1.0}, 'words_weight is -1.0'),
    ({'smoothing': -1.0}, 'smoothing is -1.0'),
    ({'act': 'text', 'decoding': 'mean'}, "are for heads, model.act is 'text'"),
    ({'action_ids': (1, 2)}, 'has 2 different ids for 8 bins'),
    ({'action_ids': tuple(range(35, 43))}, 'go from 35 to 42, the text model has ids 0 to 39')])
def test_bad_configurations(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny_rt2.TINY, **change)


@pytest.mark.parametrize('images, prompts, message', [
    (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 6)), r'images has shape \(1, 16, 16, 3\), expected \[B, T, H'),
    (np.zeros((1, 2, 16, 16, 3), np.uint8), np.zeros((1, 6)), 'with T from 1 to 1'),
    (np.zeros((1, 1, 16, 16, 4), np.uint8), np.zeros((1, 6)), 'expected'),
    (np.zeros((1, 1, 16, 16, 3)), np.zeros((1, 6)), 'has type float64, expected uint8'),
    (np.zeros((1, 1, 16, 16, 3), np.uint8), np.zeros((1, 7)), r'embeddings has shape \(1, 7\), expected \(1, 6\)'),
    (np.zeros((1, 1, 16, 16, 3), np.uint8), np.full((1, 6), 40.0), 'whole numbers from 0 to 39'),
    (np.zeros((1, 1, 16, 16, 3), np.uint8), np.full((1, 6), 0.5), 'whole numbers from 0 to 39')])
def test_bad_inputs(images, prompts, message):
  with pytest.raises(ValueError, match=message):
    built(tiny_rt2.TINY)(images, prompts)


@pytest.mark.parametrize('images, texts, options, message', [
    (np.zeros((1, 1, 16, 16, 3), np.uint8), np.zeros((1, 6), np.int32), {}, r'expected uint8 \[B, H, W, 3\]'),
    (np.zeros((1, 16, 16, 3)), np.zeros((1, 6), np.int32), {}, 'images is float64'),
    (np.zeros((2, 16, 16, 3), np.uint8), np.zeros((1, 6), np.int32), {}, 'prompts has shape'),
    (np.zeros((1, 16, 16, 3), np.uint8), ['what?'], {}, 'has no vocabulary'),
    (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 6), np.int32), {'task': 'vqa'}, 'task'),
    (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 6), np.int32), {'temperature': -1.0}, 'temperature is -1.0'),
    (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 6), np.int32), {'length': 0}, 'length is 0')])
def test_bad_questions(images, texts, options, message):
  with pytest.raises(ValueError, match=message):
    built(tiny_rt2.TINY).generate(images, texts, **options)


def test_text_without_a_vocabulary_cannot_act():
  model = models.build(dataclasses.replace(tiny_rt2.TEXT, action_ids=()), rngs=nnx.Rngs(0))
  batch = tiny_rt2.robot_batch(tiny_rt2.TEXT, 1)
  with pytest.raises(ValueError, match='action_ids is empty'):
    model(batch['images'], batch['embeddings'])


def test_defaults_act_with_seven_tokens_of_256():
  spec = RT2Config().action_spec
  assert spec == actions.ARM_7D and spec.token_bins == (256,) * 7
