"""Files in place of weights: Git LFS pointers, cycles of links, folders without a model."""
import pytest

pytest.importorskip('tensorflow', reason="needs the extra 'data'")

from helpers import hostile_files, saved_run
from helpers.tiny_rt1 import TINY

import rtjax
from rtjax import models
from rtjax.language.instructions import Table
from rtjax.pretrained import load_huggingface, rt1_x


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


def test_a_pointer_in_a_run(tmp_path):
  folder = saved_run.save(models.build(TINY, seed=0), tmp_path / 'run', 'hashed-ngrams/1')
  hostile_files.lfs_pointer(next(p for p in (folder / 'checkpoints/0/state').rglob('*') if p.is_file()))
  with pytest.raises(ValueError, match='Git LFS pointer'):
    rtjax.load_model(folder)
