"""SigLIP's vision tower against the reference."""
import dataclasses

import numpy as np
import pytest
from helpers import golden_huggingface
from helpers.golden_huggingface import close, hidden_states, pixels, run

from rtjax import models
from rtjax.models.backbones.siglip import AttentionPooler, SigLIPConfig
from rtjax.models.backbones.vit import ViT, ViTConfig


@pytest.mark.parametrize('case', ['siglip_head', 'siglip_nohead'])
def test_golden(shared, case):
  model, golden = golden_huggingface.load(shared, case)
  states, tokens = run(model, hidden_states, pixels(golden))
  assert len(states) == model.config.layers + 1 and model.config.pooler == (case == 'siglip_head')
  for i, state in enumerate(states):
    close(state, golden[f'hidden_{i}'], f'hidden_{i}')
  close(tokens, golden['last_hidden_state'], 'last_hidden_state')
  np.testing.assert_array_equal(run(model, lambda m, x: m.patches(m(x)), pixels(golden)), tokens)
  if model.config.pooler:
    close(run(model, lambda m, x: m.pool(m(x)), pixels(golden)), golden['pooler_output'], 'pooler_output')
  else:
    assert not hasattr(model, 'pooler')


def test_epsilon_is_the_published_one(shared):
  """An error here is too small to show in the outputs."""
  model, _ = golden_huggingface.load(shared, 'siglip_head')
  assert {model.norm.epsilon, model.layers[0].mlp_norm.epsilon, model.pooler.norm.epsilon} == {1e-6}


def test_the_tower_is_a_vit(shared):
  """Without its pooler, a ViT of these settings computes the same."""
  model, golden = golden_huggingface.load(shared, 'siglip_nohead')
  config = ViTConfig(**dataclasses.asdict(model.config))
  other = models.from_values(config, models.parameters.named(model))
  assert type(other) is ViT
  np.testing.assert_array_equal(other(pixels(golden)), model(pixels(golden)))


def test_configuration_survives_json():
  config = SigLIPConfig(image_size=(28, 28), width=16, heads=2, layers=1, mlp_width=8, pooler=True)
  assert config.tokens == 4
  again = models.config_from_json(models.config_to_json(config))
  assert again == config and type(again) is SigLIPConfig
  assert type(models.build(config, seed=0).pooler) is AttentionPooler
