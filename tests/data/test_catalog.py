"""Names of datasets and splits, and refusals of unknown and of harmful ones."""
import json
import pathlib
import shutil
import sys

import pytest
import tensorflow_datasets as tfds
from helpers import hostile_files, tiny_rlds
from helpers.tiny_rlds import LENGTHS, step_features

from rtjax import actions
from rtjax.data.image_text.sources import open_source
from rtjax.data.rlds.episodes import Dataset
from rtjax.runtime.limits import BoundError


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


LEGACY = {'type': 'stolen_features.Feature', 'content': {}}
NAMED = {
    'class': lambda c: step_features(c)['action'].update(pythonClassName='stolen_features.Feature'),
    'snake case': lambda c: step_features(c).update(x={'python_class_name': 'stolen_features.Feature'}),
    'legacy': lambda c: step_features(c).update(x=LEGACY),
    'a feature called type': lambda c: step_features(c).update(type=LEGACY),
    'json in json': lambda c: step_features(c).update(x={
        'pythonClassName': 'tensorflow_datasets.core.features.sequence_feature.Sequence',
        'jsonFeature': {'json': json.dumps({'feature': LEGACY, 'length': None})}}),
    'another module of TFDS': lambda c: step_features(c)['action'].update(
        pythonClassName='tensorflow_datasets.x.Feature')}


@pytest.mark.parametrize('change', NAMED.values(), ids=NAMED.keys())
def test_features_json_imports_nothing(small, tmp_path, monkeypatch, change):
  (tmp_path / 'stolen_features.py').write_text('raise SystemExit("executed")')
  monkeypatch.syspath_prepend(tmp_path)
  folder = tiny_rlds.changed(small, tmp_path, 'features.json', change)
  for read in (tiny_rlds.read, lambda name: open_source(name, 'train')):
    with pytest.raises(ValueError, match=r'features.json names the class .*expected one of tfds.features only'):
      read(folder)
  assert 'stolen_features' not in sys.modules


def test_a_prepared_dataset_imports_nothing_either(small, tmp_path, monkeypatch):
  """A dataset that is named, and found in TFDS's folder."""
  folder = pathlib.Path(tiny_rlds.changed(small, tmp_path, 'features.json', NAMED['class']))
  prepared = tmp_path / 'tensorflow_datasets/bridge_dataset/1.0.0'
  shutil.copytree(folder, prepared)
  from rtjax.data.tf import tfds
  monkeypatch.setattr(tfds.core.read_only_builder, '_find_builder_dir', lambda name: tfds.core.Path(prepared))
  with pytest.raises(ValueError, match='names the class'):
    tiny_rlds.read('bridge_dataset')


@pytest.mark.parametrize('lengths', [['1000000000000'], ['3'] * 2 + ['999999999'], ['-5']])
def test_a_number_of_episodes_that_the_files_cannot_hold(small, tmp_path, lengths):
  folder = tiny_rlds.changed(small, tmp_path, 'dataset_info.json', lambda c: c['splits'][0].update(
      shardLengths=lengths, filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-00000-of-00001'))
  with pytest.raises(ValueError, match=r'can hold|no number negative'):
    tiny_rlds.read(folder)


@pytest.mark.parametrize(('key', 'value'), [
    ('name', '../x'), ('filepathTemplate', '/etc/passwd'), ('filepathTemplate', '../{DATASET}'), ('name', 3)])
def test_a_split_is_in_the_dataset_folder(small, tmp_path, key, value):
  folder = tiny_rlds.changed(small, tmp_path, 'dataset_info.json', lambda c: c['splits'][0].update({key: value}))
  with pytest.raises(ValueError, match=r'of a split in .*dataset_info.json is .*, expected a name'):
    tiny_rlds.read(folder)


@pytest.mark.parametrize('text', ['', 'null', '[]', '{', '[' * 100_000, '{"splits": 3, "version": {}}', '{"name": []}'])
@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json'])
def test_damaged_descriptions(small, tmp_path, file, text):
  folder = pathlib.Path(shutil.copytree(small, tmp_path / 'data'))
  (folder / file).write_text(text)
  with pytest.raises(ValueError, match='json'):
    tiny_rlds.read(str(folder))


def test_a_million_files(small, tmp_path):
  folder = tiny_rlds.changed(small, tmp_path, 'dataset_info.json', lambda c: c['splits'][0].update(
      shardLengths=['1'] * 10 ** 6))
  with pytest.raises(BoundError, match='1,000,000 files, expected at most 10,000'):
    tiny_rlds.read(folder)


def test_git_lfs_pointers_in_a_dataset(small, tmp_path):
  for pattern in ('*.tfrecord*', 'features.json', 'dataset_info.json'):
    folder = pathlib.Path(shutil.copytree(small, tmp_path / pattern.strip('*.')))
    hostile_files.lfs_pointer(next(folder.glob(pattern)))
    with pytest.raises(ValueError, match='is a Git LFS pointer'):
      tiny_rlds.read(str(folder))


@pytest.mark.parametrize('pattern', ['*.tfrecord*', 'dataset_info.json', 'features.json'])
def test_files_of_a_dataset_that_are_links(small, tmp_path, pattern):
  """Out of the folder they are refused; those of a Hugging Face cache lead to its blobs."""
  folder = pathlib.Path(shutil.copytree(small, tmp_path / 'datasets--lab--pick/snapshots/1f2e'))
  blobs = folder.parent.parent / 'blobs'
  blobs.mkdir()
  file = next(folder.glob(pattern))
  file.rename(blobs / 'abc')
  file.symlink_to('../../blobs/abc')
  assert len(tiny_rlds.read(str(folder))) == 2
  blobs.rename(tmp_path / 'elsewhere')
  file.unlink()
  file.symlink_to(tmp_path / 'elsewhere/abc')
  with pytest.raises(BoundError, match='leads out of the folder'):
    tiny_rlds.read(str(folder))
