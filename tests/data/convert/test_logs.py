"""Search for the episodes of a folder."""
import h5py
import pytest
from helpers import robot_logs

from rtjax.data.convert import logs

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
