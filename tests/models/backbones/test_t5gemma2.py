"""T5Gemma 2: outputs of the reference, and decoding in parts."""
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import golden_huggingface as reference
from helpers.compiled import Compiled
from helpers.golden_huggingface import close, equal_ids

from rtjax.models import build
from rtjax.models.backbones.gemma import GemmaConfig
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5gemma2 import T5Gemma2Config
from tests.models.backbones.test_paligemma import embedded, generated, random_prefix

STACK = GemmaConfig(vocab_size=40, width=24, layers=2, heads=4, kv_heads=2, head_size=8, mlp_width=32, post_norms=True,
                    head_norms=True, local=(True, False), local_span=3, rope_base=1e6, rope_factor=8.0)
TINY = T5Gemma2Config(SigLIPConfig(image_size=(32, 32), patch=8, width=16, layers=1, heads=2, mlp_width=24), STACK,
                      STACK, pooled_tokens=4, image_begin=(30, 31), image_end=(32, 30), end_of_image=32)


@pytest.fixture(params=['t5gemma2', 't5gemma2_norope8'])
def golden(shared, request):
  model, arrays = reference.load(shared, request.param)
  config = json.loads((shared / 'parity/vlm' / request.param / 'config.json').read_text())
  return Compiled(model), arrays, config['image_token_index']


def memory_of(model, g, image):
  tokens = embedded(model, np.asarray(g['input_ids']), model.embed_pixels(reference.pixels(g)), image)
  return tokens, model.prefix(tokens, jnp.asarray(g['attention_mask'] == 1))


def test_golden(golden):
  """Image features, encoder and decoder, loss, and text alone."""
  model, g, image = golden
  g = {name: jnp.asarray(value) for name, value in g.items()}
  close(model.vision.preprocess(g['image_uint8']), reference.pixels(g), 'pixel_values')
  close(model.embed_pixels(reference.pixels(g)), g['image_features'], 'image_features')
  mask = g['attention_mask'] == 1
  tokens, memory = memory_of(model, g, image)
  close(tokens[mask], g['encoder_hidden_0'][mask], 'encoder_hidden_0')
  close(memory.content[mask], g['encoder_last_hidden_state'][mask], 'encoder_last_hidden_state')
  logits = model.logits(model.decode(g['decoder_input_ids'], memory))
  close(logits, g['logits'], 'logits')
  labels = g['labels']
  losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), np.maximum(labels, 0)[..., None], -1)[..., 0]
  close(jnp.mean(losses[labels >= 0]), g['loss'], 'loss')
  ids = g['text_only_input_ids']
  alone = model.prefix(model.embed_text(ids), jnp.ones(ids.shape, bool)).content
  close(alone, g['text_only_encoder_last_hidden_state'], 'text_only_encoder_last_hidden_state')


# It finds the layer that differs when test_golden fails.
@pytest.mark.slow
def test_golden_layers(golden, monkeypatch):
  """Image encoder, embeddings, and the residual stream and attention of each layer."""
  model, g, image = golden
  reference.check_embeddings(model, g, image)
  ids, mask = g['input_ids'], g['attention_mask'] == 1
  hidden, weights = reference.layer_by_layer(monkeypatch)
  tokens = embedded(model, ids, model.embed_pixels(reference.pixels(g)), image)
  hidden.clear()
  weights.clear()
  memory = model.module.prefix(tokens, jnp.asarray(mask))
  for i, (x, found) in enumerate(zip(hidden, weights, strict=True)):
    close(x[mask], g[f'encoder_hidden_{i}'][mask], f'encoder_hidden_{i}')
    close(found.swapaxes(1, 2)[mask], g[f'encoder_probs_{i}'].swapaxes(1, 2)[mask], f'encoder_probs_{i}')
  assert len(hidden) == model.config.encoder.layers
  weights.clear()
  hidden.clear()
  model.module.decode(jnp.asarray(g['decoder_input_ids']), memory)
  inputs = [x for x in hidden if x is not None]  # keys and values of the memory were computed from none
  for i, (x, found) in enumerate(zip(inputs, weights, strict=True)):
    close(x, g[f'decoder_hidden_{i}'], f'decoder_hidden_{i}')
    close(found[..., :mask.shape[1]], g[f'decoder_cross_probs_{i}'], f'decoder_cross_probs_{i}')
    close(found[..., mask.shape[1]:], g[f'decoder_self_probs_{i}'], f'decoder_self_probs_{i}')
  assert len(inputs) == model.config.decoder.layers


def test_greedy_ids(golden):
  model, g, image = golden
  _, memory = memory_of(model, g, image)
  equal_ids(generated(model, memory, 8), g['generate_ids'][:, 1:], 'generate_ids')


def test_step_by_step_equals_teacher_forcing():
  model = Compiled(build(TINY, seed=0))
  memory = model.prefix(*random_prefix(model))
  ids = jnp.array([[2, 7, 8, 9, 10], [2, 11, 12, 13, 14]])  # more than a local layer's span
  decoded, cache = model.decode(ids, memory), model.start_cache(memory, length=5)
  for position in range(5):
    cache, hidden = model.decode_step(cache, ids[:, position])
    np.testing.assert_allclose(hidden, decoded[:, position], atol=1e-5)


def test_padding_changes_nothing():
  """Its content has no effect, nor has its place."""
  model = Compiled(build(TINY, seed=0))
  tokens, mask = random_prefix(model)
  ids = jnp.array([[2, 7, 8], [2, 9, 10]])
  expected = model.decode(ids, model.prefix(tokens, mask))
  noisy = jnp.where(mask[..., None], tokens, 5.0)
  np.testing.assert_allclose(model.decode(ids, model.prefix(noisy, mask)), expected, atol=1e-5)
  order = jnp.argsort(~mask, 1, stable=True)  # all padding behind
  moved = jnp.take_along_axis(tokens, order[..., None], 1), jnp.take_along_axis(mask, order, 1)
  np.testing.assert_allclose(model.decode(ids, model.prefix(*moved)), expected, atol=1e-5)


def test_images_stand_between_markers():
  model = build(TINY, seed=0)
  model.end_of_image[...] = jnp.full(24, 7.0)
  images = jnp.zeros((2, 32, 32, 3), jnp.uint8)
  tokens = model.embed_images(images).tokens
  assert tokens.shape == (2, TINY.image_tokens, 24) == (2, 8, 24)
  np.testing.assert_array_equal(tokens[0, :2], model.embed_text(jnp.array([[30, 31]]))[0])
  np.testing.assert_array_equal(tokens[0, 6], jnp.full(24, 7.0))  # an embedding of its own, not scaled
  np.testing.assert_allclose(tokens[:, 2:6], model.embed_pixels(model.vision.preprocess(images)), atol=1e-6)


@pytest.mark.parametrize('change, message', [
    ({'pooled_tokens': 5}, 'square of a divisor'), ({'pooled_tokens': 9}, 'square of a divisor'),
    ({'decoder': dataclasses.replace(STACK, width=16)}, 'different widths')])
def test_impossible_shapes(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(TINY, **change)
