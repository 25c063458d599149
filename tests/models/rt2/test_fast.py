"""FAST inside jit against the codec on the host, and decoding and loss against loops by hand."""
import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_rt2
from helpers.tiny_rt2 import FAST_SPEC, chunks, compiled, randomised

pytest.importorskip('tokenizers', reason="needs the extra 'language'")

from rtjax import models
from rtjax.language.fast import FastCodec
from rtjax.models.backbones.t5 import END, PAD
from rtjax.models.loss import IMPOSSIBLE
from rtjax.models.rt2 import fast

HALF = np.subtract(*FAST_SPEC.bounds[::-1]) / 2
# Windows with all their actions, at an episode's last step, one step before, and of padding.
MASK = np.array([[[1, 1, 1, 1]], [[1, 0, 0, 0]], [[1, 1, 0, 0]], [[0, 0, 0, 0]]], bool)


@pytest.fixture(scope='module')
def codec():
  return tiny_rt2.fast().action_codec


@pytest.mark.parametrize('size', [64, 41])  # 41: single coefficients alone
def test_tokens_and_chunks_are_those_of_the_codec(size):
  codec, some = tiny_rt2.fast(size).action_codec, chunks(200, seed=1)
  assert codec.size == size
  tokens = np.asarray(jax.jit(lambda x: fast.encode(codec, x))(some))
  expected = codec.encode(some)
  assert [[token for token in row if token < size] for row in tokens.tolist()] == expected
  assert all((row[len(ids):] == size).all() for row, ids in zip(tokens, expected, strict=True))
  decoded = np.array([codec.decode(ids) for ids in expected])
  for found in (fast.decode(codec, tokens), jax.jit(lambda x: fast.decode(codec, x))(tokens)):
    np.testing.assert_allclose(found, decoded, atol=1e-6)
  error = (fast.decode(codec, tokens) - some) / HALF
  assert np.sqrt(np.mean(error ** 2, 1)).max() <= 0.5 / codec.scale + 1e-6


def test_classes_are_those_recorded():
  """At the coarsest scale that the configuration takes; every step has another class."""
  spec, random = tiny_rt2.SPEC, np.random.default_rng(2)
  tokens = np.stack([random.integers(0, bins, (500, 16)) for bins in spec.token_bins], -1)
  some = spec.detokenize(tokens).astype(np.float32)
  config = dataclasses.replace(tiny_rt2.TINY, action_head='fast', horizon=16, fast_scale=2.1, action_ids=())
  config = config.with_codec(lambda: some)
  config = dataclasses.replace(config, action_ids=tuple(range(config.action_words)), backbone=dataclasses.replace(
      config.backbone, text=dataclasses.replace(config.backbone.text, vocab_size=config.action_words)))
  codec = config.action_codec
  logits = jax.nn.one_hot(fast.encode(codec, jnp.asarray(some)), codec.size + 1)
  for found in (config.decode(np.asarray(logits)), jax.jit(config.decode)(logits)):
    np.testing.assert_array_equal(spec.unpack(found)['grip'], spec.unpack(some)['grip'])
  nothing = np.broadcast_to(np.eye(codec.size + 1, dtype=np.float32)[-1], logits.shape)
  assert np.isnan(config.decode(nothing)).all()


def test_tokens_that_the_codec_cannot_decode_are_no_actions(codec):
  """Random texts: too short, too long, and now and then a chunk."""
  random = np.random.default_rng(0)
  texts = np.full((300, 12), codec.size)
  for row in texts:
    count = random.integers(5, 13)
    row[:count] = random.integers(0, codec.size, count)
  found, valid = fast.decode(codec, texts), 0
  for text, actions in zip(texts, found, strict=True):
    try:
      expected = codec.decode(text[text < codec.size])
    except ValueError:
      assert np.isnan(actions).all()
    else:
      np.testing.assert_allclose(actions, expected, atol=1e-6)
      valid += 1
  assert 10 < valid < 200


def test_the_last_action_repeats_after_the_end_of_an_episode():
  some = jnp.asarray(chunks(4))
  filled = fast.repeat_last(some, jnp.asarray(MASK[:, 0]))
  np.testing.assert_array_equal(filled[0], some[0])
  np.testing.assert_array_equal(filled[1], some[1][jnp.array([0, 0, 0, 0])])
  np.testing.assert_array_equal(filled[2], some[2][jnp.array([0, 1, 1, 1])])


def batch(config, seed=0):
  made = tiny_rt2.robot_batch(config, 4, seed)
  return jax.device_put(dataclasses.replace(made, actions=chunks(4, seed=seed)[:, None], action_mask=MASK))


