"""Loading: weights and statistics must be finite, whatever the format; files may not be stand-ins."""
import json

import numpy as np
import pytest
from helpers import hostile_files, saved_run
from helpers.tiny_rt1 import TINY

import rtjax
from rtjax import models
from rtjax.checkpoints import PolicyMetadata
from rtjax.export import safetensors as export_safetensors
from rtjax.export.step import Step
from rtjax.language.instructions import Table
from rtjax.models import build, from_values, parameters
from rtjax.pretrained import load_huggingface, rt1_x, safetensors

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


@pytest.mark.filterwarnings('error')
def test_a_huge_folder_and_cycles_of_links_hold_no_model(tmp_path):
  for number in range(3000):
    (tmp_path / f'{number:05d}').touch()
  for number in range(8):
    (tmp_path / f'link{number}').symlink_to('.')
  (tmp_path / 'loop').symlink_to('loop')
  (tmp_path / 'a/b/c/d/e').mkdir(parents=True)
  (tmp_path / 'a/b/c/d/e/checkpoint').write_bytes(b'\x80')
  with pytest.raises(FileNotFoundError, match='no model'):
    rtjax.load_model(tmp_path)
  assert rt1_x.find(tmp_path) is None  # five folders down


@pytest.mark.parametrize('name', ['model.safetensors', 'checkpoint', 'ckpt-1.index', 'saved_model.pb', 'inner/weights'])
def test_git_lfs_pointers_in_place_of_weights(tmp_path, name):
  hostile_files.lfs_pointer(tmp_path / name)
  with pytest.raises(ValueError, match=r'is a Git LFS pointer.*git lfs pull'):
    rtjax.load_model(tmp_path)
  if '/' not in name and not name.endswith('.pb'):
    with pytest.raises(ValueError, match='Git LFS pointer'):
      rtjax.load_model(tmp_path / name)


def test_git_lfs_pointers_of_hugging_face(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "vit"}')
  hostile_files.lfs_pointer(tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match='Git LFS pointer'):
    load_huggingface(tmp_path)
  (tmp_path / 'model.safetensors').unlink()
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text('{"weight_map": {"a": "../other/model.safetensors"}}')
  with pytest.raises(ValueError, match=r"the file of 'a' in .* expected a name"):
    load_huggingface(tmp_path)


def test_git_lfs_pointers_of_other_weights(tmp_path):
  from rtjax.language.tokenizer import Tokenizer
  from rtjax.training.initialize import start_from
  model = models.abstract(models.RT1Config())
  for name, load in (('table.npz', Table.load), ('spiece.model', Tokenizer.load),
                     ('b3.h5', lambda path: start_from(model, path))):
    with pytest.raises(ValueError, match='Git LFS pointer'):
      load(hostile_files.lfs_pointer(tmp_path / name))


def test_a_pointer_in_a_run(model, tmp_path):
  folder = saved_run.save(model, tmp_path / 'run', 'hashed-ngrams/1')
  hostile_files.lfs_pointer(next(p for p in (folder / 'checkpoints/0/state').rglob('*') if p.is_file()))
  with pytest.raises(ValueError, match='Git LFS pointer'):
    rtjax.load_model(folder)
