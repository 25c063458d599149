"""T5, mT5 and UL2 against the reference; the cache against the decoder."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import golden_huggingface
from helpers.compiled import Compiled
from helpers.golden_huggingface import close, equal_ids, run

from rtjax import models
from rtjax.models.backbones import t5
from rtjax.models.backbones.t5 import T5Config

CASES = ['t5_v11', 'mt5', 't5_ul2']
# test_golden compares the outputs of all of them.
ONE_QUICKLY = [CASES[0], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[1:])]
TINY = T5Config(vocab_size=31, width=16, head_size=6, mlp_width=20, encoder_layers=2, decoder_layers=3, heads=3,
                buckets=8, max_distance=12)


@pytest.fixture(scope='module')
def tiny():
  return Compiled(models.build(TINY, seed=0))


def ids(seed: int, *shape: int) -> jax.Array:
  return jax.random.randint(jax.random.key(seed), shape, 1, TINY.vocab_size)


def forward(model, inputs, mask, tokens):
  memory = model.encode(model.embed(inputs), mask)
  return memory, model.logits(model.decode(tokens, memory, mask))


def cross_entropy(logits, labels):
  """Return the mean over the labels that are not negative."""
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
  return jnp.sum(jnp.where(labels >= 0, loss, 0)) / jnp.sum(labels >= 0)


def greedy(model, memory, mask, length: int = 8):
  """Return the ids of greedy decoding with the cache, in one scan."""
  def step(carry, _):
    cache, tokens = carry
    cache, hidden = model.decode_step(cache, tokens)
    tokens = jnp.argmax(model.logits(hidden), -1).astype(jnp.int32)
    return (cache, tokens), tokens
  first = jnp.zeros(len(memory), jnp.int32)
  _, generated = jax.lax.scan(step, (model.start_cache(memory, mask, length=length), first), length=length)
  return jnp.concatenate([first[None], generated]).T


@pytest.mark.parametrize('case', CASES)
def test_golden(shared, case):
  model, golden = golden_huggingface.load(shared, case)
  inputs, mask, labels = (jnp.asarray(golden[name]) for name in ('input_ids', 'attention_mask', 'labels'))
  mask = mask == 1
  np.testing.assert_array_equal(t5.shift_right(labels), golden['decoder_input_ids'])
  memory, logits = run(model, forward, inputs, mask, t5.shift_right(labels))
  close(memory[mask], golden['encoder_last_hidden_state'][mask], 'encoder_last_hidden_state')
  close(logits, golden['logits'], 'logits')
  close(cross_entropy(logits, labels), golden['loss'], 'loss')
  close(run(model, lambda m, inputs: m.encode(m.embed(inputs)), inputs[:1]), golden['nomask_encoder_last_hidden_state'],
        'nomask_encoder_last_hidden_state')


# It finds the layer that differs when test_golden fails.
@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_golden_layers(shared, case):
  model, golden = golden_huggingface.load(shared, case)
  mask, memory = jnp.asarray(golden['attention_mask'] == 1), jnp.asarray(golden['encoder_last_hidden_state'])
  close(model.embed(jnp.asarray(golden['input_ids'])), golden['encoder_hidden_0'], 'encoder_hidden_0')
  for name, stack, visible in (('encoder', model.encoder, mask[:, None]),
                               ('decoder', model.decoder, jnp.tri(golden['labels'].shape[1], dtype=bool)[None])):
    x = jnp.asarray(golden[f'{name}_hidden_0'])
    bias = stack.position_bias(x.shape[1])
    # The reference's bias holds its mask as well.
    unmasked = np.broadcast_to(golden[f'{name}_position_bias'] > -1e30, (1, *bias.shape))
    close(np.asarray(bias)[None][unmasked], golden[f'{name}_position_bias'][unmasked], f'{name}_position_bias')
    inputs = () if name == 'encoder' else (memory, mask)
    counted = np.asarray(mask) if name == 'encoder' else np.ones(x.shape[:2], bool)
    for i, layer in enumerate(stack.layers):
      x = Compiled(layer)(x, bias, visible, *inputs)
      if i + 1 < len(stack.layers):  # the reference's last is after the final norm
        close(x[counted], golden[f'{name}_hidden_{i + 1}'][counted], f'{name}_hidden_{i + 1}')
    last = f'{name}_hidden_{len(stack.layers)}'
    close(stack.norm(x)[counted], golden[last][counted], last)


@pytest.mark.parametrize('case', ONE_QUICKLY)
def test_golden_of_visual_embeddings(shared, case):
  """Embeddings of images before those of text, as in PaLI."""
  model, golden = golden_huggingface.load(shared, case)
  labels, mask = jnp.asarray(golden['embeds_labels']), jnp.asarray(golden['embeds_attention_mask'] == 1)

  def predict(model, visual, text):
    memory = model.encode(jnp.concatenate([visual, model.embed(text)], 1), mask)
    return memory, model.logits(model.decode(t5.shift_right(labels), memory, mask)), greedy(model, memory, mask)
  memory, logits, generated = run(model, predict, golden['embeds_visual'], golden['embeds_text_ids'])
  close(memory[mask], golden['embeds_encoder_last_hidden_state'][mask], 'embeds_encoder_last_hidden_state')
  close(logits, golden['embeds_logits'], 'embeds_logits')
  close(cross_entropy(logits, labels), golden['embeds_loss'], 'embeds_loss')
  equal_ids(generated, golden['embeds_generate_ids'], 'embeds_generate_ids')


@pytest.mark.parametrize('case', ONE_QUICKLY)
def test_golden_greedy_decoding(shared, case):
  """With the cache. In t5_v11 the encoder is deeper than the decoder."""
  model, golden = golden_huggingface.load(shared, case)

  def generate(model, inputs, mask):
    return greedy(model, model.encode(model.embed(inputs), mask), mask)
  equal_ids(run(model, generate, golden['input_ids'], golden['attention_mask'] == 1), golden['generate_ids'],
            'generate_ids')


def test_golden_buckets(shared):
  golden = np.load(shared / 'parity/vlm/t5_buckets.npz')
  for name in set(golden) - {'relative_position'}:
    _, count, distance, direction = name.split('_')
    config = T5Config(buckets=int(count), max_distance=int(distance))
    found = t5.buckets(golden['relative_position'], config, causal=direction == 'causal')
    np.testing.assert_array_equal(found, golden[name], err_msg=name)


@pytest.mark.parametrize('unused', [0, 5])
def test_step_by_step_equals_teacher_forced(tiny, unused):
  inputs, tokens, mask = ids(1, 3, 9), ids(2, 3, 20), jnp.arange(9) < jnp.array([[9], [4], [7]])
  memory = tiny.encode(tiny.embed(inputs), mask)
  expected = tiny.decode(tokens, memory, mask)

  def step(cache, token):
    return tiny.decode_step(cache, token)
  start = tiny.start_cache(memory, mask, length=20 + unused)
  cache, hidden = jax.lax.scan(step, start, tokens.T)
  np.testing.assert_allclose(hidden.swapaxes(0, 1), expected, atol=2e-5)
  assert cache.length == 20 and jax.tree.structure(cache) == jax.tree.structure(start)
  embedded = tiny.embed(tokens)
  np.testing.assert_array_equal(tiny.decode(embedded, memory, mask), expected)
  np.testing.assert_array_equal(tiny.decode_step(start, embedded[:, 0])[1], tiny.decode_step(start, tokens[:, 0])[1])


def test_cross_attention_is_computed_once(tiny):
  """A step reads the memory's keys and values from the cache."""
  model = tiny.module
  memory = tiny.encode(tiny.embed(ids(1, 2, 5)))
  start = tiny.start_cache(memory, length=3)
  after, hidden = model.decode_step(start, ids(2, 2))
  assert after.layers.memory_key is start.layers.memory_key and after.layers.memory_value is start.layers.memory_value
  without = start._replace(layers=start.layers._replace(memory_value=0 * start.layers.memory_value))
  assert np.abs(tiny.decode_step(without, ids(2, 2))[1] - hidden).max() > 1e-3


