"""Search for the episodes of a folder, and refusals of logs that do harm."""
import struct
import zipfile

import h5py
import numpy as np
import pytest
from helpers import hostile_files, image_text_folders, robot_logs

from rtjax.data.convert import logs
from rtjax.data.convert.episode import read_episode
from rtjax.data.convert.logs import Problem
from rtjax.data.convert.options import Options
from rtjax.runtime.limits import BoundError

GOOD = robot_logs.episode(1)


@pytest.mark.parametrize(('make', 'error', 'words'), [
    (lambda folder: folder / 'nothing', FileNotFoundError, 'no such file'),
    (lambda folder: folder, ValueError, r'holds no episode \(nothing\)'),
    (lambda folder: (robot_logs.write_npz(folder, {'a': GOOD}), robot_logs.write_hdf5(folder, {'b': GOOD}))[0],
     ValueError, 'several layouts')])
def test_no_logs(tmp_path, make, error, words):
  with pytest.raises(error, match=words):
    logs.find_logs(make(tmp_path), 'action')


def test_jpeg_files_beside_the_table(tmp_path):
  arrays = robot_logs.episode(0, 4)
  path = robot_logs.write_folders(tmp_path, {'a': arrays})
  jpeg = robot_logs.encoded(arrays['images'][0], 'jpeg')
  for file in (path / 'a').glob('*.png'):
    file.unlink()
    file.with_suffix('.jpg').write_bytes(jpeg)
  (log,) = logs.find_logs(path, 'action')
  assert log.read('images') == [jpeg] * 4


def test_entries_above_the_group_of_an_episode(tmp_path):
  path = robot_logs.write_hdf5_groups(tmp_path / 'g.h5', {'demo_0': GOOD, 'demo_1': GOOD})
  with h5py.File(path, 'r+') as file:
    file['data'].attrs['task'], file.attrs['robot'] = 'stack the cups', 'arm'
    file['data/demo_0/obs/front'].attrs['camera'] = 'D435'
  log = logs.find_logs(path, 'actions')[0]
  assert {'/data/@task', '/@robot'} <= set(log.names())
  assert [str(log.read(name)) for name in ('/data/@task', '/@robot', 'obs/front/@camera')] == [
      'stack the cups', 'arm', 'D435']
  problem = logs.missing_entry(log, '@task', '--instruction')
  assert "Did you mean '/data/@task'?" in str(problem)


def test_a_table_without_rows_is_an_empty_episode(tmp_path):
  folder = robot_logs.write_folders(tmp_path, {'a': robot_logs.episode(0, 0)})
  (log,) = logs.find_logs(folder, 'action')
  assert [len(log.read(name)) for name in ('images', 'action', 'state')] == [0, 0, 0]
  (folder / 'a/steps.csv').write_text('')
  with pytest.raises(logs.Problem, match='is empty, expected a header'):
    log.read('action')


def test_image_files_of_other_formats_are_named(tmp_path):
  folder = robot_logs.write_folders(tmp_path, {'a': robot_logs.episode(0, 2)})
  for file in (folder / 'a').glob('*.png'):
    file.rename(file.with_suffix('.tiff'))
  (log,) = logs.find_logs(folder, 'action')
  with pytest.raises(logs.Problem, match=r"no 'images', and \.tiff files are not read\. Save them as \.jpg"):
    log.read('images')


@pytest.mark.parametrize('separator', [';', '\t'])
def test_a_table_of_a_spreadsheet_in_another_language(tmp_path, separator):
  folder = robot_logs.write_folders(tmp_path, {'a': robot_logs.episode(0, 2)})
  table = folder / 'a/steps.csv'
  table.write_text(table.read_text().replace(',', separator).replace('.', ','))
  (log,) = logs.find_logs(folder, 'action')
  with pytest.raises(logs.Problem, match=f'separates its columns by {separator!r}'.replace('\\', '\\\\')):
    log.read('action')


