"""Writer of models as published: there and back, shards, transformers."""
import dataclasses
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from helpers.paths import ROOT

import rtjax
from rtjax import models
from rtjax.models import parameters
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.vit import ViTConfig

safetensors_numpy = pytest.importorskip('safetensors.numpy')

CASES = ['vit_in21k', 'vit_classifier', 'siglip_head', 'siglip_nohead', 't5_v11', 't5_ul2']
TINY = T5Config(vocab_size=128, width=64, head_size=16, mlp_width=128, encoder_layers=1, decoder_layers=2, heads=4)
VIT = ViTConfig(image_size=(16, 24), patch=8, width=32, layers=1, heads=2, mlp_width=48, classes=3)


def load(folder, **options):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of copies that are left out
    return rtjax.pretrained.load_huggingface(folder, **options)


def assert_equal(one, other):
  assert one.config == other.config
  one, other = parameters.named(one), parameters.named(other)
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize('case', CASES)
def test_the_file_comes_back_byte_by_byte(shared, tmp_path, case):
  source = shared / 'parity/vlm' / case
  model = load(source)
  rtjax.pretrained.save_huggingface(model, tmp_path / 'written')
  assert (tmp_path / 'written/model.safetensors').read_bytes() == (source / 'model.safetensors').read_bytes()
  assert_equal(load(tmp_path / 'written'), model)
  before, after = (json.loads((folder / 'config.json').read_text()) for folder in (source, tmp_path / 'written'))
  both = after.keys() & before.keys()
  assert {key: after[key] for key in both} == {key: before[key] for key in both}


def test_copies_of_the_embeddings_are_left_out(shared, tmp_path):
  source = shared / 'parity/vlm/mt5'
  rtjax.pretrained.save_huggingface(load(source), tmp_path)
  before, after = (safetensors_numpy.load_file(folder / 'model.safetensors') for folder in (source, tmp_path))
  assert before.keys() - after.keys() == {'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'}
  for name, value in after.items():
    np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.parametrize('config', [
    TINY, dataclasses.replace(TINY, tied=True, activation='silu'), VIT,
    dataclasses.replace(VIT, pooler=True, classes=0),
    SigLIPConfig(image_size=(28, 28), width=32, layers=1, heads=2, mlp_width=48, pooler=True)])
def test_there_and_back_in_shards(tmp_path, config):
  model = models.build(config, seed=3)
  rtjax.pretrained.save_huggingface(model, tmp_path, shard_bytes=20_000)
  weight_map = json.loads((tmp_path / 'model.safetensors.index.json').read_text())['weight_map']
  files = sorted(set(weight_map.values()))
  assert len(files) > 2 and not (tmp_path / 'model.safetensors').exists()
  for file in files:
    tensors = safetensors_numpy.load_file(tmp_path / file)
    assert tensors.keys() == {name for name, where in weight_map.items() if where == file}
    assert len(tensors) == 1 or sum(value.nbytes for value in tensors.values()) <= 20_000
  assert_equal(rtjax.pretrained.load_huggingface(tmp_path), model)


def test_a_model_in_bfloat16_stays_so(tmp_path):
  rtjax.pretrained.save_huggingface(models.build(TINY, seed=0), tmp_path / 'wide')
  half = load(tmp_path / 'wide', dtype='bfloat16')
  rtjax.pretrained.save_huggingface(half, tmp_path / 'half')
  assert json.loads((tmp_path / 'half/config.json').read_text())['dtype'] == 'bfloat16'
  assert_equal(load(tmp_path / 'half', dtype='bfloat16'), half)
  sizes = [(tmp_path / folder / 'model.safetensors').stat().st_size for folder in ('wide', 'half')]
  assert sizes[1] < 0.6 * sizes[0]


def test_weights_on_a_mesh(tmp_path):
  """Shards go to eight devices as the table of training/sharding.py has it."""
  rtjax.pretrained.save_huggingface(models.build(TINY, seed=0), tmp_path, shard_bytes=50_000)
  script = ROOT / 'tests/helpers/weights_on_a_mesh.py'
  done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.splitlines()[-1])
  assert found.keys() == parameters.shapes(models.abstract(TINY)).keys()
  assert all(dtype == 'bfloat16' and equal for dtype, _, equal in found.values())
  assert found['encoder/layers/0/attention/query/kernel'][1] == [16, 2, 16]  # 64 by fsdp, 4 heads by tensor
  assert found['token_embedding/embedding'][1] == [64, 16]
  assert found['encoder/norm/scale'][1] == [64]


@pytest.mark.parametrize('config, message', [
    (dataclasses.replace(VIT, class_token=False, classes=0), r"cannot express \['class_token'\]"),
    (models.RT1Config(), "a RT1Config cannot be written, expected one of .*'T5Config'")])
def test_models_that_the_format_cannot_express(tmp_path, config, message):
  with pytest.raises(ValueError, match=message):
    rtjax.pretrained.save_huggingface(models.abstract(config), tmp_path)
  assert not list(tmp_path.iterdir())


def test_a_folder_with_a_model_is_left_alone(tmp_path):
  (tmp_path / 'model-00001-of-00002.safetensors').touch()
  with pytest.raises(ValueError, match='holds a model already'):
    rtjax.pretrained.save_huggingface(models.abstract(TINY), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('case', [*CASES, 'mt5'])
def test_transformers_opens_it(shared, tmp_path, case):
  """transformers finds every tensor, and computes the golden outputs."""
  torch = pytest.importorskip('torch', reason='needs PyTorch and transformers, in an environment of their own')
  transformers = pytest.importorskip('transformers')
  source = shared / 'parity/vlm' / case
  rtjax.pretrained.save_huggingface(load(source), tmp_path, shard_bytes=100_000)
  name = json.loads((tmp_path / 'config.json').read_text())['architectures'][0]
  model, info = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
  assert not any(info[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info
  with np.load(source / 'golden.npz') as golden:
    inputs = {key: torch.tensor(golden[key]) for key in ('pixel_values', 'input_ids', 'attention_mask', 'labels')
              if key in golden}
    if 'labels' in inputs:
      inputs['labels'] = inputs['labels'].long()
    with torch.no_grad():
      outputs = model.eval()(**inputs)
    compared = [key for key in ('logits', 'loss', 'pooler_output', 'last_hidden_state')
                if key in golden and key in outputs]
    assert compared
    for key in compared:
      np.testing.assert_allclose(outputs[key], golden[key], atol=1e-4, rtol=0, err_msg=key)
