"""Exports of RT-2, with a classifier and with actions as text."""
import dataclasses
import importlib.util
import json

import numpy as np
import pytest
from helpers import tiny_rt2

import rtjax
from rtjax import models, pretrained
from rtjax.checkpoints import PolicyMetadata
from rtjax.export import check, run
from rtjax.export.step import Step
from rtjax.models import parameters
from rtjax.policies.policy import Policy

CAMERA = (24, 20)  # height and width of the images
NETWORKS = {'classifier': dataclasses.replace(tiny_rt2.GROUNDED, window=2, horizon=2),
            'text': dataclasses.replace(tiny_rt2.TEXT, horizon=2)}
if importlib.util.find_spec('tokenizers'):
  NETWORKS['fast'] = tiny_rt2.fast()
FORMATS = ('stablehlo', 'safetensors')


def exported(format, step, folder, int8=False):
  for package in {'stablehlo': ['flatbuffers'], 'safetensors': ['safetensors']}[format] + ['qwix']:
    pytest.importorskip(package)
  module = importlib.import_module(f'rtjax.export.{format}')
  module.save(step, folder, int8)
  return module.load(folder, step)


@pytest.mark.parametrize('format', FORMATS)
@pytest.mark.parametrize('action_head', NETWORKS)
def test_equals_the_policy(action_head, format, tmp_path):
  model = models.build(NETWORKS[action_head], seed=0)
  policy, step = Policy(model), Step(model, CAMERA)
  episodes = check.noise_frames(step, 12)
  assert episodes[0].instructions.dtype == np.int32 and episodes[0].instructions.max() > 1
  result = check.compare(check.reference(policy, episodes), exported(format, step, tmp_path), step, episodes)
  assert result.frames == 12 and result.equal == result.tokens >= 36
  assert step.metadata['config']['horizon'] == model.config.horizon > 1
  assert result.difference < 1e-4 and result.largest_logit < 100 and result.agrees


@pytest.mark.parametrize('action_head', ['classifier', 'text'])
def test_any_batch_size(action_head, tmp_path):
  # No resize: a resized pixel halfway between two integers is rounded up or down, depending on the batch size.
  size = NETWORKS[action_head].image_size
  step = Step(models.build(NETWORKS[action_head], seed=0), size)
  call = exported('stablehlo', step, tmp_path)
  images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), dtype=np.uint8)
  prompts = tiny_rt2.prompts(3, step.config.prompt_length)
  together = call({name: np.repeat(leaf, 3, 0) for name, leaf in step.cache.items()}, images, prompts)
  for robot in range(3):
    alone = call(step.cache, images[robot:robot + 1], prompts[robot:robot + 1])
    np.testing.assert_allclose(together['logits'][robot], alone['logits'][0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('format', FORMATS)
def test_int8_is_close_and_smaller(format, tmp_path):
  model = models.build(tiny_rt2.TINY, seed=0)
  policy, step = Policy(model), Step(model, CAMERA)
  episodes, folders = check.noise_frames(step, 5), [tmp_path / 'float32', tmp_path / 'int8']
  for folder in folders:
    folder.mkdir()
  exported(format, step, folders[0])
  result = check.compare(check.reference(policy, episodes), exported(format, step, folders[1], True), step, episodes)
  assert 0 < result.difference < 0.1 * result.largest_logit
  if format == 'safetensors':  # a program this small is larger than its weights
    assert check.folder_size(folders[1]) < check.folder_size(folders[0])


def test_an_export_holds_the_tokenizer(tmp_path):
  pytest.importorskip('safetensors')
  from rtjax.language.tokenizer import Tokenizer
  tokenizer = Tokenizer()
  backbone = tiny_rt2.TINY.backbone
  backbone = dataclasses.replace(backbone, text=dataclasses.replace(backbone.text, vocab_size=tokenizer.size))
  config = dataclasses.replace(tiny_rt2.TEXT, backbone=backbone, prompt_length=20, action_ids=())
  config = config.with_tokenizer(tokenizer)
  model = models.build(config, seed=0)
  model.set_tokenizer(tokenizer)
  metadata = PolicyMetadata(embedding_id=tokenizer.id)
  exported('safetensors', Step(model, CAMERA, metadata), tmp_path)
  policy = rtjax.load_policy(tmp_path)
  policy.reset('pick up the red cube')
  image = np.full((*CAMERA, 3), 100, np.uint8)
  expected = Policy(model, metadata)
  expected.reset('pick up the red cube')
  np.testing.assert_allclose(policy.step(image).logits, expected.step(image).logits, rtol=1e-5, atol=1e-5)
  assert rtjax.load_model(tmp_path).config == config


def test_formats_through_tensorflow_are_refused(tmp_path, monkeypatch):
  model = models.build(tiny_rt2.TINY, seed=0)
  monkeypatch.setattr(pretrained, 'load', lambda path, **_: (model, PolicyMetadata()))
  for format in ('onnx', 'savedmodel'):
    pytest.importorskip({'onnx': 'tf2onnx', 'savedmodel': 'tensorflow'}[format])
    with pytest.raises(ValueError, match=f'--to {format} cannot express a RT2.* stablehlo or safetensors'):
      run.export('somewhere', format, tmp_path / format)


def test_adapters_are_merged_into_an_export(monkeypatch):
  adapted = models.build(tiny_rt2.ADAPTED, seed=0)
  random = np.random.default_rng(0)
  values = {name: random.normal(size=value.shape) * 0.2 if 'lora' in name else value
            for name, value in parameters.named(adapted).items()}
  parameters.assign(adapted, values)
  monkeypatch.setattr(pretrained, 'load', lambda path, **_: (adapted, PolicyMetadata()))
  policy, step = run.load('somewhere')
  assert not any('lora' in name for name in step.weights) and step.camera_size == (16, 16)
  episodes = check.noise_frames(step, 3)
  for (merged, _), (before, _) in zip(check.reference(policy, episodes), check.reference(Policy(adapted), episodes),
                                      strict=True):
    np.testing.assert_allclose(merged['logits'], before['logits'], rtol=1e-3, atol=1e-3)


def test_metadata_is_json():
  json.dumps(Step(models.build(tiny_rt2.TINY, seed=0), CAMERA).metadata)
