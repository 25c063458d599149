"""Checksums of a folder: what they find, and sha256sum's agreement."""
import hashlib
import os
import shutil
import subprocess

import pytest
from etils import epath

from rtjax.runtime import checksums


@pytest.fixture
def folder(tmp_path):
  (tmp_path / 'inner').mkdir()
  for name in ('a', 'inner/b', 'inner/a file', 'left_out'):
    (tmp_path / name).write_bytes(name.encode() * 1000)
  checksums.write(epath.Path(tmp_path), omit=['left_out'])
  return epath.Path(tmp_path)


def test_unchanged_and_omitted_files_are_no_problem(folder):
  (folder / 'left_out').write_text('changed')
  (folder / 'new').write_text('added later')
  assert checksums.problems(folder) == []


def test_every_change_is_found_by_name(folder):
  (folder / 'a').write_bytes(b'b' + (folder / 'a').read_bytes()[1:])
  (folder / 'inner' / 'b').unlink()
  assert sorted(checksums.problems(folder)) == ['a has other contents than were saved', 'inner/b is missing']
  shares = [checksums.problems(folder, slice(i, None, 3)) for i in range(3)]
  assert shares == [['a has other contents than were saved'], [], ['inner/b is missing']]


@pytest.mark.parametrize('change', [lambda text: text[:-80], lambda text: text.replace('inner', 'outer'),
                                    lambda text: '', lambda text: text[100:]])
def test_damage_of_the_checksums_themselves(folder, change):
  file = folder / checksums.NAME
  file.write_text(change(file.read_text()))
  assert checksums.problems(folder) == ['SHA256SUMS is damaged itself']


def test_sha256sum_reads_them(folder):
  if not shutil.which('sha256sum'):
    pytest.skip('no sha256sum')
  done = subprocess.run(['sha256sum', '--check', '--strict', checksums.NAME], cwd=folder, capture_output=True,
                        text=True, check=True)
  assert done.stdout.splitlines() == ['a: OK', 'inner/a file: OK', 'inner/b: OK']


def test_a_device_or_a_pipe_in_place_of_a_file(folder):
  (folder / 'a').unlink()
  for make in (os.mkfifo, lambda path: os.symlink('/dev/zero', path)):
    make(folder / 'a')
    with pytest.raises(ValueError, match='a device or a pipe'):
      checksums.problems(folder)
    (folder / 'a').unlink()


def test_lines_that_are_no_checksums(folder):
  lines = 'no checksum\n'
  head = hashlib.sha256(lines.encode()).hexdigest()
  (folder / checksums.NAME).write_text(f'# {head} sha256\n{lines}')
  assert checksums.problems(folder) == [' is missing']
