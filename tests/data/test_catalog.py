"""Names of datasets and splits, and refusals of unknown ones."""
import pathlib
import shutil

import pytest
import tensorflow_datasets as tfds
from helpers.tiny_rlds import LENGTHS

from rtjax import actions
from rtjax.data.rlds.episodes import Dataset


def open_tiny(folder, split='train'):
  return Dataset(str(folder), split, actions.ARM_7D)


def test_a_dataset_is_named_by_folder_or_parent(tiny, tmp_path):
  parent = pathlib.Path(tiny).parent
  assert open_tiny(parent).identity == open_tiny(tiny).identity
  shutil.copytree(tiny, tmp_path / 'bridge_dataset/1.0.0')
  shutil.copytree(tiny, tmp_path / 'bridge_dataset/1.10.0')
  info = tmp_path / 'bridge_dataset/1.10.0/dataset_info.json'
  info.write_text(info.read_text().replace('1.0.0', '1.10.0'))
  (tmp_path / 'bridge_dataset/1.9.0').mkdir()
  newest = open_tiny(tmp_path / 'bridge_dataset')
  assert '/1.10.0/' in newest.files[0] and newest.identity != open_tiny(tiny).identity


def test_a_dataset_is_named_as_tfds_names_it(tiny, monkeypatch):
  folder = str(pathlib.Path(tiny).parent.parent)
  find = tfds.core.read_only_builder._find_builder_dir
  monkeypatch.setattr(tfds.core.read_only_builder, '_find_builder_dir', lambda name: find(name, data_dir=folder))
  assert open_tiny('bridge_dataset').num_records == open_tiny('bridge_dataset:1.0.0').num_records == len(LENGTHS)


def test_missing_folder_and_unknown_names(tmp_path):
  for name in (str(tmp_path / 'nothing'), './nothing', '~/nothing_here'):
    with pytest.raises(FileNotFoundError, match='no such folder'):
      open_tiny(name)
  with pytest.raises(FileNotFoundError, match=r'no dataset_info\.json'):
    open_tiny(tmp_path)
  with pytest.raises(FileNotFoundError, match="Did you mean 'taco_play'"):
    open_tiny('taco_plai')
  for name in ('data/xyzzy', 'my robot', 'x/y/z'):
    with pytest.raises(FileNotFoundError, match='neither a folder nor a TFDS name'):
      open_tiny(name)


def test_a_file_in_place_of_a_folder(tmp_path, monkeypatch):
  (tmp_path / 'dataset_info.json').touch()
  monkeypatch.chdir(tmp_path)
  for name in (tmp_path / 'dataset_info.json', 'dataset_info.json'):
    with pytest.raises(NotADirectoryError, match='is a file, expected the folder of a dataset'):
      open_tiny(name)


def test_unknown_and_empty_splits(tiny):
  with pytest.raises(ValueError, match=r"unknown split 'tran'.*\['train'\]"):
    open_tiny(tiny, split='tran')
  with pytest.raises(ValueError, match=r'is empty.*train \(20 episodes\)'):
    open_tiny(tiny, split='train[:0%]')
