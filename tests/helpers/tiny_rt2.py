"""Tiny configurations of RT-2, and batches for them."""
import dataclasses
import functools

import numpy as np
from flax import nnx

from rtjax import actions, models
from rtjax.models import RT2, RT2Config
from rtjax.models.auxiliary.config import GroundingConfig
from rtjax.models.backbones.conv_stem import ConvStemConfig
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.vit import ViTConfig
from rtjax.models.layers.lora import LoraConfig
from rtjax.observation import Batch, Observation, TextBatch

VOCAB_SIZE = 40
SPEC = actions.ActionSpec((
    actions.ActionField('move', 2, bins=8, mirror=(1, -1)), actions.classes('grip', 3)), vocab_size=8)
TINY = RT2Config(
    action_spec=SPEC, prompt_length=6, answer_length=5, action_ids=tuple(range(20, 28)),
    backbone=PaLIConfig(
        vision=ViTConfig(image_size=(16, 16), patch=8, width=16, layers=1, heads=2, mlp_width=32),
        text=T5Config(vocab_size=VOCAB_SIZE, width=16, encoder_layers=2, decoder_layers=2, heads=2, head_size=8,
                      mlp_width=32, dropout=0.0)))
TEXT = dataclasses.replace(TINY, action_head='text')
GROUNDED = dataclasses.replace(TINY, auxiliary=GroundingConfig(
    language_tokens=2, waypoint_weight=10.0, pointing_weight=1.0, stem=ConvStemConfig(patch=4, width=6, blocks=1)))
FAST_SPEC = actions.ActionSpec((
    actions.ActionField('move', 2, -0.1, 0.1, bins=8), actions.ActionField('grip', 1, 0.0, 1.0, bins=8)), vocab_size=8)
ADAPTED = dataclasses.replace(TINY, lora=LoraConfig(rank=2))


def chunks(count: int, horizon: int = 4, seed: int = 0) -> np.ndarray:
  """Return smooth chunks of FAST_SPEC, and a few that hold or jump."""
  random, (low, high) = np.random.default_rng(seed), FAST_SPEC.bounds
  start, end, noise = (random.uniform(0, 1, (count, n, 3)) for n in (1, 1, horizon))
  scaled = start + (end - start) * np.linspace(0, 1, horizon)[None, :, None]
  scaled[::5] = noise[::5].round()
  scaled[1::5] = start[1::5]
  return (low + scaled * (high - low)).astype(np.float32)


@functools.cache
def fast(size: int = 64) -> RT2Config:
  """Return a configuration that acts by FAST, fitted; needs the extra 'language'."""
  text = dataclasses.replace(TINY.backbone.text, vocab_size=120, encoder_layers=1, decoder_layers=1)
  config = dataclasses.replace(
      TINY, action_head='fast', horizon=4, action_spec=FAST_SPEC, action_ids=(), fast_size=size,
      backbone=dataclasses.replace(TINY.backbone, text=text)).with_codec(lambda: chunks(300))
  return dataclasses.replace(config, action_ids=tuple(range(119, 119 - config.action_codec.size, -1)))


@functools.cache
def randomised(config: RT2Config, seed: int = 0) -> RT2:
  """Return a model whose every parameter is random, to hide no error."""
  model = models.build(config, seed=seed)
  random = np.random.default_rng(seed)
  values = models.parameters.named(model)
  models.parameters.assign(model, {
      name: value + 0.3 * random.normal(size=value.shape) for name, value in values.items()})
  return model


def compiled(model: nnx.Module, method: str, *inputs, **options):
  """Return `model.method(*inputs, **options)`, compiled once for all models of a configuration."""
  return _compiled(method, tuple(options.items()))(model, *inputs)


@functools.cache
def _compiled(method: str, options: tuple):
  return nnx.jit(lambda model, *inputs: getattr(model, method)(*inputs, **dict(options)))


def prompts(count: int, length: int, seed: int = 0) -> np.ndarray:
  """Return random ids, int32 [count, length].

  Each row has 2 to `length` tokens, the last of which ends the text, and padding.
  """
  random = np.random.default_rng(seed)
  ids = random.integers(2, VOCAB_SIZE, (count, length)).astype(np.int32)
  ends = random.integers(1, length, count)
  ids[np.arange(count), ends] = 1
  return np.where(np.arange(length) > ends[:, None], 0, ids)


def robot_batch(config: RT2Config, size: int, seed: int = 0) -> Batch:
  """Return random windows of 16x16 images."""
  random = np.random.default_rng(seed)
  lead, spec = (size, config.window), config.action_spec
  tokens = np.stack([random.integers(0, bins, (*lead, config.horizon)) for bins in spec.token_bins], -1)
  images = random.integers(0, 256, (*lead, 16, 16, 3), dtype=np.uint8)
  observation = Observation(images, np.ones(lead, bool), prompt=prompts(size, config.prompt_length, seed))
  return Batch(observation, spec.detokenize(tokens).astype(np.float32), np.ones((*lead, config.horizon), bool))


def text_batch(config: RT2Config, size: int, seed: int = 0) -> TextBatch:
  """Return random image-text pairs, some of which point in a 2 x 2 grid."""
  random = np.random.default_rng(seed)
  targets = prompts(size, config.answer_length, seed + 1)
  images = random.integers(0, 256, (size, 16, 16, 3), dtype=np.uint8)
  tasks = random.integers(1, 4, size).astype(np.int32)
  points = np.where(random.random((size, 1)) < 0.5, -1, random.integers(0, 2, (size, 2))).astype(np.int32)
  grid, weights = np.full(size, 2, np.int32), (targets != 0).astype(np.float32)
  return TextBatch(images, prompts(size, config.prompt_length, seed), targets, tasks, points, grid, weights)
