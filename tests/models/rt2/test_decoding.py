"""Decoding of text and actions from random and from scripted logits."""
import jax
import jax.numpy as jnp
import numpy as np
from helpers import tiny_rt2

from rtjax.models.backbones.t5 import END, PAD
from rtjax.models.rt2 import decoding


def test_only_valid_actions_are_decoded():
  """Logits are random, those of words far above those of bins."""
  spec, ids = tiny_rt2.SPEC, np.array(tiny_rt2.TEXT.action_ids)
  allowed = decoding.allowed_bins(spec.token_bins, spec.vocab_size)
  inputs = []

  def step(key, tokens):
    inputs.append(tokens)
    key, now = jax.random.split(key)
    logits = 5 * jax.random.normal(now, (64, tiny_rt2.VOCAB_SIZE))
    return key, logits.at[:, :20].add(1000.0)

  for seed in range(20):
    with jax.disable_jit(seed < 2):  # twice in plain Python, to record the decoder's inputs
      scores = decoding.decode_actions(step, jax.random.key(seed), ids, allowed, batch=64, begin=PAD)
    chosen = np.argmax(scores, -1)
    assert (chosen < np.array(spec.token_bins)).all() and len(np.unique(chosen)) == 8
    assert spec.detokenize(chosen.astype(np.int32)).shape == (64, spec.size)
  recorded = np.concatenate([np.asarray(tokens) for tokens in inputs if not isinstance(tokens, jax.core.Tracer)])
  assert {PAD} < set(recorded.tolist()) <= {PAD, *ids.tolist()}


def test_texts_end_and_rows_are_independent():
  def step(cache, tokens):  # row r starts with r + 2 and counts down; 1 ends the text
    following = jnp.where(tokens == PAD, jnp.arange(4) + 2, tokens - 1)
    return cache, jax.nn.one_hot(following, 9)
  texts = decoding.generate(step, (), jax.random.key(0), batch=4, length=5, begin=PAD, end=END, pad=PAD)
  np.testing.assert_array_equal(texts, [[2, 1, 0, 0, 0], [3, 2, 1, 0, 0], [4, 3, 2, 1, 0], [5, 4, 3, 2, 1]])


def test_samples_follow_the_probabilities_of_the_likeliest_tokens():
  logits, keys = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]])), jax.random.split(jax.random.key(0), 4000)

  def share(temperature, top_k):
    drawn = jax.vmap(lambda key: decoding.sample(logits, key, temperature, top_k))(keys)
    return np.bincount(np.asarray(drawn).ravel(), minlength=4) / 4000
  np.testing.assert_allclose(share(1.0, 0), [0.5, 0.3, 0.15, 0.05], atol=0.03)
  np.testing.assert_allclose(share(1.0, 2), [0.625, 0.375, 0, 0], atol=0.03)
  np.testing.assert_allclose(share(0.5, 0), np.array([0.25, 0.09, 0.0225, 0.0025]) / 0.365, atol=0.03)  # squares
  assert share(0.0, 0)[0] == 1
