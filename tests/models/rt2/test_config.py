"""Configurations of RT-2: JSON, errors, tokenizer."""
import dataclasses
import re

import pytest
from helpers import tiny_rt2, tiny_tokenizers

from rtjax import actions, models
from rtjax.language import formats
from rtjax.language.tokenizer import Tokenizer
from rtjax.models import RT2Config
from rtjax.models.auxiliary.config import GroundingConfig
from rtjax.models.backbones.conv_stem import ConvStemConfig
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.models.backbones.siglip import SigLIPConfig

SIGLIP = dataclasses.replace(tiny_rt2.TINY, backbone=dataclasses.replace(
    tiny_rt2.TINY.backbone, vision=SigLIPConfig(image_size=(28, 28), width=16, heads=2, layers=1, mlp_width=8)))


@pytest.mark.parametrize('config', [tiny_rt2.TINY, tiny_rt2.TEXT, tiny_rt2.GROUNDED, tiny_rt2.ADAPTED, SIGLIP])
def test_round_trip_through_json(config):
  data = models.config_to_json(config)
  assert models.config_from_json(data) == config
  assert data['model'] == 'rt2' and data['backbone']['model'] == 'pali'


def test_json_of_an_unknown_backbone():
  data = models.config_to_json(tiny_rt2.TINY)
  data['backbone']['model'] = 'pally'
  with pytest.raises(ValueError, match=r"this configuration is of the model 'pally', expected one of .*'pali'"):
    models.config_from_json(data)


