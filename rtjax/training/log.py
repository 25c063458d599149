"""Output of metrics: metrics.jsonl, TensorBoard, Weights & Biases, and a progress line."""
import datetime
import json
import os
import pathlib
import sys
import time
import types
import warnings
from typing import Any, Protocol

import jax
import rich.console
import rich.progress

from rtjax.training.meter import WAITING, Row

_MOST_WAITING = 0.25
"""Share of the time that training may wait for data without advice."""


class _Writer(Protocol):

  def write(self, step: int, row: Row) -> None: ...

  def close(self) -> None: ...


class MetricsLog:
  """Writer of rows of metrics.

  `metrics.jsonl` has a line {"step": ..., name: number, ...} for each. Only the first process writes. On resume, rows
  of later steps, which will be repeated, are dropped, and so, with a warning, are lines that are no row.

  Args:
    run: folder of the run.
    start: step that the run starts or resumes at.
    tensorboard: also write curves to `RUN/tensorboard`.
    wandb: Weights & Biases project to report to; empty = none.
    config: configuration of the run, for Weights & Biases.

  Raises:
    ValueError: `wandb` is set, and the package is not installed.
  """

  def __init__(self, run: str | os.PathLike, *, start: int = 0, tensorboard: bool = False, wandb: str = '',
               config: dict[str, Any] | None = None):
    self._writers: list[_Writer] = []
    if jax.process_index() != 0:
      return
    run = pathlib.Path(run)
    self._writers.append(_JsonLines(run / 'metrics.jsonl', start))
    if tensorboard:
      try:
        self._writers.append(_TensorBoard(run / 'tensorboard', start))
      except ImportError:
        warnings.warn('tensorboard is not installed: no curves are written for it (metrics.jsonl has the same '
                      'numbers). pip install tensorboard, or set --logging.no-tensorboard.', stacklevel=2)
    if wandb:
      self._writers.append(_WandB(run, wandb, config or {}))

  def write(self, step: int, row: Row) -> None:
    for writer in self._writers:
      writer.write(step, row)

  def close(self) -> None:
    for writer in self._writers:
      writer.close()


class _JsonLines:

  def __init__(self, path: pathlib.Path, start: int):
    complete = path.with_suffix('.tmp')  # a kill while writing must not lose the old rows
    complete.write_bytes(b''.join(line for line, step in _rows(path) if step <= start))
    complete.replace(path)
    self._file = path.open('a')

  def write(self, step: int, row: Row) -> None:
    self._file.write(json.dumps({'step': step} | row) + '\n')
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def _rows(path: pathlib.Path) -> list[tuple[bytes, float]]:
  """Return the rows of a JSONL file and their steps.

  Other lines are counted in a warning.
  """
  lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
  steps = [_step(line) for line in lines]
  bad = [number for number, step in enumerate(steps, 1) if step is None]
  if bad:
    warnings.warn(f'{path}: {len(bad)} of {len(lines)} lines are damaged or incomplete and are left out, the first in '
                  f'line {bad[0]}; the others stay.', stacklevel=4)
  return [(line, step) for line, step in zip(lines, steps, strict=True) if step is not None]


def _step(line: bytes) -> float | None:
  """Return the step of a row, None for any other line."""
  try:
    step = json.loads(line)['step']
  except (ValueError, KeyError, TypeError, RecursionError):  # bytes that are no text are a ValueError
    return None
  return step if line.endswith(b'\n') and isinstance(step, int | float) else None


class _TensorBoard:

  def __init__(self, folder: pathlib.Path, start: int):
    # TensorBoard's files without TensorFlow, which its writer imports unless a module of this name exists.
    sys.modules.setdefault('tensorboard.compat.notf', types.ModuleType('tensorboard.compat.notf'))
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    self._event, self._summary = event_pb2, summary_pb2.Summary
    self._writer = EventFileWriter(str(folder))
    # Makes TensorBoard discard the events of an earlier process after this step.
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._writer.add_event(event_pb2.Event(wall_time=time.time(), step=start + 1, session_log=log))

  def write(self, step: int, row: Row) -> None:
    values = [self._summary.Value(tag=name, simple_value=value) for name, value in row.items()]
    self._writer.add_event(self._event.Event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

  def close(self) -> None:
    self._writer.close()


class _WandB:

  def __init__(self, run: pathlib.Path, project: str, config: dict[str, Any]):
    try:
      import wandb
    except ImportError:
      raise ValueError(f'--logging.wandb {project} needs the package wandb: pip install wandb.') from None
    # With a fixed id a resumed run continues the same curves.
    identity = run.resolve().as_posix().replace('/', '-').strip('-')[-64:]
    self._run = wandb.init(project=project, name=run.name, id=identity, resume='allow', config=config, dir=str(run))

  def write(self, step: int, row: Row) -> None:
    self._run.log(row, step=step)

  def close(self) -> None:
    self._run.finish()


class Progress:
  """Progress of a run: a bar, or lines in a log file.

  Args:
    steps: steps of the complete run.
    batch_size: windows of a step.
    start: step that the run starts or resumes at.
  """

  def __init__(self, steps: int, batch_size: int, start: int = 0):
    self._steps, self._batch_size = steps, batch_size
    self._console = rich.console.Console(quiet=jax.process_index() != 0, highlight=False, soft_wrap=True)
    self._bar = rich.progress.Progress(
        rich.progress.BarColumn(20), rich.progress.MofNCompleteColumn(), rich.progress.TextColumn('{task.description}'),
        console=self._console, disable=not self._console.is_terminal)
    self._task = self._bar.add_task('', total=steps, completed=start)
    self._advised = False

  def __enter__(self) -> 'Progress':
    self._bar.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._bar.stop()

  def step(self, step: int) -> None:
    self._bar.update(self._task, completed=step)

  def row(self, step: int, row: Row) -> None:
    """Show the averages of a training row, and the time left."""
    parts = _numbers(row)
    if row.get('skipped_steps'):
      parts.append(f'{row["skipped_steps"]:.0f} steps not finite, skipped')
    if 'windows_per_second' in row:
      seconds = (self._steps - step) * self._batch_size / row['windows_per_second']
      parts += [f'{row["windows_per_second"]:.1f} windows/s', f'{datetime.timedelta(seconds=round(seconds))} left']
    self._bar.update(self._task, completed=step, description=', '.join(parts))
    if not self._console.is_terminal:
      self.print(f'step {step}/{self._steps}: {", ".join(parts)}')
    self._advise(row.get(WAITING, 0.0))

  def validation(self, step: int, row: Row) -> None:
    """Show the averages of a validation pass."""
    self.print(f'step {step}/{self._steps}: validation {", ".join(_numbers(row))}')

  def print(self, message: str) -> None:
    """Print a line above the bar."""
    self._console.print(message)

  def _advise(self, waiting: float) -> None:
    """Print once how to speed up an input pipeline that limits training."""
    if waiting > _MOST_WAITING and not self._advised:
      self._advised = True
      self.print(f'{waiting:.0%} of the time passes in waiting for data (waiting_for_data in metrics.jsonl). Store '
                 'smaller images (each epoch decodes them), set --pipeline.threads to the number of cores, or move '
                 'the dataset to a local disk; bench/input_pipeline.py measures the limit.')


def _numbers(row: Row) -> list[str]:
  parts = [f'loss {row["loss"]:.4f}'] if 'loss' in row else []
  shown = {'accuracy': 'tokens', 'text_accuracy': 'words', 'answers/vqa': 'answers'}
  return parts + [f'{unit} right {row[name]:.1%}' for name, unit in shown.items() if name in row]
