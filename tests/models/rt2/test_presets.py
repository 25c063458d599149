"""Parameters of RT-2's presets, counted by hand from the papers' numbers."""
import functools

import pytest
from flax import nnx

from rtjax import configs, models
from rtjax.models.parameters import count


@functools.cache
def abstract(name):
  return models.abstract(configs.get(name).model)


def vision_parameters(v, stem):
  """Count the parameters of a vision transformer, and of its convolutional stem."""
  attention = 4 * v.width * v.width + 4 * v.width
  mlp = 2 * v.width * v.mlp_width + v.width + v.mlp_width
  features = (3 * stem.patch ** 2 + 1) * stem.width + stem.blocks * 9 * stem.width ** 2 if stem.patch else 0
  patch = (v.patch // stem.patch) ** 2 * stem.width if stem.patch else 3 * v.patch ** 2
  return (v.layers * (attention + mlp + 4 * v.width) + 2 * v.width + features + (patch + 1) * v.width
          + (v.tokens + 2 * v.class_token) * v.width)


def text_parameters(t):
  """Count the parameters of T5 1.1."""
  attention, mlp = 4 * t.width * t.heads * t.head_size, 3 * t.width * t.mlp_width
  return (t.encoder_layers * (attention + mlp + 2 * t.width) + t.decoder_layers * (2 * attention + mlp + 3 * t.width)
          + 2 * t.width + 2 * t.buckets * t.heads + (1 if t.tied else 2) * t.vocab_size * t.width)


def counted(config):
  """Count the parameters of backbone, classifiers, state token and auxiliary parts."""
  v, t, spec, auxiliary = config.backbone.vision, config.backbone.text, config.action_spec, config.auxiliary
  n, c = auxiliary.language_tokens, auxiliary.stem.width
  classifier = spec.num_tokens * (t.width + (t.width + 1) * spec.vocab_size)
  pooling = 2 * c + 2 * c + (t.width + 1) * n * c + (c + 1) * t.width if n else 0
  inputs = (n + bool(config.proprioception_size)) * t.width
  residual = (inputs + 1) * 2 * t.width + (2 * t.width + 1) * t.width if n else 0
  waypoint = 3 * (n * t.width + 1) if auxiliary.waypoint_weight else 0
  state = (config.proprioception_size + 1) * t.width if config.proprioception_size else 0
  return (vision_parameters(v, auxiliary.stem) + (v.width + 1) * t.width + text_parameters(t) + classifier + pooling
          + residual + waypoint + state)


@pytest.mark.parametrize('name, billions, tokens', [
    ('rt2_tabletop', 0.00214, 36), pytest.param('rt2', 0.73, 196, marks=pytest.mark.slow),
    pytest.param('rt2_5b', 4.63, 256, marks=pytest.mark.slow)])
def test_parameters_and_tokens(name, billions, tokens):
  config = configs.get(name).model
  assert count(nnx.state(abstract(name), nnx.Param)) == counted(config)
  assert counted(config) / 1e9 == pytest.approx(billions, rel=0.01)
  assert config.backbone.image_tokens == tokens
  assert config.action_spec.token_bins == (256,) * 7


@pytest.mark.slow
def test_proportions():
  large, rt2 = abstract('rt2_5b').backbone, configs.get('rt2').model.backbone
  assert count(nnx.state(large.vision, nnx.Param)) / 1e9 == pytest.approx(1.84, rel=0.01)
  assert count(nnx.state(large.text, nnx.Param)) / 1e9 == pytest.approx(2.78, rel=0.01)
  assert (rt2.vision.image_size, rt2.vision.patch, rt2.vision.width, rt2.vision.layers) == ((224, 224), 16, 1024, 24)
  assert (rt2.text.encoder_layers, rt2.text.decoder_layers, rt2.text.width) == (12, 12, 1024)
