import json
import subprocess
import sys
import types

import numpy as np
import pytest

from rtjax.training import metrics


def outputs(loss, right, count, finite=True):
  return {'loss': np.float32(loss), 'grad_norm': np.float32(1), 'finite': np.bool_(finite),
          'metrics': {'accuracy': (right, count)}}


def test_a_row_averages_the_steps_since_the_last_one():
  meter = metrics.Meter(batch_size=8)
  meter.push(1, outputs(3.0, 1, 4))
  meter.push(2, outputs(1.0, 5, 6))
  row = meter.row()
  assert (row['loss'], row['accuracy']) == (2.0, 0.6)  # tokens count the same, in whichever step
  meter.push(3, outputs(7.0, 0, 1))
  assert meter.row()['loss'] == 7.0


def test_speed_leaves_out_the_compilation_and_pauses(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(metrics.time, 'monotonic', lambda: now[0])
  meter = metrics.Meter(batch_size=8)
  for step in range(1, 6):
    now[0] += 50 if step == 1 else 2
    meter.push(step, outputs(1, 1, 1))
  with meter.paused():
    now[0] += 1000
  assert meter.row()['windows_per_second'] == pytest.approx(4 * 8 / 6)  # seen late: 4 steps in the 6 s after the first


def test_a_step_that_is_not_finite():
  meter = metrics.Meter(batch_size=8)
  meter.push(1, outputs(1, 1, 1))
  meter.push(2, outputs(np.nan, 1, 1, finite=False))
  with pytest.raises(metrics.NonFinite, match='step 2 gave a loss of nan') as caught:
    meter.push(3, outputs(1, 1, 1))
  assert caught.value.step == 2
  meter = metrics.Meter(batch_size=8, skip=True)
  meter.push(1, outputs(np.nan, 1, 1, finite=False))
  assert meter.row() == {'skipped_steps': 1}


def test_averages_of_vectors_have_names_and_leave_out_what_was_not_counted():
  sums = metrics.add({}, {'l1': (np.array([1.0, 2.0, 0.0]), np.array([2.0, 2.0, 0.0])), 'loss': (6.0, 3.0)})
  sums = metrics.add(sums, {'l1': (np.array([1.0, 0.0, 0.0]), np.array([2.0, 2.0, 0.0])), 'loss': (1.0, 4.0)})
  assert metrics.averages(sums, {'l1': ['x', 'y', 'z']}) == {'l1/x': 0.5, 'l1/y': 0.5, 'loss': 1.0}
  assert metrics.averages(sums) == {'l1/0': 0.5, 'l1/1': 0.5, 'loss': 1.0}


def test_rows_that_will_come_again_are_dropped_on_resume(tmp_path):
  def write(start, steps):
    log = metrics.Log(tmp_path, start=start)
    for step in steps:
      log.write(step, {'loss': float(step + 100 * start)})
    log.close()
  write(0, [1, 2, 3])
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 4, "lo')  # killed while writing
  write(2, [3, 4])
  assert [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()] == [
      {'step': 1, 'loss': 1.0}, {'step': 2, 'loss': 2.0}, {'step': 3, 'loss': 203.0}, {'step': 4, 'loss': 204.0}]


def test_tensorboard_reads_the_curves_and_forgets_steps_that_came_again(tmp_path):
  accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
  for start, value in ((0, 1.0), (2, 5.0)):
    log = metrics.Log(tmp_path, start=start, tensorboard=True)
    for step in range(start + 1, 5):
      log.write(step, {'validation/loss': value})
    log.close()
  events = accumulator.EventAccumulator(str(tmp_path / 'tensorboard')).Reload()
  assert [(e.step, e.value) for e in events.Scalars('validation/loss')] == [(1, 1.0), (2, 1.0), (3, 5.0), (4, 5.0)]


def test_neither_curves_nor_trainer_import_tensorflow(tmp_path):
  code = ('import sys; from rtjax.training import loop, metrics; '
          f'log = metrics.Log({str(tmp_path)!r}, tensorboard=True); log.write(1, {{"loss": 1.0}}); log.close(); '
          'assert "tensorflow" not in sys.modules')
  subprocess.run([sys.executable, '-c', code], check=True)
  assert list((tmp_path / 'tensorboard').iterdir())


def test_missing_tensorboard_is_a_warning(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboard.summary.writer.event_file_writer', None)
  with pytest.warns(UserWarning, match='tensorboard is not installed'):
    metrics.Log(tmp_path, tensorboard=True).close()


def test_wandb_is_told_everything_and_missing_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(ValueError, match='pip install wandb'):
    metrics.Log(tmp_path, wandb='project')
  told = []
  run = types.SimpleNamespace(log=lambda row, step: told.append((step, row)), finish=lambda: told.append('finish'))
  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=lambda **options: told.append(options) or run))
  log = metrics.Log(tmp_path, wandb='project', config={'steps': 4})
  log.write(3, {'loss': 1.0})
  log.close()
  assert told[0]['project'] == 'project' and told[0]['resume'] == 'allow' and told[0]['config'] == {'steps': 4}
  assert told[1:] == [(3, {'loss': 1.0}), 'finish']


def test_progress_line(capsys):
  with metrics.Progress(100, batch_size=10) as progress:
    progress.row(40, {'loss': 1.25, 'accuracy': 0.5, 'windows_per_second': 20.0})
    progress.validation(40, {'loss': 2.0, 'accuracy': 0.25})
  assert capsys.readouterr().out.splitlines() == [
      'step 40/100: loss 1.2500, tokens right 50.0%, 20.0 windows/s, 0:00:30 left',
      'step 40/100: validation loss 2.0000, tokens right 25.0%']
