"""What a run reports: averages, a progress line, metrics.jsonl, TensorBoard, Weights & Biases."""
import contextlib
import datetime
import json
import os
import pathlib
import sys
import time
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import rich.console
import rich.progress

Row = dict[str, float]  # {'loss': 1.2, 'validation/l1/translation[0]': 0.01, ...}


class NonFinite(RuntimeError):
  """A step's loss or gradients are NaN or infinite."""

  def __init__(self, step: int, loss: float, norm: float):
    super().__init__(f'step {step} gave a loss of {loss} and a gradient norm of {norm}')
    self.step = step


class Meter:
  """Averages the train steps between two rows.

  A step's numbers are looked at when the next step has been handed to the device, which is so never kept waiting.

  Args:
    batch_size: windows of a step.
    skip: count steps that are not finite instead of raising NonFinite.
  """

  def __init__(self, batch_size: int, *, skip: bool = False):
    self._batch_size, self._skip = batch_size, skip
    self._pending: tuple[int, Any] | None = None
    self._since: float | None = None
    self._restart()

  def _restart(self) -> None:
    self._losses: list[float] = []
    self._norms: list[float] = []
    self._sums: dict[str, Any] = {}
    self._timed = self._skipped = 0
    if self._since is not None:
      self._since = time.monotonic()

  def push(self, step: int, outputs: dict[str, Any]) -> None:
    """Takes what `train_step` returned for step `step`, and looks at the step before."""
    self.settle()
    self._pending = step, outputs

  def settle(self) -> None:
    """Looks at the last step too; waits for the device.

    Raises:
      NonFinite: unless such steps are skipped.
    """
    if self._pending is None:
      return
    step, outputs = self._pending[0], jax.device_get(self._pending[1])
    self._pending = None
    if self._since is None:
      self._since = time.monotonic()  # the first step compiles, so the clock starts after it
    else:
      self._timed += 1
    loss, norm = float(outputs['loss']), float(outputs['grad_norm'])
    if outputs['finite']:
      self._losses.append(loss)
      self._norms.append(norm)
      self._sums = add(self._sums, outputs['metrics'])
    elif self._skip:
      self._skipped += 1
    else:
      raise NonFinite(step, loss, norm)

  def row(self) -> Row:
    """The averages since the last row; a window is a training example."""
    self.settle()
    row: Row = {'loss': float(np.mean(self._losses)), 'grad_norm': float(np.mean(self._norms))} if self._losses else {}
    row |= averages(self._sums)
    if self._since is not None and self._timed:
      row['windows_per_second'] = self._timed * self._batch_size / (time.monotonic() - self._since)
    if self._skip:
      row['skipped_steps'] = self._skipped
    self._restart()
    return row

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the time inside out of the speed."""
    start = time.monotonic()
    yield
    if self._since is not None:
      self._since += time.monotonic() - start


def add(sums: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
  """Adds {name: (sum, count)} to what was added up before; an empty dict is nothing yet."""
  return sums | {name: jax.tree.map(np.add, sums[name], pair) if name in sums else jax.tree.map(np.asarray, pair)
                 for name, pair in more.items()}


def averages(sums: dict[str, Any], labels: Mapping[str, Sequence[str]] | None = None) -> Row:
  """{name: (sum, count)} to {name: average}; a vector becomes name/label for each part. Without a count, left out.

  Args:
    labels: names of the parts of a vector; by default they are numbered.
  """
  row: Row = {}
  for name, (total, count) in sums.items():
    parts = [''] if np.ndim(total) == 0 else [f'/{label}' for label in (labels or {}).get(name, range(len(total)))]
    total, count = np.atleast_1d(total), np.atleast_1d(count)
    row |= {f'{name}{part}': float(t) / float(c) for part, t, c in zip(parts, total, count, strict=True) if c}
  return row


class Log:
  """Writes rows: always to `metrics.jsonl`, one line {"step": ..., name: number, ...} each.

  Only the first process writes. On resume, rows of later steps, which will come again, are dropped.

  Args:
    run: the run's folder.
    start: the step that the run starts or resumes at.
    tensorboard: write curves to `RUN/tensorboard` too.
    wandb: Weights & Biases project to report to; empty = none.
    config: what Weights & Biases is told about the run.

  Raises:
    ValueError: if wandb is asked for and not installed.
  """

  def __init__(self, run: str | os.PathLike, *, start: int = 0, tensorboard: bool = False, wandb: str = '',
               config: dict[str, Any] | None = None):
    self._writers: list[Any] = []
    if jax.process_index() != 0:
      return
    run = pathlib.Path(run)
    self._writers.append(_JsonLines(run / 'metrics.jsonl', start))
    if tensorboard:
      try:
        self._writers.append(_TensorBoard(run / 'tensorboard', start))
      except ImportError:
        warnings.warn('tensorboard is not installed: no curves are written for it (metrics.jsonl has the same '
                      'numbers). pip install tensorboard, or say --no-tensorboard.', stacklevel=2)
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
    kept = [line for line in _lines(path) if json.loads(line)['step'] <= start]
    whole = path.with_suffix('.tmp')  # a kill while writing must not lose the old rows
    whole.write_text(''.join(kept))
    whole.replace(path)
    self._file = path.open('a')

  def write(self, step: int, row: Row) -> None:
    self._file.write(json.dumps({'step': step} | row) + '\n')
    self._file.flush()

  def close(self) -> None:
    self._file.close()


def _lines(path: pathlib.Path) -> list[str]:
  """The lines of a JSONL file; a last one that a kill cut short is left out."""
  return [line for line in path.read_text().splitlines(keepends=True) if line.endswith('\n')] if path.exists() else []


class _TensorBoard:

  def __init__(self, folder: pathlib.Path, start: int):
    # TensorBoard's files without TensorFlow, which its writer imports unless a module of this name exists.
    sys.modules.setdefault('tensorboard.compat.notf', types.ModuleType('tensorboard.compat.notf'))
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
    self._event, self._summary = event_pb2, summary_pb2.Summary
    self._writer = EventFileWriter(str(folder))
    # Tells TensorBoard to forget what an earlier process wrote after this step.
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
      raise ValueError(f'--wandb {project} needs the package wandb: pip install wandb.') from None
    # A fixed id makes a resumed run go on where it was.
    identity = run.resolve().as_posix().replace('/', '-').strip('-')[-64:]
    self._run = wandb.init(project=project, name=run.name, id=identity, resume='allow', config=config, dir=str(run))

  def write(self, step: int, row: Row) -> None:
    self._run.log(row, step=step)

  def close(self) -> None:
    self._run.finish()


class Progress:
  """A line that says where training is: a bar in a terminal, one line per row in a log file.

  Args:
    steps: of the whole run.
    batch_size: windows of a step.
    start: where it starts or resumes.
  """

  def __init__(self, steps: int, batch_size: int, start: int = 0):
    self._steps, self._batch_size = steps, batch_size
    self._console = rich.console.Console(quiet=jax.process_index() != 0, highlight=False, soft_wrap=True)
    self._bar = rich.progress.Progress(
        rich.progress.BarColumn(20), rich.progress.MofNCompleteColumn(), rich.progress.TextColumn('{task.description}'),
        console=self._console, disable=not self._console.is_terminal)
    self._task = self._bar.add_task('', total=steps, completed=start)

  def __enter__(self) -> 'Progress':
    self._bar.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._bar.stop()

  def step(self, step: int) -> None:
    self._bar.update(self._task, completed=step)

  def row(self, step: int, row: Row) -> None:
    """Shows the averages of a train row, and the time left."""
    parts = _numbers(row)
    if row.get('skipped_steps'):
      parts.append(f'{row["skipped_steps"]:.0f} steps not finite, skipped')
    if 'windows_per_second' in row:
      seconds = (self._steps - step) * self._batch_size / row['windows_per_second']
      parts += [f'{row["windows_per_second"]:.1f} windows/s', f'{datetime.timedelta(seconds=round(seconds))} left']
    self._bar.update(self._task, completed=step, description=', '.join(parts))
    if not self._console.is_terminal:
      self.say(f'step {step}/{self._steps}: {", ".join(parts)}')

  def validation(self, step: int, row: Row) -> None:
    """Shows the averages of a validation pass."""
    self.say(f'step {step}/{self._steps}: validation {", ".join(_numbers(row))}')

  def say(self, message: str) -> None:
    """Prints a line above the bar."""
    self._console.print(message)


def _numbers(row: Row) -> list[str]:
  parts = [f'loss {row["loss"]:.4f}'] if 'loss' in row else []
  shown = {'accuracy': 'tokens', 'text_accuracy': 'words', 'answers/vqa': 'answers'}
  return parts + [f'{what} right {row[name]:.1%}' for name, what in shown.items() if name in row]