@pytest.mark.parametrize('change, message', [
    ({'prompt_length': 0}, 'model.prompt_length is 0'), ({'window': 0}, 'model.window is 0'),
    ({'horizon': 0}, 'model.horizon is 0'),
    ({'action_head': 'text', 'knowledge_insulation': True}, "knowledge_insulation is on and .*action_head is 'text'"),
    ({'action_head': 'fast'}, "writes chunks of actions, and model.horizon is 1.*--model.horizon 8"),
    ({'action_head': 'fast', 'horizon': 16, 'fast_scale': 2.0}, r"those of \['grip'\] would .*--model.fast-scale 3 or"),
    ({'label_smoothing': 1.0}, 'label_smoothing is 1.0'), ({'bin_smoothing': -1.0}, 'bin_smoothing is -1.0'),
    ({'proprioception_size': -1}, 'proprioception_size is -1'),
    ({'action_head': 'text', 'decoding': 'mean'}, "need model.action_head 'classifier'"),
    ({'action_ids': (1, 2)}, 'has 2 different ids for 8 bins'),
    ({'action_ids': tuple(range(35, 43))}, 'are from 35 to 42, the backbone has ids 0 to 39'),
    ({'auxiliary': GroundingConfig(language_tokens=2)}, r'model\.auxiliary\.stem\.patch is 0: set --model'),
    ({'auxiliary': GroundingConfig(stem=ConvStemConfig(patch=3))}, r'stem\.patch is 3, expected a divisor .* 8 pixels')
])
def test_bad_configurations(change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(tiny_rt2.TINY, **change)


@pytest.mark.parametrize('change, message', [
    ({'language_tokens': -1}, r'model\.auxiliary\.language_tokens is -1'),
    ({'waypoint_weight': 1.0}, r'waypoint_weight is 1\.0 and model\.auxiliary\.language_tokens is 0'),
    ({'pointing_weight': 1.0}, r'language_tokens is 0: language tokens point\. Set .*pointing-weight'),
    ({'pointing_weight': -1.0}, r'pointing_weight is -1\.0')])
def test_bad_auxiliary_configurations(change, message):
  with pytest.raises(ValueError, match=message):
    GroundingConfig(**change)


def test_defaults_act_with_seven_tokens_of_256():
  spec = RT2Config().action_spec
  assert spec == actions.ARM_7D and spec.token_bins == (256,) * 7


def test_dtype_and_remat_are_those_of_all_parts():
  backbone = dataclasses.replace(tiny_rt2.TINY, dtype='bfloat16', remat=True).backbone
  assert isinstance(backbone, PaLIConfig)
  assert backbone.vision.dtype == backbone.text.dtype == 'bfloat16' and backbone.vision.remat and backbone.text.remat


def test_partitions_name_parameters():
  config = dataclasses.replace(tiny_rt2.GROUNDED, lora=tiny_rt2.ADAPTED.lora, proprioception_size=3)
  names = models.parameters.shapes(models.abstract(config))

  def top(partition):
    return {name.split('/')[0] for name in names if re.search(config.partitions[partition], name)}
  own = {'classifier', 'grounding_residual', 'state', 'waypoint'}
  assert top('decoder') == top('lora') - {'language_pooling'} == own | {'backbone'}
  decoder = [name for name in names if re.search(config.partitions['decoder'], name) and name.startswith('backbone/')]
  assert {'/'.join(name.split('/')[:3]) for name in decoder} == {'backbone/text/decoder', 'backbone/text/token_head'}
  adapters = [name for name in names if re.search(config.partitions['lora'], name) and name.startswith('backbone/')]
  assert adapters and all(name.endswith(('/lora_a', '/lora_b')) for name in adapters)


def test_action_ids_are_those_of_the_tokenizer():
  tokenizer = Tokenizer()
  wide = dataclasses.replace(tiny_rt2.TINY.backbone, text=dataclasses.replace(
      tiny_rt2.TINY.backbone.text, vocab_size=tokenizer.size))
  config = dataclasses.replace(tiny_rt2.TINY, backbone=wide, action_ids=())
  fitted = config.with_tokenizer(tokenizer)
  assert fitted.action_ids == tuple(tokenizer.action_ids(8)) and fitted.with_tokenizer(tokenizer) == fitted
  with pytest.raises(ValueError, match=rf'has {tokenizer.size} tokens, the backbone has embeddings for 40'):
    tiny_rt2.TINY.with_tokenizer(tokenizer)
  other = dataclasses.replace(config, action_ids=tuple(range(20, 28)))
  with pytest.raises(ValueError, match='has other action tokens than the weights were trained on'):
    other.with_tokenizer(tokenizer)
  model = models.build(other, seed=0)
  with pytest.raises(ValueError, match='has other action tokens'):
    model.set_tokenizer(tokenizer)


def test_action_vocabulary_chooses_the_tokens():
  tokenizer = Tokenizer(tiny_tokenizers.gemma_model(8), 'gemma')
  wide = dataclasses.replace(tiny_rt2.TINY.backbone, text=dataclasses.replace(
      tiny_rt2.TINY.backbone.text, vocab_size=tokenizer.size))
  config = dataclasses.replace(tiny_rt2.TINY, backbone=wide, action_ids=())
  last = tuple(range(tokenizer.size - 1, tokenizer.size - 9, -1))
  for vocabulary, ids in (('loc', tuple(range(109, 117))), ('rarest', last), ('auto', last)):
    fitted = dataclasses.replace(config, action_vocabulary=vocabulary).with_tokenizer(tokenizer)
    assert fitted.action_ids == ids
    assert models.config_from_json(models.config_to_json(fitted)) == fitted
  with pytest.raises(ValueError, match=r'8 bins need the integers 0 to 7 as tokens'):
    dataclasses.replace(config, action_vocabulary='integers').with_tokenizer(tokenizer)
  old = models.config_to_json(config)
  del old['action_vocabulary']  # of a checkpoint from before there was a choice
  assert models.config_from_json(old) == config


def test_the_tokenizer_must_have_the_tokens_of_the_prompt_format(monkeypatch):
  monkeypatch.setattr(PaLIConfig, 'prompt_format', formats.GEMMA)
  wide = dataclasses.replace(tiny_rt2.TINY.backbone, text=dataclasses.replace(
      tiny_rt2.TINY.backbone.text, vocab_size=2000))
  config = dataclasses.replace(tiny_rt2.TINY, backbone=wide, action_ids=())
  assert config.with_tokenizer(Tokenizer(tiny_tokenizers.gemma_model(), 'gemma')).action_ids
  with pytest.raises(ValueError, match=r"this backbone needs '<bos>'"):
    config.with_tokenizer(Tokenizer())
