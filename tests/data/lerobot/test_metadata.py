"""Descriptions of LeRobot datasets, also damaged and hostile ones."""
import json

import numpy as np
import pytest

pytest.importorskip('pyarrow', reason="needs the extra 'lerobot'")
import pyarrow.parquet as pq
from helpers import tiny_lerobot

from rtjax.data import names
from rtjax.data.episodes.open import open_dataset
from rtjax.data.language import NoVectors
from rtjax.data.lerobot import metadata, spec
from rtjax.runtime import limits


@pytest.fixture
def folder(tmp_path):
  return tiny_lerobot.write(tmp_path / 'a', 'v2.1', 'image', [4, 3])


def read(folder):
  found = spec.recorded_spec(str(folder))
  return list(open_dataset(str(folder), 'train', found, camera='top', vectors=NoVectors()).read_all())


def test_places_of_both_versions(tmp_path):
  for version, first, data in (('v2.1', [0, 0, 0, 0], 'data/chunk-000/episode_000003.parquet'),
                               ('v3.0', [0, 4, 7, 0], 'data/chunk-000/file-001.parquet')):
    found = metadata.load(str(tiny_lerobot.write(tmp_path / version, version, 'image', [4, 3, 2, 5])))
    assert [row.first for row in found.episodes] == first and found.episodes[3].data == data
    assert found.cameras == {name: f'observation.images.{name}' for name in ('top', 'wrist')}
    assert found.tasks == {0: 'task 0', 1: 'task 1'} and found.fps == tiny_lerobot.FPS


def test_sizes_with_channels_first_and_depth_is_no_camera(folder):
  info = json.loads((folder / 'meta/info.json').read_text())
  top, wrist = (info['features'][f'observation.images.{name}'] for name in ('top', 'wrist'))
  top |= {'shape': [3, 32, 48], 'names': ['channels', 'height', 'width']}
  wrist['info'] = {'video.is_depth_map': True}
  tiny_lerobot.change_info(folder, features=info['features'])
  found = metadata.load(str(folder))
  assert found.image_size('observation.images.top') == (32, 48) and list(found.cameras) == ['top']


def test_it_is_found_by_its_description(folder, tmp_path):
  names.require(str(folder))
  with pytest.raises(FileNotFoundError, match=r'no meta/info\.json'):
    names.require(str(tmp_path))


@pytest.mark.parametrize(('changed', 'words'), [
    ({'codebase_version': 'v1.6'}, "codebase_version in meta/info.json is 'v1.6', expected one of v2.0, v2.1, v3.0"),
    ({'fps': 0}, 'fps is 0'), ({'fps': True}, 'fps is True'), ({'features': []}, 'features in'),
    ({'features': {'action': {'dtype': 'float32', 'shape': [1e9]}}}, "'action' is .*expected a dtype and a shape"),
    ({'chunks_size': 'x'}, 'chunks_size'), ({'splits': {'train': '0:9'}}, "split 'train' is '0:9'"),
    ({'data_path': '../{episode_index}'}, 'leads out of the folder'), ({'data_path': '/etc/passwd'}, 'leads out of'),
    ({'data_path': '{episode_index.__class__}'}, 'expected a path with fields'),
    ({'data_path': '{episode_index:999999999d}'}, 'expected a path with fields'),
    ({'data_path': '{secret}'}, r"expected fields of \['episode_chunk', 'episode_index'\]"),
    ({'data_path': None}, 'expected a path with fields'),
])
def test_a_wrong_description_is_refused(folder, changed, words):
  tiny_lerobot.change_info(folder, **changed)
  with pytest.raises(ValueError, match=words):
    read(folder)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
  file = folder / 'data/chunk-000/episode_000001.parquet'
  file.rename(tmp_path / 'outside.parquet')
  file.symlink_to(tmp_path / 'outside.parquet')
  with pytest.raises(limits.BoundError, match='leads out of the folder'):
    read(folder)


@pytest.mark.parametrize('file', ['meta/episodes.jsonl', 'meta/tasks.jsonl', 'data/chunk-000/episode_000001.parquet'])
@pytest.mark.parametrize('content', [b'', b'{"a": ', b'PAR1' + bytes(99), b'[1]\n', b'{"episode_index": -1}\n', None])
def test_damaged_files_are_named(folder, file, content):
  path = folder / file
  if (content, file) == (b'', 'meta/episodes.jsonl'):
    pytest.skip('no episode, which another test covers')
  path.write_bytes(path.read_bytes()[:-20] if content is None else content)
  with pytest.raises((ValueError, FileNotFoundError), match=r'episodes|tasks|task_index|episode_000001'):
    read(folder)


def test_pointers_of_git_lfs_and_missing_files_are_named(folder):
  file = folder / 'data/chunk-000/episode_000001.parquet'
  file.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
  with pytest.raises(limits.PointerError, match='git lfs pull'):
    read(folder)
  file.unlink()
  with pytest.raises(FileNotFoundError, match='episode_000001'):
    read(folder)


def test_no_episode_and_gaps_are_refused(folder):
  file = folder / 'meta/episodes.jsonl'
  lines = file.read_text().splitlines()
  for text in ('', lines[1]):
    file.write_text(text)
    with pytest.raises(ValueError, match='numbered from 0 on'):
      read(folder)


def test_large_columns_are_refused_before_they_are_read(folder, monkeypatch):
  monkeypatch.setattr(limits, 'ENTRY_BYTES', 20)
  with pytest.raises(limits.BoundError, match=r'episode_000000\.parquet has'):
    read(folder)


def test_an_image_in_a_file_is_refused(folder):
  file = folder / 'data/chunk-000/episode_000000.parquet'
  table = pq.read_table(file)
  rows = table.to_pylist()
  rows[2]['observation.images.top']['bytes'] = None
  pq.write_table(table.from_pylist(rows, table.schema), file)
  with pytest.raises(ValueError, match='names an image in a file'):
    read(folder)


def test_an_action_of_another_size_is_refused(folder):
  features = json.loads((folder / 'meta/info.json').read_text())['features']
  features['action']['shape'] = [4]
  tiny_lerobot.change_info(folder, features=features)
  with pytest.raises(ValueError, match=rf'{np.prod([4, 3])} numbers .*4 rows, expected 4 in each'):
    read(folder)
