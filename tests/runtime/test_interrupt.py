"""Ctrl-C in real processes: one line, exit status 130, within two seconds."""
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from helpers import robot_logs, saved_run
from helpers.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')

# Each prints 'ready' and then works for a minute.
DEAF = 'import hashlib; hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)  # native code: no handler of Python runs'
PYTHON = 'while True: pass'
IN_CALLBACK = '''
import gc
def work(*_):
  while True: pass
gc.callbacks.append(work)
gc.collect()'''
CHILD = '''
import multiprocessing, time
with interrupt.masked():
  multiprocessing.get_context('fork').Process(target=time.sleep, args=[60], daemon=True).start()
time.sleep(60)'''


def interrupted(command, ready, folder, signals=1, **variables):
  """Send SIGINT to a process and its children after the line `ready`.

  A background job of a shell, such as these tests, may ignore it; the process does not.

  Returns:
    Exit status, seconds, and the lines of both outputs after it.
  """
  with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                        start_new_session=True, env=os.environ | {'PYTHONPATH': str(ROOT)} | variables,
                        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
    for line in process.stdout:
      if ready in line:
        break
    time.sleep(0.5)
    start = time.monotonic()
    for _ in range(signals):
      os.killpg(process.pid, signal.SIGINT)
      time.sleep(0.1)
    try:
      output = process.communicate(timeout=60)[0]
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)
      raise
    seconds = time.monotonic() - start
    deadline = time.monotonic() + 5  # multiprocessing's own helper process sees that its pipe is closed
    while alive(process.pid) and time.monotonic() < deadline:
      time.sleep(0.1)
    assert not alive(process.pid)
  return process.returncode, seconds, [line for line in output.splitlines() if line]


def alive(group):
  """List the processes of a group that have not ended."""
  stats = []
  for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(OSError):  # it ended meanwhile
      stats.append(path.read_text().rpartition(')')[2].split())
  return [stat for stat in stats if stat[2] == str(group) and stat[0] != 'Z']


def script(work, before=''):
  return [sys.executable, '-c', f'''
import pathlib
from rtjax.runtime import cli, interrupt
def main():
  interrupt.keep(lambda: 'All is kept.')
  with interrupt.scratch_folder(pathlib.Path('.'), 'scratch'):
    {before}
    print('ready', flush=True)
    exec({work!r})
cli.run(main)''']


@pytest.mark.parametrize('work', [DEAF, PYTHON, IN_CALLBACK, CHILD], ids=['native', 'python', 'callback', 'child'])
def test_one_line_and_status_130(work, tmp_path):
  code, seconds, lines = interrupted(script(work), 'ready', tmp_path)
  assert (code, lines) == (130, ['Stopped. All is kept.'])
  assert seconds < 30  # a second on a quiet machine; the work takes a minute
  assert not list(tmp_path.iterdir())


def test_a_command_may_finish_its_step_first(tmp_path):
  """The first Ctrl-C belongs to the command; a second one ends it."""
  before = 'import signal; signal.signal(signal.SIGINT, lambda *_: None); interrupt.defer(True)'
  work = 'import time; time.sleep(0.3); print("saved"); raise SystemExit(130)'
  assert interrupted(script(f'import time; time.sleep(1); {work}', before), 'ready', tmp_path)[::2] == (130, ['saved'])
  code, _, lines = interrupted(script(DEAF, before), 'ready', tmp_path, signals=2)
  assert (code, lines) == (130, ['Stopped. All is kept.'])


def test_during_an_import(tmp_path):
  (tmp_path / 'slow.py').write_text('print("ready", flush=True)\nimport time\ntry:\n  time.sleep(60)\n'
                                    'except BaseException:\n  raise ImportError("other error")')
  code, _, lines = interrupted([sys.executable, '-c', 'from rtjax.runtime import cli; cli.run("slow")'], 'ready',
                               tmp_path, PYTHONPATH=f'{tmp_path}{os.pathsep}{ROOT}')
  assert (code, lines) == (130, ['Stopped. Nothing is kept; the same command starts again.'])


def test_an_ignored_signal_stays_ignored(tmp_path):
  """As in a background job of a shell."""
  command = script('import time; time.sleep(1); print("done")')
  command[-1] = 'import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n' + command[-1]
  assert interrupted(command, 'ready', tmp_path)[::2] == (0, ['done'])


@pytest.mark.slow
@pytest.mark.parametrize(('ready', 'expected'), [
    ('Loading', 'Stopped. There is no checkpoint yet; the same command starts again.'),
    ('Compiling the training step', 'Stopped. There is no checkpoint yet; the same command starts again.'),
    ('step 10/', 'Stopped and saved at step ')])
def test_training(ready, expected, tmp_path, reach):
  code, seconds, lines = interrupted(
      [sys.executable, ROOT / 'train.py', 'reach', '--data', reach, '--output', 'run', '--logging.every', '2',
       '--batch-size', '4', '--logging.no-tensorboard'], ready, tmp_path)
  lines = [line for line in lines if not line.startswith(('step ', 'Stopping', 'Loading', 'run: '))]
  assert code == 130 and len(lines) == 1 and lines[0].startswith(expected), lines
  assert seconds < 10  # two on a quiet machine


@pytest.mark.slow
@pytest.mark.parametrize(('words', 'ready', 'expected'), [
    (['-m', 'rtjax.export', 'run', '--to', 'stablehlo'], 'Compiling', 'Nothing was written; the same command'),
    (['-m', 'rtjax.serve', 'run', '--port', '0'], 'Compiling', 'The server holds nothing to keep'),
    (['-m', 'rtjax.serve', 'run', '--port', '0'], 'Serving', ''),
    ([ROOT / 'eval.py', 'run', '--env', 'tabletop'], 'Compiling', 'The finished episodes are kept')])
def test_commands_with_a_policy(words, ready, expected, tmp_path):
  from helpers import replays

  from rtjax import actions, models
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")
  model = models.build(replays.tiny_config(actions.ARM_7D), seed=0)
  saved_run.save(model, tmp_path / 'run', 'hashed-ngrams/1')
  code, seconds, lines = interrupted([sys.executable, *words], ready, tmp_path)
  stopped = [line for line in lines if line.startswith('Stopped.')]
  assert code == 130 and len(stopped) == 1 and expected in stopped[0] and 'Traceback' not in '\n'.join(lines), lines
  assert seconds < 10
  assert not list((tmp_path / 'exports').glob('*')) and not list((tmp_path / 'exports').glob('.*'))


@pytest.mark.slow
@pytest.mark.parametrize('ready', ['Checking', 'Writing'])
def test_the_converter(ready, tmp_path):
  """Its lines on the progress, too, which stand in for a bar outside of a terminal."""
  logs = robot_logs.write_npz(tmp_path / 'logs', {'0': robot_logs.episode(0, 50)})
  for number in range(1, 4000):
    (logs / f'{number}.npz').hardlink_to(logs / '0.npz')
  code, seconds, lines = interrupted([sys.executable, '-m', 'rtjax.data.convert', 'logs', '--name', 'x'],
                                     f'{ready}: ', tmp_path)
  stopped = [line for line in lines if line.startswith('Stopped.')]
  assert code == 130 and stopped == ['Stopped. Nothing was written; the same command starts again.'], lines
  assert seconds < 10 and not (tmp_path / 'data/built/x/1.0.0').exists()


@pytest.fixture(scope='module')
def reach(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('data')
  subprocess.run([sys.executable, ROOT / 'data/reach/generate.py', '--out', folder, '--episodes', '10'], check=True,
                 capture_output=True)
  return folder / 'reach' / '1.0.0'
