"""RT-2 on tiny networks: logits, cache, language, errors."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import tiny_rt2
from helpers.tiny_rt2 import compiled, randomised

from rtjax import models
from rtjax.models.backbones.t5 import END, PAD
from rtjax.models.loss import IMPOSSIBLE
from rtjax.observation import Observation

BOTH_HEADS = pytest.mark.parametrize('config', [tiny_rt2.TINY, tiny_rt2.TEXT], ids=['classifier', 'text'])


def call(model, observation):
  return model(observation.images, observation.prompt, observation.proprioception)


def observed(config, size, seed=0):
  return tiny_rt2.robot_batch(config, size, seed).observation


def context(model, seed=0, size=3):
  return compiled(model, 'encode_observation', jax.device_put(observed(model.config, size, seed)))


@BOTH_HEADS
def test_shapes_and_order_of_a_batch(config):
  model, observation = randomised(config), observed(config, 3)
  logits = call(model, observation)
  assert logits.shape == (3, 1, 3, 8) and logits.dtype == jnp.float32
  for row in range(3):
    alone = model(observation.images[row:row + 1], observation.prompt[row:row + 1])
    np.testing.assert_allclose(alone[0], logits[row], rtol=1e-4, atol=1e-4)


@BOTH_HEADS
def test_bfloat16_is_near(config):
  model, observation = randomised(config), observed(config, 4)
  coarse = models.from_values(dataclasses.replace(config, dtype='bfloat16'), models.parameters.named(model))
  found, expected = (call(m, observation)[..., 0, :] for m in (coarse, model))
  # So narrow a network rounds coarsely: 8 bits of 16 numbers.
  np.testing.assert_allclose(found, expected, atol=0.2 * np.abs(expected).max())
  assert np.abs(found - expected).mean() < 0.05 * np.abs(expected).max()
  assert found.dtype == jnp.float32 and np.abs(found - expected).max() > 0


def test_teacher_forcing_equals_step_by_step_decoding_with_the_cache():
  model = randomised(tiny_rt2.TINY)
  encoded, targets = context(model), jnp.asarray(tiny_rt2.prompts(3, 5, 7))
  expected = compiled(model, 'text_logits', encoded, targets)
  cache, tokens = compiled(model.backbone, 'start_cache', encoded.memory, length=5), jnp.full(3, PAD, jnp.int32)
  for position in range(5):
    cache, hidden = compiled(model.backbone, 'decode_step', cache, tokens)
    np.testing.assert_allclose(model.backbone.logits(hidden), expected[:, position], rtol=1e-4, atol=1e-4)
    tokens = targets[:, position]


def test_actions_as_text_are_those_that_teacher_forcing_finds_likeliest():
  model = randomised(tiny_rt2.TEXT)
  encoded = context(model)
  logits = compiled(model, 'action_logits', encoded)
  ids = jnp.asarray(model.config.action_ids)
  text = jnp.pad(ids[jnp.argmax(logits, -1)], ((0, 0), (0, 1)), constant_values=END)
  forced = compiled(model, 'text_logits', encoded, text)
  possible = logits > IMPOSSIBLE / 2
  np.testing.assert_allclose(jnp.where(possible, logits, 0), jnp.where(possible, forced[:, :-1, ids], 0), rtol=1e-4,
                             atol=1e-4)


@BOTH_HEADS
def test_padding_of_the_prompt_changes_nothing(config):
  observation = observed(config, 4)
  longer = dataclasses.replace(config, prompt_length=config.prompt_length + 5)
  model = randomised(config)
  other = models.from_values(longer, models.parameters.named(model))
  padded = np.pad(observation.prompt, ((0, 0), (0, 5)))
  np.testing.assert_allclose(other(observation.images, padded), call(model, observation), rtol=1e-4, atol=1e-4)


def test_images_of_padded_frames_change_nothing():
  config = dataclasses.replace(tiny_rt2.TINY, window=3)
  model, observation = randomised(config), jax.device_put(observed(config, 2))
  frame_mask = jnp.array([[False, False, True], [False, True, True]])
  black = jnp.where(frame_mask[..., None, None, None], observation.images, 0)
  masked = dataclasses.replace(observation, frame_mask=frame_mask)
  with_black, usual, unmasked_black, unmasked = (compiled(model, 'logits', o) for o in (
      dataclasses.replace(masked, images=black), masked, dataclasses.replace(observation, images=black), observation))
  np.testing.assert_array_equal(with_black, usual)
  assert np.abs(unmasked_black - unmasked).max() > 1e-3


@BOTH_HEADS
@pytest.mark.parametrize('window, size', [(1, 0), (3, 0), (3, 5)])
def test_steps_with_the_cache_equal_windows(config, window, size):
  config = dataclasses.replace(config, window=window, proprioception_size=size)
  model, episode = randomised(config), observed(dataclasses.replace(config, window=5), 2)
  images, prompt = jnp.asarray(episode.images), jnp.asarray(episode.prompt)
  cache = model.init_cache(2)
  for step in range(5):
    state = jnp.full((2, 1, size), step / 4) if size else None
    newest = Observation(images[:, step:step + 1], prompt=prompt, proprioception=state)
    cache, logits = compiled(model, 'step', cache, newest)
    first = max(0, step + 1 - window)
    missing = window - (step + 1 - first)
    padded = jnp.pad(images[:, first:step + 1], ((0, 0), (missing, 0), *[(0, 0)] * 3))
    frame_mask = jnp.broadcast_to(jnp.arange(window) >= missing, (2, window))
    states = None if state is None else jnp.repeat(state, window, 1)
    expected = compiled(model, 'logits', Observation(padded, frame_mask, prompt=prompt, proprioception=states))
    np.testing.assert_allclose(logits, expected[:, 0], rtol=1e-4, atol=1e-4)


def test_the_state_token_changes_actions_and_no_answers():
  config = dataclasses.replace(tiny_rt2.TINY, proprioception_size=5)
  model, batch = nnx.clone(randomised(config)), tiny_rt2.robot_batch(config, 2)
  images, prompt = batch.observation.images, batch.observation.prompt
  states = np.ones((2, 1, 5), np.float32)
  one, other = (model(images, prompt, s) for s in (states, 2 * states))
  assert np.abs(one - other).max() > 1e-3
  with pytest.raises(ValueError, match=r'proprioception has shape None, expected \(2, 1, 5\)'):
    model(images, prompt)
  batch = jax.device_put(batch)
  with pytest.raises(ValueError, match='uses the robot state'):
    compiled(model, 'loss', batch, train=True)
  model.set_normalization(lambda name: {'proprioception': (np.ones(5), np.ones(5))}[name])
  observation = dataclasses.replace(batch.observation, proprioception=jnp.asarray(states))
  terms = compiled(model, 'loss', dataclasses.replace(batch, observation=observation), train=False)
  assert np.isfinite(terms.total)
  answers = model.generate(images[:, 0], prompt, length=3)
  assert answers.shape == (2, 3)  # from an image and a prompt, without a state


def test_text_with_random_weights_is_a_valid_action():
  for seed in range(5):
    model = randomised(tiny_rt2.TEXT, seed)
    bins = np.argmax(compiled(model, 'action_logits', context(model, seed, 32)), -1)
    assert (bins < np.array(tiny_rt2.SPEC.token_bins)).all()


def test_greedy_answers_are_those_that_teacher_forcing_finds_likeliest():
  model = randomised(tiny_rt2.TINY)
  batch = tiny_rt2.text_batch(model.config, 6)
  answers = np.asarray(model.generate(batch.images, batch.prompts))
  images = compiled(model, 'encode_images', jnp.asarray(batch.images[:, None]))
  encoded = compiled(model, 'encode', images, jnp.asarray(batch.prompts))
  likeliest = np.argmax(compiled(model, 'text_logits', encoded, jnp.asarray(answers)), -1)
  ended = np.cumsum(answers == END, 1) - (answers == END) > 0
  np.testing.assert_array_equal(np.where(ended, PAD, likeliest), answers)


def test_a_seed_gives_the_same_samples_and_another_one_others():
  model = randomised(tiny_rt2.TINY)
  batch = tiny_rt2.text_batch(model.config, 16)

  def draw(seed):
    return np.asarray(model.generate(batch.images, batch.prompts, temperature=1.0, seed=seed))
  np.testing.assert_array_equal(draw(1), draw(1))
  assert (draw(1) != draw(2)).any()


IMAGE, PROMPT = np.zeros((1, 1, 16, 16, 3), np.uint8), np.zeros((1, 6), np.int32)


@pytest.mark.parametrize('images, prompt, message', [
    (IMAGE[0], PROMPT, r'images has shape \(1, 16, 16, 3\), expected \[B, T, H'),
    (np.zeros((1, 2, 16, 16, 3), np.uint8), PROMPT, 'with T from 1 to 1'),
    (np.zeros((1, 1, 16, 16, 4), np.uint8), PROMPT, 'expected'),
    (np.zeros((1, 1, 16, 16, 3)), PROMPT, 'has type float64, expected uint8'),
    (IMAGE, np.zeros((1, 7), np.int32), r'prompt has shape \(1, 7\), expected \(1, 6\)'),
    (IMAGE, np.full((1, 6), 40), 'token ids from 40 to 40, expected 0 to 39'),
    (IMAGE, np.full((1, 6), 0.5), r'instruction has shape \(1, 6\), expected None')])
def test_bad_inputs(images, prompt, message):
  with pytest.raises(ValueError, match=message):
    randomised(tiny_rt2.TINY)(images, prompt)


@pytest.mark.parametrize('images, texts, options, message', [
    (IMAGE, PROMPT, {}, r'expected uint8 \[B, H, W, 3\]'),
    (np.zeros((1, 16, 16, 3)), PROMPT, {}, 'images is float64'),
    (np.zeros((2, 16, 16, 3), np.uint8), PROMPT, {}, 'prompts has shape'),
    (IMAGE[0], ['what?'], {}, 'has no tokenizer'),
    (IMAGE[0], PROMPT, {'task': 'vqa'}, 'task'),
    (IMAGE[0], PROMPT, {'temperature': -1.0}, 'temperature is -1.0'),
    (IMAGE[0], PROMPT, {'length': 0}, 'length is 0')])
def test_bad_questions(images, texts, options, message):
  with pytest.raises(ValueError, match=message):
    randomised(tiny_rt2.TINY).generate(images, texts, **options)


def test_text_without_a_tokenizer_cannot_act():
  model = models.build(dataclasses.replace(tiny_rt2.TEXT, action_ids=()), seed=0)
  with pytest.raises(ValueError, match='action_ids is empty'):
    call(model, observed(tiny_rt2.TEXT, 1))
