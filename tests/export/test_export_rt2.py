"""Exports of RT-2, with heads and with actions as text."""
import dataclasses
import importlib
import json

import numpy as np
import pytest
from flax import nnx
from helpers import tiny_rt2

import rtjax
from rtjax import models
from rtjax.export import check, run
from rtjax.export.step import Step
from rtjax.models import parameters, vocabulary
from rtjax.policies.policy import Policy

PICTURE = (24, 20)
NETWORKS = {'heads': dataclasses.replace(tiny_rt2.SEEKING, window=2), 'text': tiny_rt2.TEXT}


def exported(format, step, folder, int8=False):
  for package in {'stablehlo': ['flatbuffers'], 'safetensors': ['safetensors']}[format] + ['qwix']:
    pytest.importorskip(package)
  module = importlib.import_module(f'rtjax.export.{format}')
  module.save(step, folder, int8)
  return module.load(folder, step)


@pytest.mark.parametrize('format', run._FOR_RT2)
@pytest.mark.parametrize('act', NETWORKS)
def test_equals_the_policy(act, format, tmp_path):
  model = models.build(NETWORKS[act], rngs=nnx.Rngs(0))
  policy, step = Policy(model), Step(model, PICTURE)
  shown = check.noise_frames(step, 12)
  assert (shown[0].embeddings == shown[0].embeddings.astype(int)).all() and shown[0].embeddings.max() > 1
  found = check.compare(check.reference(policy, shown), exported(format, step, tmp_path), step, shown)
  assert found.frames == 12 and found.equal == found.tokens == 36
  assert found.difference < 1e-4 and found.largest < 100 and found.agrees


@pytest.mark.parametrize('act', NETWORKS)
def test_any_batch_size(act, tmp_path):
  # Of the network's own size: a resized pixel that falls between two whole numbers is rounded either way, by how a
  # machine's compiler arranges a batch.
  size = NETWORKS[act].image_size
  step = Step(models.build(NETWORKS[act], rngs=nnx.Rngs(0)), size)
  call = exported('stablehlo', step, tmp_path)
  images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
  prompts = tiny_rt2.prompts(3, step.config.prompt_length).astype(np.float32)
  together = call({name: np.repeat(leaf, 3, 0) for name, leaf in step.history.items()}, images, prompts)
  for robot in range(3):
    alone = call(step.history, images[robot:robot + 1], prompts[robot:robot + 1])
    np.testing.assert_allclose(together['logits'][robot], alone['logits'][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('format', run._FOR_RT2)
def test_int8_is_near_and_smaller(format, tmp_path):
  model = models.build(tiny_rt2.TINY, rngs=nnx.Rngs(0))
  policy, step = Policy(model), Step(model, PICTURE)
  shown, folders = check.noise_frames(step, 5), [tmp_path / 'float32', tmp_path / 'int8']
  for folder in folders:
    folder.mkdir()
  exported(format, step, folders[0])
  found = check.compare(check.reference(policy, shown), exported(format, step, folders[1], True), step, shown)
  assert 0 < found.difference < 0.1 * found.largest
  if format == 'safetensors':  # in a program this small, its own text outweighs the weights
    assert check.size(folders[1]) < check.size(folders[0])


def test_an_export_carries_the_vocabulary(tmp_path):
  pytest.importorskip('safetensors')
  from rtjax.language.tokenizer import Tokenizer
  tokenizer = Tokenizer()
  text = dataclasses.replace(tiny_rt2.TINY.text, vocab_size=tokenizer.size)
  config = vocabulary.fitted(dataclasses.replace(
      tiny_rt2.TEXT, text=text, prompt_length=20, action_ids=()), tokenizer)
  model = models.build(config, rngs=nnx.Rngs(0))
  model.vocabulary = tokenizer
  exported('safetensors', Step(model, PICTURE, embedding_id=tokenizer.id), tmp_path)
  policy = rtjax.load_policy(tmp_path)
  policy.reset('pick up the red cube')
  picture = np.full((*PICTURE, 3), 100, np.uint8)
  expected = Policy(model, tokenizer.id)
  expected.reset('pick up the red cube')
  np.testing.assert_allclose(policy.step(picture).logits, expected.step(picture).logits, rtol=1e-5, atol=1e-5)
  assert rtjax.load_model(tmp_path).config == config


def test_the_translated_formats_are_refused(tmp_path, monkeypatch):
  model = models.build(tiny_rt2.TINY, rngs=nnx.Rngs(0))
  monkeypatch.setattr(rtjax, 'load_policy', lambda path: Policy(model))
  for format in ('onnx', 'savedmodel'):
    pytest.importorskip({'onnx': 'tf2onnx', 'savedmodel': 'tensorflow'}[format])
    with pytest.raises(ValueError, match=f'--to {format} is not for RT-2.* stablehlo or safetensors'):
      run.export('somewhere', format, tmp_path / format)


def test_adapters_are_merged_into_an_export(monkeypatch):
  adapted = models.build(tiny_rt2.ADAPTED, rngs=nnx.Rngs(0))
  random = np.random.default_rng(0)
  values = {name: random.normal(size=value.shape) * 0.2 if 'lora' in name else value
            for name, value in parameters.named(adapted).items()}
  parameters.assign(adapted, values)
  monkeypatch.setattr(rtjax, 'load_policy', lambda path: Policy(adapted))
  policy, step = run.load('somewhere')
  assert not any('lora' in name for name in step.weights) and step.picture == (16, 16)
  shown = check.noise_frames(step, 3)
  for (merged, _), (before, _) in zip(check.reference(policy, shown), check.reference(Policy(adapted), shown),
                                      strict=True):
    np.testing.assert_allclose(merged['logits'], before['logits'], rtol=1e-3, atol=1e-3)


def test_metadata_is_json():
  json.dumps(Step(models.build(tiny_rt2.TINY, rngs=nnx.Rngs(0)), PICTURE).metadata)
