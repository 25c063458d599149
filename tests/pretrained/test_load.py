"""Loading: weights and statistics must be finite, whatever the format."""
import dataclasses
import json
import struct

import numpy as np
import pytest
from helpers import saved_run
from helpers.tiny_rt1 import TINY

import rtjax
from rtjax.checkpoints import CheckpointError, PolicyMetadata
from rtjax.export import safetensors as export_safetensors
from rtjax.export.step import Step
from rtjax.models import build, from_values, parameters
from rtjax.pretrained import safetensors

KERNEL = 'transformer/layers/1/attention/query/kernel'


@pytest.fixture(scope='module')
def model():
  return build(TINY, seed=0)


@pytest.mark.parametrize('load', [rtjax.load_model, rtjax.load_policy])
def test_type_of_the_computation(model, tmp_path, load):
  half = from_values(dataclasses.replace(TINY, dtype='bfloat16'), parameters.named(model))
  saved_run.save(half, tmp_path, 'hashed-ngrams/1')
  assert load(tmp_path).config == half.config
  loaded = load(tmp_path, dtype='float32')
  assert loaded.config == TINY
  images, embeddings = np.full((1, TINY.window, 32, 40, 3), 90, np.uint8), np.ones((1, 512), np.float32)
  logits = getattr(loaded, 'model', loaded)(images, embeddings)
  np.testing.assert_array_equal(logits, model(images, embeddings))
  assert (logits != half(images, embeddings)).any()


def damaged(model, name: str, number: float):
  """Return the model with one number replaced."""
  value = np.array(parameters.named(model)[name])
  value.flat[0] = number
  return from_values(TINY, parameters.named(model) | {name: value})


@pytest.mark.parametrize(('load', 'name', 'number'), [
    (rtjax.load_model, KERNEL, np.nan), (rtjax.load_policy, KERNEL, -np.inf),
    (rtjax.load_model, 'image_encoder/encoder/stem_norm/var', np.nan),
    (rtjax.load_policy, 'image_encoder/mean', np.inf)])
def test_run(model, tmp_path, load, name, number):
  saved_run.save(damaged(model, name, number), tmp_path, 'hashed-ngrams/1')
  with pytest.raises(ValueError, match=rf'{tmp_path} holds NaN or infinite numbers in 1 arrays:\n  {name} \(1 of \d+ '):
    load(tmp_path)


def test_statistics(model, tmp_path):
  statistics = {'pick': {'steps': 3, 'action': {'mean': [0.0, 1.0], 'std': [1.0, float('nan')]}}}
  saved_run.save(model, tmp_path, 'hashed-ngrams/1', statistics)
  with pytest.raises(ValueError, match=r'\n  statistics/pick/action/std/1 \(1 of 1 numbers\)'):
    rtjax.load_policy(tmp_path)


@pytest.mark.parametrize('int8', [False, True])
def test_safetensors(model, tmp_path, int8):
  pytest.importorskip('qwix')
  export_safetensors.save(Step(model, (32, 40), PolicyMetadata()), tmp_path, int8)
  rtjax.load_model(tmp_path)
  path = tmp_path / 'policy.safetensors'
  with safetensors.open_file(path) as file:
    metadata = json.loads(file.metadata()['rtjax'])
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
  changed = next(name for name in tensors if name.endswith('.scale')) if int8 else KERNEL
  tensors[changed] = np.full_like(tensors[changed], np.inf)
  safetensors.write(path, tensors, metadata)
  with pytest.raises(ValueError, match=rf'NaN or infinite numbers in 1 arrays:\n  {changed.removesuffix(".scale")} '):
    rtjax.load_model(path)


@pytest.mark.parametrize(('dtype', 'size'), [('F8_E4M3', 2), ('F4', 1), ('C64', 16)])
def test_safetensors_of_other_types(tmp_path, dtype, size):
  header = json.dumps({'a': {'dtype': dtype, 'shape': [2], 'data_offsets': [0, size]},
                       '__metadata__': {'rtjax': '{}'}}).encode()
  (tmp_path / 'a.safetensors').write_bytes(struct.pack('<Q', len(header)) + header + bytes(size))
  with pytest.raises(ValueError, match=rf'a in .* has the type {dtype}, expected one of'):
    rtjax.load_model(tmp_path)


def test_an_export_of_another_version(model, tmp_path):
  export_safetensors.save(Step(model, (32, 40), PolicyMetadata()), tmp_path, False)
  path = tmp_path / 'policy.safetensors'
  with safetensors.open_file(path) as file:
    metadata = json.loads(file.metadata()['rtjax'])
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
  assert metadata['rtjax'] == rtjax.__version__
  older = {name: value for name, value in metadata['config'].items() if name != 'dropout'}
  safetensors.write(path, tensors, metadata | {'config': older, 'rtjax': '0.0.9'})
  with pytest.warns(UserWarning, match=r'written by rtjax 0\.0\.9, .* whose defaults hold: dropout = '):
    assert rtjax.load_model(path).config == model.config
  safetensors.write(path, tensors, metadata | {'config': metadata['config'] | {'later': 1}, 'rtjax': '9.0'})
  with pytest.raises(CheckpointError, match=r'unknown settings \(later\).* written by rtjax 9\.0'):
    rtjax.load_model(path)


def test_a_run_of_a_version_without_these_settings(model, tmp_path):
  saved_run.save(model, tmp_path, 'hashed-ngrams/1', train={'pipeline': {}})
  metadata = rtjax.load_policy(tmp_path).metadata
  assert (metadata.image_size, metadata.views, metadata.camera) == (None, (), '')
