"""Loading: weights and statistics must be finite, whatever the format."""
import json

import numpy as np
import pytest
from helpers import saved_run
from helpers.tiny_rt1 import TINY

import rtjax
from rtjax.checkpoints import PolicyMetadata
from rtjax.export import safetensors as export_safetensors
from rtjax.export.step import Step
from rtjax.models import build, from_values, parameters
from rtjax.pretrained import safetensors

KERNEL = 'transformer/layers/1/attention/query/kernel'


@pytest.fixture(scope='module')
def model():
  return build(TINY, seed=0)


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
