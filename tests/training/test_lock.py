"""Lock of a run's folder, between processes and after a kill."""
import json
import signal
import subprocess
import sys

from helpers import run_tiny_training

from rtjax.training import lock


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