def test_texts_are_the_likeliest_that_are_a_chunk(codec):
  """By hand: teacher forcing token by token, without those that are too long for the rest of the chunk."""
  model = randomised(tiny_rt2.fast())
  encoded = compiled(model, 'encode_observation', batch(model.config).observation)
  logits = np.asarray(compiled(model, 'action_logits', encoded))
  ids, left = np.array(model.config.action_ids), np.full(4, 12)
  written, ended = np.zeros((4, 12), np.int32), np.append(np.full(codec.size, IMPOSSIBLE), 0)
  for position in range(12):
    following = np.asarray(compiled(model, 'text_logits', encoded, jnp.asarray(written)))[:, position, ids]
    for row in range(4):
      if not left[row]:
        np.testing.assert_array_equal(logits[row, position], ended.astype(np.float32))
        continue
      scores = np.append(np.where(codec.lengths <= left[row], following[row], IMPOSSIBLE), IMPOSSIBLE)
      np.testing.assert_allclose(logits[row, position], scores, rtol=1e-4, atol=1e-4)
      token = scores.argmax()
      written[row, position] = ids[token]
      left[row] -= codec.lengths[token]
  assert not left.any()
  actions = model.config.decode(logits)
  assert actions.shape == (4, 4, 3) and np.isfinite(actions).all()


def test_loss_of_the_tokens_of_each_chunk_and_the_end_of_its_text(codec):
  model = randomised(tiny_rt2.fast())
  made = batch(model.config)
  ids, filled = np.array(model.config.action_ids), fast.repeat_last(made.actions[:, 0], made.action_mask[:, 0])
  texts = [[*ids[tokens], END] for tokens in codec.encode(np.asarray(filled))]
  targets = np.array([text + [PAD] * (13 - len(text)) for text in texts], np.int32)
  encoded = compiled(model, 'encode_observation', made.observation)
  logits = compiled(model, 'text_logits', encoded, jnp.asarray(targets))
  bits = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), targets[..., None], 2)[..., 0]
  terms = compiled(model, 'loss', made, train=False)
  expected = sum(bits[row, :len(texts[row])].mean() for row in range(3))  # the fourth is padding
  np.testing.assert_allclose(terms.total, expected, rtol=1e-5)
  assert terms.weight == 3 and terms.metrics['accuracy'][1] == sum(map(len, texts[:3]))
  generated = model.config.decode(np.asarray(compiled(model, 'action_logits', encoded)))
  error = np.abs(generated - np.asarray(made.actions[:, 0])) * MASK[:, 0, :, None]
  np.testing.assert_allclose(terms.metrics['l1'][0], error.sum((0, 1)), rtol=1e-4)
  np.testing.assert_array_equal(terms.metrics['l1'][1], MASK.sum())


def test_a_codec_is_fitted_once_and_stored(codec, monkeypatch):
  fitted = tiny_rt2.fast()
  stored = models.config_to_json(fitted)
  assert models.config_from_json(stored) == fitted
  with monkeypatch.context() as patch:
    patch.setitem(sys.modules, 'tokenizers', None)
    with pytest.raises(ValueError, match=r"need the package tokenizers: pip install 'rtjax\[language\]'"):
      models.config_from_json(stored)

  def no_data():
    raise AssertionError('the data was read')
  assert fitted.with_codec(no_data) == fitted
  empty = dataclasses.replace(fitted, action_codec=None, action_ids=())
  coarse = FastCodec.fit(chunks(50), *FAST_SPEC.bounds, scale=5.0, size=64)
  assert empty.with_codec(no_data, [coarse, codec]).action_codec == codec
  assert empty.with_codec(lambda: chunks(300), [coarse]).action_codec == codec
  with pytest.raises(ValueError, match=r'model\.action_codec was fitted for another'):
    dataclasses.replace(empty, action_codec=coarse)
  with pytest.raises(ValueError, match=r"model\.action_codec is set and model\.action_head is 'text'"):
    dataclasses.replace(fitted, action_head='text')
  with pytest.raises(ValueError, match=r'action_head is .fast. and model\.action_ids is empty'):
    models.build(empty, seed=0).action_logits(compiled(
        randomised(fitted), 'encode_observation', batch(fitted).observation))


def test_a_configuration_is_completed_without_data_and_tokenizer():
  """To be compiled alone."""
  for empty in (dataclasses.replace(tiny_rt2.fast(), action_codec=None, action_ids=()),
                dataclasses.replace(tiny_rt2.TEXT, action_ids=())):
    config = empty.with_placeholders()
    assert config.action_ids == tuple(range(config.action_words)) and config.action_words >= 8
