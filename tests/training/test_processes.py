"""Several real processes: shares, one state, resuming with others, and the loss of one."""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from helpers import run_tiny_training, tiny_rlds, tiny_training

from rtjax import checkpoints
from rtjax.training import loop, processes

SCRIPT = pathlib.Path(run_tiny_training.__file__)
TIMEOUT_S = 6
LONG = {'steps': 5000, 'checkpoints.every': 1000, 'validation.every': 0, 'mesh.timeout': TIMEOUT_S}


def start(output, count, *words, devices=1, **changes):
  """Start the processes of one run."""
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    address = f'localhost:{probe.getsockname()[1]}'
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={devices}'
  return [subprocess.Popen(
      [sys.executable, SCRIPT, str(output), json.dumps(
          changes | ({'mesh.distributed': f'{address},{count},{i}'} if count > 1 else {})), *words],
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {'XLA_FLAGS': flags})
      for i in range(count)]


def wait_for_step(process, step):
  for line in process.stdout:
    if line.startswith(f'step {step}/'):
      return
  pytest.fail(f'the process ended before step {step}')


def finish(running, status=0):
  """Return the outputs, and the outcomes of those that succeeded."""
  outputs = [process.communicate()[0] for process in running]
  assert [process.returncode for process in running] == [status] * len(running), outputs
  return outputs, [json.loads(o.splitlines()[-1].removeprefix('outcome ')) for o in outputs if status == 0]


def losses(run):
  found = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  return {row['step']: row['loss'] for row in found if 'loss' in row}


def test_an_unknown_setting_of_distributed_is_refused():
  with pytest.raises(ValueError, match='HOST:PORT,COUNT,INDEX'):
    processes.connect('yes', 20)


def test_one_process_is_not_watched():
  with processes.watched(20):
    pass


def test_two_processes_train_and_save_and_one_goes_on(tmp_path):
  """Two devices each; SIGTERM to one process stops both at one step."""
  _, ends = finish(start(tmp_path / 'complete', 2, devices=2, steps=6, **{'mesh.data': 2, 'mesh.fsdp': 2}))
  assert ends[0] == ends[1]
  assert checkpoints.read_json(tmp_path / 'complete')['data'] == [{'next': 6}] * 2

  run = pathlib.Path(shutil.copytree(tmp_path / 'complete', tmp_path / 'run'))
  shutil.rmtree(run / 'checkpoints' / '6')
  outcome = loop.train(tiny_training.config(run, steps=6), data=tiny_training.data())
  assert outcome.step == 6 and checkpoints.read_json(run)['data'] == [{'next': 6}] * 2
  assert losses(run) == pytest.approx(losses(tmp_path / 'complete'), rel=1e-5)

  stopped = start(tmp_path / 'stopped', 2, 'slow', devices=2,
                  **{'steps': 500, 'checkpoints.every': 500, 'validation.every': 0, 'mesh.data': 2, 'mesh.fsdp': 2})
  wait_for_step(stopped[0], 5)
  stopped[1].send_signal(signal.SIGTERM)
  _, ends = finish(stopped)
  assert ends[0]['step'] == ends[1]['step'] < 500
  assert checkpoints.read_json(tmp_path / 'stopped')['step'] == ends[0]['step']


def test_processes_of_one_tensor_group_train_as_one_device(tmp_path, four_steps):
  """They read the same share of the batch."""
  _, ends = finish(start(tmp_path / 'run', 2, devices=2, **{'mesh.data': 1, 'mesh.tensor': 4}))
  assert ends[0] == ends[1]
  assert checkpoints.read_json(tmp_path / 'run')['data'] == [{'next': 4}]
  assert losses(tmp_path / 'run') == pytest.approx(losses(four_steps), rel=1e-5)


def check_that_the_others_end(running, victim, timeout):
  began = time.monotonic()
  running[victim].kill()
  outputs, _ = finish(running[:victim] + running[victim + 1:], processes.EXIT_STATUS)
  assert time.monotonic() - began < 2 * timeout + 20  # a busy machine
  for output in outputs:
    assert f'process {victim}' in output and 'is gone' in output, output
    assert output.endswith('resumes from the last checkpoint.\n') and 'Traceback' not in output


def test_a_killed_process_ends_the_other_with_a_sentence(tmp_path):
  """A machine that stands still for longer than the timeout ends none."""
  running = start(tmp_path / 'run', 2, 'slow', **LONG)
  wait_for_step(running[0], 5)
  for number in (signal.SIGSTOP, signal.SIGCONT):
    for process in running:
      process.send_signal(number)
    time.sleep(TIMEOUT_S + 1)
  assert [process.poll() for process in running] == [None, None]
  check_that_the_others_end(running, 1, TIMEOUT_S)


@pytest.mark.slow
def test_without_the_first_process_the_others_end_too(tmp_path):
  running = start(tmp_path / 'run', 4, 'slow', **LONG)
  wait_for_step(running[0], 5)
  check_that_the_others_end(running, 0, TIMEOUT_S)


@pytest.mark.slow
@pytest.mark.parametrize('kind, before, after', [('rt1', 2, 4), ('rt1', 4, 2), ('rt2', 4, 2), ('rt2', 2, 1)])
def test_after_a_kill_other_processes_go_on_with_the_same_losses(tmp_path, questions, kind, before, after):
  folder = questions if kind == 'rt2' else tiny_rlds.write_lengths(tmp_path / 'data', [5] * 16)
  words, settings = f'{kind}={folder}', {'steps': 16, 'checkpoints.every': 3, 'validation.every': 8, 'batch_size': 16,
                                         'mesh.timeout': 10}
  finish(start(tmp_path / 'complete', before, words, **settings))
  chance = random.Random(f'{kind} {before}')
  killed = start(tmp_path / 'run', before, words, **settings)
  wait_for_step(killed[0], chance.randint(3, 9))
  check_that_the_others_end(killed, chance.randrange(1, before), 10)
  outputs, _ = finish(start(tmp_path / 'run', after, words, **settings))
  assert 'resumes at step' in outputs[0]
  assert losses(tmp_path / 'run') == pytest.approx(losses(tmp_path / 'complete'), rel=1e-3)
  assert checkpoints.read_json(tmp_path / 'run')['data'] == checkpoints.read_json(tmp_path / 'complete')['data']
  written = sorted(path.name for path in (tmp_path / 'run/checkpoints').iterdir())
  assert written == sorted(path.name for path in (tmp_path / 'complete/checkpoints').iterdir())