def test_padding_changes_nothing(tiny):
  """Its ids do not matter, nor its side, since distances are relative."""
  inputs, tokens = ids(1, 2, 6), ids(2, 2, 4)
  memory, expected = forward(tiny, inputs, None, tokens)
  for front, back in ((0, 5), (5, 0), (2, 3)):
    padded = jnp.concatenate([ids(3, 2, front), inputs, ids(4, 2, back)], 1)
    mask = jnp.broadcast_to((jnp.arange(11) >= front) & (jnp.arange(11) < front + 6), (2, 11))
    encoded, logits = forward(tiny, padded[:, :front + 6 + back], mask[:, :front + 6 + back], tokens)
    np.testing.assert_allclose(encoded[:, front:front + 6], memory, atol=1e-5)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_the_decoder_is_causal(tiny):
  memory, tokens = tiny.encode(tiny.embed(ids(1, 1, 5))), ids(2, 1, 8)
  other = tokens.at[:, 5].set((tokens[:, 5] + 1) % TINY.vocab_size)
  difference = np.abs(tiny.decode(tokens, memory) - tiny.decode(other, memory)).max((0, 2))
  assert (difference[:5] == 0).all() and (difference[5:] > 1e-3).all()


def test_tied_logits_come_from_the_table():
  model = models.build(dataclasses.replace(TINY, tied=True), seed=0)
  hidden = jax.random.normal(jax.random.key(0), (2, 16))
  np.testing.assert_allclose(model.logits(hidden), hidden @ model.token_embedding.embedding[...].T / 4, atol=1e-5)
  assert not any('token_head' in name for name in models.parameters.shapes(model))