@pytest.mark.parametrize('name', ['0.npz', '0.h5', 'episode'])
def test_logs_that_are_links_out_of_their_folder(tmp_path, name):
  (tmp_path / 'logs').mkdir()
  (tmp_path / 'logs' / name).symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(BoundError, match='leads out of the folder'):
    logs.find_logs(tmp_path / 'logs', 'action')


def test_an_image_folder_stays_in_itself(tmp_path):
  (tmp_path / 'secret.png').write_bytes(image_text_folders.encoded(0))
  folder = robot_logs.write_folders(tmp_path / 'logs', {'a': robot_logs.episode(0)})
  image = folder / 'a/000003.png'
  image.unlink()
  image.symlink_to(tmp_path / 'secret.png')
  (folder / 'a/again').symlink_to('..')  # a cycle of folders
  with pytest.raises(Problem, match='leads out of the folder'):
    robot_logs.read_first(folder)
  for file in ('steps.csv', 'instruction.txt'):
    (folder / 'a' / file).unlink()
    (folder / 'a' / file).symlink_to('/etc/passwd')
  (log,) = logs.find_logs(folder, 'action')
  for entry in ('action', 'instruction'):
    with pytest.raises(Problem, match='leads out of the folder'):
      log.read(entry)


def npy(description, shape, data=b''):
  header = f"{{'descr': {description!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
  return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header + data


@pytest.mark.parametrize(('members', 'words'), [
    ({'action.npy': npy('|S0', (10 ** 10,))}, r'declares 10,000,000,000 bytes'),
    ({'action.npy': npy('<f4', (10 ** 20, 7))}, 'expected|declares'),
    ({'action.npy': npy('<f4', (6, 0))}, 'at least one number'),
    ({'images.npy': npy('|u1', (6, 0, 0, 3))}, 'at least one pixel'),
    ({'instruction.npy': npy('<U20000', (), bytes(80000).replace(b'\0\0\0\0', b'a\0\0\0'))}, '20,000 characters')])
def test_npz_arrays_of_no_use(tmp_path, members, words):
  stored = robot_logs.episode(0)
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
    for name, array in stored.items():
      if f'{name}.npy' not in members:
        with archive.open(f'{name}.npy', 'w') as file:
          np.save(file, array)
    for name, content in members.items():
      archive.writestr(name, content)
  options = Options(tmp_path)
  with pytest.raises(Problem, match=words):
    read_episode(logs.find_logs(tmp_path, 'action')[0], options, options.spec())


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_two_arrays_or_columns_of_one_name(tmp_path):
  robot_logs.write_npz(tmp_path / 'npz', {'a': robot_logs.episode(0)})
  with zipfile.ZipFile(tmp_path / 'npz/a.npz', 'a') as archive:
    archive.writestr('action.npy', npy('<f4', (6, 7), bytes(168)))
  with pytest.raises(Problem, match='two arrays of one name'):
    robot_logs.read_first(tmp_path / 'npz')
  folder = robot_logs.write_folders(tmp_path / 'folder', {'a': robot_logs.episode(0)})
  table = folder / 'a/steps.csv'
  table.write_text(table.read_text().replace('action_y', 'action_x'))
  with pytest.raises(Problem, match='two columns of one name: action_x'):
    robot_logs.read_first(folder)


def test_git_lfs_pointers_in_logs(tmp_path):
  for name in ('a.npz', 'b.h5'):
    hostile_files.lfs_pointer(tmp_path / name / name)
    with pytest.raises(Problem, match='Git LFS pointer'):
      robot_logs.read_first(tmp_path / name)
  folder = robot_logs.write_folders(tmp_path / 'folder', {'a': robot_logs.episode(0)})
  for name, entry in (('000002.png', 'images'), ('steps.csv', 'action')):
    hostile_files.lfs_pointer(folder / 'a' / name)
    with pytest.raises(Problem, match=rf'{name} is a Git LFS pointer'):
      logs.find_logs(folder, 'action')[0].read(entry)
