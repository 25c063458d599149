"""Lock of a folder: within a process, and without locks; tests/training/test_lock.py kills its holder."""
import errno
import fcntl
import os

import pytest

from rtjax.runtime import lock


def test_a_second_holder_is_refused_and_told_of_the_first(tmp_path):
  with lock.locked(tmp_path / 'run', 'Wait.'):
    held = rf'is in use: process {os.getpid()} on .* since \d{{4}}-'
    with pytest.raises(lock.LockedError, match=held), lock.locked(tmp_path / 'run', 'Wait.'):
      pass
    (tmp_path / 'run' / 'config.json').write_text('{}')
  with lock.locked(tmp_path / 'run', 'Wait.'):
    pass
  assert sorted(p.name for p in (tmp_path / 'run').iterdir()) == ['.lock', 'config.json']


def test_a_folder_that_stays_empty_is_removed(tmp_path):
  with pytest.raises(ValueError, match='no data'), lock.locked(tmp_path / 'a' / 'run', 'Wait.'):
    raise ValueError('no data')
  assert not (tmp_path / 'a' / 'run').exists()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
  def flock(*_):
    raise OSError(errno.ENOLCK, 'No locks available')
  monkeypatch.setattr(fcntl, 'flock', flock)
  with pytest.warns(UserWarning, match='cannot be locked .*No locks available'), lock.locked(tmp_path / 'run', 'Wait.'):
    pass


@pytest.mark.parametrize('content', ['', '[]', 'null', '{"pid": 1}'])
def test_a_holder_that_is_not_named(tmp_path, content):
  with lock.locked(tmp_path / 'run', 'Wait.'):
    (tmp_path / 'run' / lock.NAME).write_text(content)
    with pytest.raises(lock.LockedError, match=r'in use: another process writes into it\. Wait'), lock.locked(
        tmp_path / 'run', 'Wait.'):
      pass


def test_a_dataset_leaves_no_lock_behind(tmp_path):
  with lock.beside(tmp_path / 'out/bot'), pytest.raises(lock.LockedError, match='--name'), lock.beside(
      tmp_path / 'out/bot'):
    pass
  assert not list((tmp_path / 'out').iterdir())
