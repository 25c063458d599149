"""RT-2 on a tiny prefix language model, through the interface alone."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import tiny_rt2
from helpers.tiny_rt2 import compiled, randomised

from rtjax import models
from rtjax.models.auxiliary.config import GroundingConfig
from rtjax.models.backbones.conv_stem import ConvStemConfig
from rtjax.models.backbones.vision_language import (
    ImageFeatures,
    Memory,
    VisionLanguageBackbone,
    VisionLanguageConfig,
)
from rtjax.models.layers.convolution import patchify
from rtjax.models.registry import register
from rtjax.observation import Batch, Observation


@dataclasses.dataclass(frozen=True)
class PrefixLMConfig(VisionLanguageConfig):
  width: int = 12
  vocab_size: int = tiny_rt2.VOCAB_SIZE
  dtype: str = 'float32'

  pad_id, begin_id, end_id = 0, 3, 1
  image_tokens, image_size = 4, (16, 16)

  def feature_width(self, stem: ConvStemConfig) -> int:
    if stem.patch:
      raise ValueError('this backbone has no stem.')
    return self.width

  def with_computation(self, dtype, remat):
    return dataclasses.replace(self, dtype=dtype)


@register('prefix_lm', PrefixLMConfig)
class PrefixLM(VisionLanguageBackbone):
  """One attention layer: full over the prefix, causal over the suffix."""

  def __init__(self, config, *, stem=ConvStemConfig(), rngs):  # noqa: B008
    self.config = config
    self.image = nnx.Linear(8 * 8 * 3, config.width, rngs=rngs)
    self.embedding = nnx.Embed(config.vocab_size, config.width, rngs=rngs)
    self.query, self.key, self.value, self.out = (nnx.Linear(config.width, config.width, rngs=rngs) for _ in range(4))

  def embed_images(self, images, rngs=None):
    features = self.image(patchify(images.astype(jnp.float32) / 255, 8))
    return ImageFeatures(features.reshape(len(images), 4, -1), features)

  def embed_text(self, ids):
    return self.embedding(ids)

  def _attend(self, x, key, value, mask):
    scores = jnp.where(mask, jnp.einsum('bqd,bnd->bqn', self.query(x), key), -1e9)
    return x + self.out(jnp.einsum('bqn,bnd->bqd', jax.nn.softmax(scores), value))

  def prefix(self, tokens, mask, rngs=None):
    key, value = self.key(tokens), self.value(tokens)
    outputs = self._attend(tokens, key, value, mask[:, None])
    last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], 1)
    return Memory((key, value, jnp.take_along_axis(outputs, last[:, None, None], 1)), mask)

  def decode(self, inputs, memory, rngs=None):
    if not jnp.issubdtype(inputs.dtype, jnp.integer):
      return self._extend(inputs, memory)
    return jnp.concatenate([memory.content[2], self._extend(self.embedding(inputs[:, 1:]), memory)], 1)

  def _extend(self, x, memory):
    key, value, _ = memory.content
    keys, values = jnp.concatenate([key, self.key(x)], 1), jnp.concatenate([value, self.value(x)], 1)
    causal = jnp.broadcast_to(jnp.tri(x.shape[1], dtype=bool), (len(x), x.shape[1], x.shape[1]))
    prefix = jnp.broadcast_to(memory.mask[:, None], (*x.shape[:2], memory.mask.shape[1]))
    return self._attend(x, keys, values, jnp.concatenate([prefix, causal], 2))

  def logits(self, hidden):
    return self.embedding.attend(hidden)

  def start_cache(self, memory, *, length):
    return memory, jnp.zeros((len(memory.mask), length, self.config.width)), jnp.int32(0)

  def decode_step(self, cache, tokens):
    memory, suffix, place = cache
    suffix = suffix.at[:, jnp.maximum(place - 1, 0)].set(self.embedding(tokens))
    outputs = jnp.concatenate([memory.content[2], self._extend(suffix, memory)], 1)  # slow: without keys and values
    return (memory, suffix, place + 1), jax.lax.dynamic_index_in_dim(outputs, place, 1, keepdims=False)


CONFIG = dataclasses.replace(tiny_rt2.TINY, window=2, proprioception_size=3, backbone=PrefixLMConfig(),
                             auxiliary=GroundingConfig(language_tokens=2, waypoint_weight=1.0, pointing_weight=1.0))
BOTH_HEADS = pytest.mark.parametrize('head', ['classifier', 'text'])


def make_batch(config):
  batch, random = tiny_rt2.robot_batch(config, 2), np.random.default_rng(0)
  state, waypoints = (random.normal(size=(2, config.window, 3)).astype(np.float32) for _ in range(2))
  observation = dataclasses.replace(batch.observation, proprioception=state)
  text = tiny_rt2.text_batch(config, 3)
  return jax.device_put(Batch(observation, batch.actions, batch.action_mask, waypoints, text=text))


@BOTH_HEADS
def test_loss_reaches_every_parameter_of_the_backbone(head):
  config = dataclasses.replace(CONFIG, action_head=head)
  model = models.build(config, seed=0)
  batch = make_batch(config)
  evaluated = compiled(model, 'loss', batch, train=False)
  assert {'accuracy', 'waypoint_distance', 'text_accuracy', 'answers', 'pointing'} < set(evaluated.metrics)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(evaluated))
  gradients = nnx.jit(nnx.grad(lambda model: model.loss(batch, train=True).total))(model)
  for path, gradient in nnx.to_flat_state(gradients['backbone']):
    if path != ('key', 'bias'):  # a bias of all keys cancels in the softmax
      assert np.abs(gradient[...]).max() > 0, path


@BOTH_HEADS
def test_steps_with_the_cache_equal_windows(head):
  config = dataclasses.replace(CONFIG, action_head=head)
  model, observation = randomised(config), make_batch(config).observation
  images, prompt, state = observation.images, observation.prompt, observation.proprioception
  cache = model.init_cache(2)
  for frame in range(2):
    one = Observation(images[:, frame:frame + 1], prompt=prompt, proprioception=state[:, frame:frame + 1])
    cache, logits = compiled(model, 'step', cache, one)
  np.testing.assert_allclose(logits, compiled(model, 'logits', observation)[:, 0], rtol=1e-4, atol=1e-4)


def test_answers_are_those_that_teacher_forcing_finds_likeliest():
  model, batch = randomised(CONFIG), tiny_rt2.text_batch(CONFIG, 6)
  answers = model.generate(batch.images, batch.prompts)
  images = compiled(model, 'encode_images', jnp.asarray(batch.images[:, None]))
  context = compiled(model, 'encode', images, jnp.asarray(batch.prompts))
  likeliest = np.argmax(compiled(model, 'text_logits', context, jnp.asarray(answers)), -1)
  ended = np.cumsum(answers == 1, 1) - (answers == 1) > 0
  np.testing.assert_array_equal(np.where(ended, 0, likeliest), answers)
  assert len(np.unique(answers[:, 0])) > 1


def test_configuration():
  assert models.config_from_json(models.config_to_json(CONFIG)) == CONFIG
  assert (CONFIG.image_size, CONFIG.vocab_size, set(CONFIG.partitions)) == ((16, 16), 40, {'heads'})
  with pytest.raises(ValueError, match='this backbone has no stem'):
    dataclasses.replace(CONFIG, auxiliary=tiny_rt2.GROUNDED.auxiliary)
