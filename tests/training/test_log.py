"""metrics.jsonl, TensorBoard, Weights & Biases and the progress line."""
import json
import subprocess
import sys
import types

import pytest

from rtjax.training.log import MetricsLog, Progress


def test_rows_that_will_be_repeated_are_dropped_on_resume(tmp_path):
  def write(start, steps):
    log = MetricsLog(tmp_path, start=start)
    for step in steps:
      log.write(step, {'loss': float(step + 100 * start)})
    log.close()
  write(0, [1, 2, 3])
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 4, "lo')  # killed while writing
  with pytest.warns(UserWarning, match='1 of 4 lines are damaged or incomplete .* the first in line 4'):
    write(2, [3, 4])
  assert [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()] == [
      {'step': 1, 'loss': 1.0}, {'step': 2, 'loss': 2.0}, {'step': 3, 'loss': 203.0}, {'step': 4, 'loss': 204.0}]


@pytest.mark.parametrize('line', [b'{"step": 2, "lo', b'', b'\xff\xfe', b'[2]', b'7', b'{"loss": 1.0}',
                                  b'{"step": "2"}', b'[' * 100_000, b'\0' * 4096])
def test_a_bad_line_does_not_block_a_resume(tmp_path, line):
  rows = [b'{"step": 1, "loss": 1.0}\n', line + b'\n', b'{"step": 3, "loss": 3.0}\n']
  (tmp_path / 'metrics.jsonl').write_bytes(b''.join(rows))
  with pytest.warns(UserWarning, match=r'metrics\.jsonl: 1 of 3 lines .* the first in line 2; the others stay'):
    MetricsLog(tmp_path, start=3).close()
  assert (tmp_path / 'metrics.jsonl').read_bytes() == rows[0] + rows[2]


def test_tensorboard_reads_the_curves_and_discards_repeated_steps(tmp_path):
  accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
  for start, value in ((0, 1.0), (2, 5.0)):
    log = MetricsLog(tmp_path, start=start, tensorboard=True)
    for step in range(start + 1, 5):
      log.write(step, {'validation/loss': value})
    log.close()
  events = accumulator.EventAccumulator(str(tmp_path / 'tensorboard')).Reload()
  assert [(e.step, e.value) for e in events.Scalars('validation/loss')] == [(1, 1.0), (2, 1.0), (3, 5.0), (4, 5.0)]


def test_neither_curves_nor_trainer_import_tensorflow(tmp_path):
  code = ('import sys; from rtjax.training import loop, log; '
          f'log = log.MetricsLog({str(tmp_path)!r}, tensorboard=True); log.write(1, {{"loss": 1.0}}); log.close(); '
          'assert "tensorflow" not in sys.modules')
  subprocess.run([sys.executable, '-c', code], check=True)
  assert list((tmp_path / 'tensorboard').iterdir())


def test_missing_tensorboard_is_a_warning(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboard.summary.writer.event_file_writer', None)
  with pytest.warns(UserWarning, match='tensorboard is not installed'):
    MetricsLog(tmp_path, tensorboard=True).close()


def test_wandb_gets_rows_and_configuration_and_missing_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(ValueError, match='pip install wandb'):
    MetricsLog(tmp_path, wandb='project')
  calls = []
  run = types.SimpleNamespace(log=lambda row, step: calls.append((step, row)), finish=lambda: calls.append('finish'))
  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=lambda **options: calls.append(options) or run))
  log = MetricsLog(tmp_path, wandb='project', config={'steps': 4})
  log.write(3, {'loss': 1.0})
  log.close()
  assert calls[0]['project'] == 'project' and calls[0]['resume'] == 'allow' and calls[0]['config'] == {'steps': 4}
  assert calls[1:] == [(3, {'loss': 1.0}), 'finish']


def test_progress_line(capsys):
  with Progress(100, batch_size=10) as progress:
    progress.row(40, {'loss': 1.25, 'accuracy': 0.5, 'windows_per_second': 20.0})
    progress.validation(40, {'loss': 2.0, 'accuracy': 0.25})
  assert capsys.readouterr().out.splitlines() == [
      'step 40/100: loss 1.2500, tokens right 50.0%, 20.0 windows/s, 0:00:30 left',
      'step 40/100: validation loss 2.0000, tokens right 25.0%']


def test_advice_when_training_waits_for_data(capsys):
  with Progress(100, batch_size=10) as progress:
    for share in (0.2, 0.6, 0.7):
      progress.row(40, {'waiting_for_data': share})
  advice = [line for line in capsys.readouterr().out.splitlines() if 'waiting for data' in line]
  assert len(advice) == 1 and advice[0].startswith('60% of the time') and '--pipeline.threads' in advice[0]
