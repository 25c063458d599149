"""Search for the episodes of a folder."""
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
