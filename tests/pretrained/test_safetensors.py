"""Policies packed into one file."""
import dataclasses

import numpy as np
import pytest
from helpers import saved_run, tiny_rt2
from helpers.tiny_rt1 import TINY

import rtjax
from rtjax import checkpoints, pretrained
from rtjax.models import build, from_values, parameters
from rtjax.pretrained import safetensors


def halved(model):
  """Return the model with matrices rounded to float16."""
  return from_values(model.config, {name: np.asarray(value, np.float16) if value.ndim > 1 else value
                                    for name, value in parameters.named(model).items()})


def test_keeps_weights_and_metadata(tmp_path):
  statistics = {'pick': {'name': 'pick', 'episodes': 3, 'image_size': [32, 40], 'action': {'mean': [0.5]}}}
  run = saved_run.save(build(TINY, seed=0), tmp_path / 'run', 'hashed-ngrams/1', statistics, image_size=[32, 32])
  file = tmp_path / 'packed.safetensors'
  safetensors.pack(run, file)
  (model, metadata), (original, expected) = pretrained.load(file), checkpoints.load(run)
  assert metadata == dataclasses.replace(expected, path=str(file))
  assert model.config == original.config
  theirs = parameters.named(original)
  for name, value in parameters.named(model).items():
    assert value.dtype == theirs[name].dtype
    np.testing.assert_allclose(value, theirs[name], rtol=1e-3 if value.ndim > 1 else 0, atol=1e-7, err_msg=name)
  in_memory = sum(np.asarray(value).nbytes for value in theirs.values())
  assert file.stat().st_size < 0.6 * in_memory + 20_000


def test_numbers_beyond_float16(tmp_path):
  model = build(TINY, seed=0)
  name = 'transformer/output/kernel'
  value = np.array(parameters.named(model)[name])
  value.flat[3] = 7e4
  run = saved_run.save(from_values(TINY, parameters.named(model) | {name: value}), tmp_path / 'run', '')
  with pytest.raises(ValueError, match=f'{name} has numbers up to 70000, expected at most 65504'):
    safetensors.pack(run, tmp_path / 'packed.safetensors')


def test_a_model_with_language_answers(tmp_path):
  pytest.importorskip('sentencepiece', reason="needs the extra 'language'")
  from rtjax.language.tokenizer import Tokenizer
  tokenizer = Tokenizer()
  config = dataclasses.replace(tiny_rt2.ADAPTED, action_ids=(), prompt_length=24, backbone=dataclasses.replace(
      tiny_rt2.TINY.backbone, text=dataclasses.replace(tiny_rt2.TINY.backbone.text, vocab_size=tokenizer.size)))
  model = tiny_rt2.randomised(config.with_tokenizer(tokenizer))
  model.set_tokenizer(tokenizer)
  safetensors.pack(saved_run.save(model, tmp_path / 'run', tokenizer.id), tmp_path / 'packed.safetensors')
  packed, expected = rtjax.load_model(tmp_path / 'packed.safetensors'), halved(model.merged())
  expected.set_tokenizer(tokenizer)
  assert packed.config == expected.config and packed.tokenizer.id == tokenizer.id
  images, questions = np.full((2, 16, 16, 3), 90, np.uint8), ['what is red?', 'how many cubes are there?']
  assert packed.generate(images, questions, task='vqa') == expected.generate(images, questions, task='vqa')
