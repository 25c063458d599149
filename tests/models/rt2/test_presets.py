"""The presets of RT-2, as shapes alone: their parameters, counted by hand from the papers' numbers."""
import functools

import pytest
from flax import nnx

from rtjax import configs, models
from rtjax.training.state import count


@functools.cache
def abstract(name):
  return models.abstract(configs.get(name).model)


def counted(model):
  """Parameters by the formulas of the vision transformer, T5 1.1, seven heads, and what a preset adds."""
  v, t, spec = model.vision, model.text, model.action_spec
  attention = 4 * v.width * v.width + 4 * v.width
  mlp = 2 * v.width * v.mlp_width + v.width + v.mlp_width
  pieces = (3 * v.piece ** 2 + 1) * v.piece_width if v.piece else 0
  pieces += v.mixes * 9 * v.piece_width ** 2
  patch = (v.patch // v.piece) ** 2 * v.piece_width if v.piece else 3 * v.patch ** 2
  vision = (v.layers * (attention + mlp + 4 * v.width) + 2 * v.width + pieces + (patch + 1) * v.width
            + (v.tokens + 2 * v.class_token) * v.width)
  attention, mlp = 4 * t.width * t.heads * t.head_size, 3 * t.width * t.mlp_width
  text = (t.encoder_layers * (attention + mlp + 2 * t.width) + t.decoder_layers * (2 * attention + mlp + 3 * t.width)
          + 2 * t.width + 2 * t.buckets * t.heads + (1 if t.tied else 2) * t.vocab_size * t.width)
  heads = spec.num_tokens * (t.width + (t.width + 1) * spec.vocab_size)
  n, c = model.queried_tokens, v.piece_width
  queried = 2 * c + 2 * c + (t.width + 1) * n * c + (c + 1) * t.width if n else 0
  known = (n + bool(model.proprioception_size)) * t.width
  follow = (known + 1) * 2 * t.width + (2 * t.width + 1) * t.width if n else 0
  waypoint = 3 * (n * t.width + 1) if model.waypoint_weight else 0
  state = (model.proprioception_size + 1) * t.width if model.proprioception_size else 0
  return queried + follow + vision + (v.width + 1) * t.width + text + heads + waypoint + state


@pytest.mark.parametrize('name, billions, tokens', [
    ('rt2_tabletop', 0.00214, 36), pytest.param('rt2', 0.73, 196, marks=pytest.mark.slow),
    pytest.param('rt2_5b', 4.63, 256, marks=pytest.mark.slow)])
def test_parameters_and_tokens(name, billions, tokens):
  config = configs.get(name).model
  assert count(nnx.state(abstract(name), nnx.Param)) == counted(config)
  assert counted(config) / 1e9 == pytest.approx(billions, rel=0.01)
  assert config.vision.tokens == tokens
  assert config.action_spec.token_bins == (256,) * 7


@pytest.mark.slow
def test_proportions():
  model, rt2 = abstract('rt2_5b'), configs.get('rt2').model
  assert count(nnx.state(model.vision, nnx.Param)) / 1e9 == pytest.approx(1.84, rel=0.01)
  assert count(nnx.state(model.text, nnx.Param)) / 1e9 == pytest.approx(2.78, rel=0.01)
  assert (rt2.vision.image_size, rt2.vision.patch, rt2.vision.width, rt2.vision.layers) == ((224, 224), 16, 1024, 24)
  assert (rt2.text.encoder_layers, rt2.text.decoder_layers, rt2.text.width) == (12, 12, 1024)