def test_initial_scale(tiny):
  """Outputs of a new network are of the order of one."""
  model = Compiled(models.build(dataclasses.replace(TINY, width=64, head_size=16), seed=1))
  _, logits = forward(model, ids(1, 4, 30), None, ids(2, 4, 30))
  assert 0.7 < np.std(logits) < 1.4
  query, key = (np.std(getattr(model.encoder.layers[0].attention, name).kernel[...]) for name in ('query', 'key'))
  np.testing.assert_allclose([query, key], [(64 * 16) ** -0.5, 64 ** -0.5], rtol=0.1)


def test_rematerialisation_changes_nothing():
  config = dataclasses.replace(TINY, encoder_layers=1, decoder_layers=1)
  model = models.build(config, seed=0)
  other = models.from_values(dataclasses.replace(config, remat=True), models.parameters.named(model))
  inputs, tokens, mask = ids(1, 2, 6), ids(2, 2, 4), jnp.arange(6) < jnp.array([[6], [3]])

  def gradients(model):
    def loss(model):
      rngs = nnx.Rngs(dropout=7)
      memory = model.encode(model.embed(inputs), mask, rngs)
      return cross_entropy(model.logits(model.decode(tokens, memory, mask, rngs)), tokens)
    return nnx.jit(nnx.value_and_grad(loss))(model)
  (value, grads), (value_again, grads_again) = gradients(model), gradients(other)
  np.testing.assert_allclose(value, value_again, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), nnx.to_pure_dict(grads),
               nnx.to_pure_dict(grads_again))


def test_rematerialisation_keeps_less(tiny):
  """Fewer numbers are kept for the backward pass."""
  def kept(remat: bool) -> int:
    config = dataclasses.replace(TINY, remat=remat)
    graphdef, state = nnx.split(models.from_values(config, models.parameters.named(tiny.module)))
    _, backward = jax.vjp(lambda x: nnx.merge(graphdef, state).encode(x), tiny.embed(ids(1, 2, 40)))
    return sum(leaf.size for leaf in jax.tree.leaves(backward))
  assert kept(True) < kept(False) / 2


def test_dropout(tiny):
  """It sets elements to zero; without random numbers it does nothing."""
  x = tiny.embed(ids(1, 2, 6))
  one, two = (tiny.module.encode(x, rngs=nnx.Rngs(dropout=seed)) for seed in (1, 2))
  assert np.abs(one - two).max() > 0.1 and 0.03 < np.mean(one == 0) < 0.25
  np.testing.assert_array_equal(tiny.encode(x), tiny.encode(x))
  without = models.from_values(dataclasses.replace(TINY, dropout=0.0), models.parameters.named(tiny.module))
  np.testing.assert_array_equal(without.encode(x, rngs=nnx.Rngs(dropout=1)), tiny.encode(x))


def test_bfloat16_stays_near(tiny):
  values = models.parameters.named(tiny.module)
  other = Compiled(models.from_values(dataclasses.replace(TINY, dtype='bfloat16'), values))
  assert all(v.dtype == jnp.float32 for v in models.parameters.named(other.module).values())
  (memory, logits), (expected_memory, expected) = (forward(m, ids(1, 2, 6), None, ids(2, 2, 4)) for m in (other, tiny))
  assert memory.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
  np.testing.assert_allclose(memory.astype(jnp.float32), expected_memory, atol=0.1)
  np.testing.assert_allclose(logits, expected, atol=0.1)
  cache, _ = other.decode_step(other.start_cache(memory, length=4), ids(3, 2))
  assert cache.layers.key.dtype == jnp.bfloat16


def test_configuration_survives_json():
  assert models.config_from_json(models.config_to_json(TINY)) == TINY


@pytest.mark.parametrize('change, message', [
    ({'heads': 0}, 'heads is 0'), ({'buckets': 7}, 'buckets is 7'), ({'max_distance': 4}, 'max_distance is 4'),
    ({'dropout': -0.1}, 'dropout is -0.1')])
def test_bad_configurations(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(TINY, **change)


def test_empty_cache(tiny):
  with pytest.raises(ValueError, match='length is 0'):
    tiny.start_cache(tiny.embed(ids(1, 1, 3)), length=0)
