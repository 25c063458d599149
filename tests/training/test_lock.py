"""Lock of a run's folder: within a process, between processes, after a kill, without locks."""
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import pytest
from helpers import run_tiny_training

from rtjax.runtime.lock import LockedError
from rtjax.training import lock


def test_a_second_holder_is_refused_and_told_of_the_first(tmp_path):
  with lock.locked(tmp_path / 'run'):
    held = rf'is in use: process {os.getpid()} on .* since \d{{4}}-'
    with pytest.raises(LockedError, match=held), lock.locked(tmp_path / 'run'):
      pass
    (tmp_path / 'run' / 'config.json').write_text('{}')
  with lock.locked(tmp_path / 'run'):
    pass
  assert sorted(p.name for p in (tmp_path / 'run').iterdir()) == ['.lock', 'config.json']


def test_a_folder_that_stays_empty_is_removed(tmp_path):
  with pytest.raises(ValueError, match='no data'), lock.locked(tmp_path / 'a' / 'run'):
    raise ValueError('no data')
  assert not (tmp_path / 'a' / 'run').exists()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch):
  def flock(*_):
    raise OSError(errno.ENOLCK, 'No locks available')
  monkeypatch.setattr(fcntl, 'flock', flock)
  with pytest.warns(UserWarning, match='cannot be locked .*No locks available'), lock.locked(tmp_path / 'run'):
    pass


def test_the_same_command_twice_and_after_a_kill(tmp_path):
  command = [sys.executable, run_tiny_training.__file__, str(tmp_path / 'run'),
             json.dumps({'steps': 5000, 'validation.every': 0, 'checkpoints.every': 5000}), 'slow']
  first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
  try:
    assert any(line.startswith('step 1/') for line in first.stdout)
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 1 and f'is in use: process {first.pid} on ' in second.stderr, second.stderr
    assert 'room' not in second.stderr and 'Traceback' not in second.stderr
    assert first.poll() is None
  finally:
    first.send_signal(signal.SIGKILL)
    first.communicate()
  with lock.locked(tmp_path / 'run'):
    pass
