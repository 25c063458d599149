"""PaliGemma 1 and 2: outputs of the reference, and decoding in parts."""
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
from rtjax.models.backbones.conv_stem import ConvStemConfig
from rtjax.models.backbones.gemma import GemmaConfig
from rtjax.models.backbones.paligemma import PaliGemmaConfig
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.rt2 import decoding

CASES = ['paligemma1', 'paligemma2']
TEXT = GemmaConfig(vocab_size=40, width=24, layers=2, heads=4, kv_heads=2, head_size=8, mlp_width=32,
                   local=(True, False), local_span=64)
TINY = PaliGemmaConfig(SigLIPConfig(image_size=(16, 16), patch=8, width=16, layers=1, heads=2, mlp_width=24), TEXT)


@pytest.fixture(params=CASES)
def golden(shared, request):
  model, arrays = reference.load(shared, request.param)
  return Compiled(model), arrays, image_id(shared, request.param)


def image_id(shared, case):
  return json.loads((shared / 'parity/vlm' / case / 'config.json').read_text())['image_token_index']


def embedded(model, ids, features, image):
  """Return embeddings of a text whose image tokens are replaced."""
  embeddings = np.array(model.embed_text(jnp.where(ids == image, 0, ids)))
  for row, mask in enumerate(np.asarray(ids == image)):
    embeddings[row, mask] = features[row]
  return jnp.asarray(embeddings)


def test_golden(golden):
  """Image features, outputs and loss; full and causal attention; text alone."""
  model, g, image = golden
  g = {name: jnp.asarray(value) for name, value in g.items()}
  close(model.vision.preprocess(g['image_uint8']), reference.pixels(g), 'pixel_values')
  features = model.embed_pixels(reference.pixels(g))
  close(features, g['image_features'], 'image_features')
  ids, mask, answer = g['input_ids'], g['attention_mask'] == 1, g['token_type_ids'] == 1
  tokens = embedded(model, ids, features, image)
  close(tokens[mask], g['hidden_0'][mask], 'hidden_0')
  hidden = model.encode_decode(tokens, mask, answer)
  close(hidden[mask], g['hidden_3'][mask], 'hidden_3')
  logits = model.logits(hidden)
  close(logits[mask], g['logits'][mask], 'logits')
  targets = g['labels'][:, 1:]
  losses = -jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), np.maximum(targets, 0)[..., None], -1)[..., 0]
  close(jnp.mean(losses[targets >= 0]), g['loss'], 'loss')
  causal = model.encode_decode(tokens, mask, jnp.ones_like(mask))
  close(model.logits(causal)[mask], g['causal_logits'][mask], 'causal_logits')
  ids = g['text_only_input_ids']
  alone = model.encode_decode(model.embed_text(ids), jnp.ones(ids.shape, bool), jnp.zeros(ids.shape, bool))
  close(model.logits(alone), g['text_only_logits'], 'text_only_logits')


# It finds the layer that differs when test_golden fails.
@pytest.mark.slow
def test_golden_layers(golden, monkeypatch):
  """Image encoder, embeddings, and the residual stream before each layer."""
  model, g, image = golden
  reference.check_embeddings(model, g, image)
  ids, mask = g['input_ids'], g['attention_mask'] == 1
  tokens = embedded(model, ids, model.embed_pixels(reference.pixels(g)), image)
  hidden, _ = reference.layer_by_layer(monkeypatch)
  model.module.encode_decode(tokens, jnp.asarray(mask), jnp.asarray(g['token_type_ids'] == 1))
  for i, x in enumerate(hidden):
    close(x[mask], g[f'hidden_{i}'][mask], f'hidden_{i}')
  assert len(hidden) == model.config.text.layers


def test_greedy_ids(golden):
  """Left-padded prompts, decoded with a cache."""
  model, g, image = golden
  tokens = embedded(model, g['gen_input_ids'], model.embed_pixels(reference.pixels(g)), image)
  memory = model.prefix(tokens, jnp.asarray(g['gen_attention_mask'] == 1))
  new = g['generate_ids'][:, g['gen_input_ids'].shape[1]:]
  equal_ids(generated(model, memory, new.shape[1]), new, 'generate_ids')


def generated(model, memory, length):
  def step(cache, tokens):
    cache, hidden = model.decode_step(cache, tokens)
    return cache, model.logits(hidden)
  config, batch = model.config, memory.mask.shape[0]
  return decoding.generate(step, model.start_cache(memory, length=length), jax.random.key(0), batch=batch,
                           length=length, begin=config.begin_id, end=-1, pad=config.pad_id)


def random_prefix(model, seed=0):
  random = np.random.default_rng(seed)
  mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0]], bool)  # padding before, between and behind
  return jnp.asarray(random.normal(size=(2, 6, model.config.width)), jnp.float32), jnp.asarray(mask)


def test_prefix_then_decode_is_one_pass():
  """Also one token after the other, and wherever the padding stands."""
  model = Compiled(build(TINY, seed=0))
  tokens, mask = random_prefix(model)
  ids = jnp.array([[2, 7, 8, 9], [2, 11, 12, 13]])
  memory = model.prefix(tokens, mask)
  decoded = model.decode(ids, memory)
  whole = jnp.concatenate([tokens, model.embed_text(ids[:, 1:])], 1)
  padded = jnp.concatenate([mask, jnp.ones((2, 3), bool)], 1)
  answer = jnp.arange(9)[None] >= jnp.full((2, 1), 6)
  one_pass = model.encode_decode(whole, padded, answer)
  last = jnp.array([one_pass[0, 5], one_pass[1, 4]])
  np.testing.assert_allclose(decoded, jnp.concatenate([last[:, None], one_pass[:, 6:]], 1), atol=1e-5)
  cache = model.start_cache(memory, length=4)
  for position in range(4):
    cache, hidden = model.decode_step(cache, ids[:, position])
    np.testing.assert_allclose(hidden, decoded[:, position], atol=1e-5)


def test_local_layers_see_their_span():
  """A token beyond the span changes nothing in a network of one local layer."""
  text = GemmaConfig(vocab_size=40, width=24, layers=1, heads=2, kv_heads=1, head_size=8, mlp_width=32, local=(True,),
                     local_span=3)
  model = Compiled(build(PaliGemmaConfig(TINY.vision, text), seed=0))
  mask = jnp.ones((1, 6), bool)
  tokens = jax.random.normal(jax.random.key(0), (1, 6, 24))
  ids = jnp.array([[2, 7, 8]])
  before = model.decode(ids, model.prefix(tokens, mask))
  after = model.decode(ids, model.prefix(tokens.at[:, 3].add(1.0), mask))
  changed = jnp.any(before != after, -1)[0]
  assert changed.tolist() == [True, False, False]  # positions 5, 6 and 7 see from 3, 4 and 5 on


def test_a_stem_is_refused():
  with pytest.raises(ValueError, match='without a convolutional stem'):
    TINY.feature_width(ConvStemConfig(patch=4))


@pytest.mark.parametrize('change, message', [
    ({'kv_heads': 3}, 'divisor of the 4 heads'), ({'head_size': 7}, 'even number'), ({'local': (True,)}, '1 entries'),
    ({'width': 0}, 'at least 1')])
def test_impossible_shapes(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(TEXT, **change)
