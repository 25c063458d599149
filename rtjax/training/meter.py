"""Averages of training and validation metrics."""
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

Row = dict[str, float]  # {'loss': 1.2, 'validation/l1/translation[0]': 0.01, ...}

WAITING = 'waiting_for_data'
"""Metric: share of the time, 0 to 1, in which no step could start because its batch was not ready."""


class NonFiniteError(RuntimeError):
  """A step's loss or gradients are NaN or infinite."""

  def __init__(self, step: int, loss: float, norm: float):
    super().__init__(f'step {step} gave a loss of {loss} and a gradient norm of {norm}')
    self.step = step


class Meter:
  """Averages the training steps between two rows.

  The numbers of a step are read when the next step has been dispatched, so that the device never waits.

  Args:
    batch_size: windows of a step.
    skip: count steps that are not finite instead of raising NonFiniteError.
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
    self._waited = 0.0
    if self._since is not None:
      self._since = time.monotonic()

  def push(self, step: int, outputs: dict[str, Any]) -> None:
    """Take the outputs of a step, and read those before."""
    self.flush()
    self._pending = step, outputs

  def flush(self) -> None:
    """Read the outputs of the last step too; waits for the device.

    Raises:
      NonFiniteError: the step is not finite, and such steps are not skipped.
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
      raise NonFiniteError(step, loss, norm)

  def row(self) -> Row:
    """Return the averages since the last row; all windows count the same."""
    self.flush()
    row: Row = {'loss': float(np.mean(self._losses)), 'grad_norm': float(np.mean(self._norms))} if self._losses else {}
    row |= averages(self._sums)
    if self._since is not None and self._timed:
      elapsed = time.monotonic() - self._since
      row['windows_per_second'] = self._timed * self._batch_size / elapsed
      row[WAITING] = self._waited / elapsed
    if self._skip:
      row['skipped_steps'] = self._skipped
    self._restart()
    return row

  @contextlib.contextmanager
  def waiting_for_data(self) -> Iterator[None]:
    """Count the time inside as spent waiting for the input pipeline."""
    start = time.monotonic()
    yield
    if self._since is not None:
      self._waited += time.monotonic() - start

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Exclude the time inside from the speed."""
    start = time.monotonic()
    yield
    if self._since is not None:
      self._since += time.monotonic() - start


def add(sums: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
  """Add {name: (sum, count)} to the sums so far."""
  return sums | {name: jax.tree.map(np.add, sums[name], pair) if name in sums else jax.tree.map(np.asarray, pair)
                 for name, pair in more.items()}


def averages(sums: dict[str, Any], labels: Mapping[str, Sequence[str]] | None = None) -> Row:
  """Return {name: average} of {name: (sum, count)}, without those of count 0.

  A vector gives 'name/label' for each of its parts.

  Args:
    labels: names of the parts of a vector; by default they are numbered.
  """
  row: Row = {}
  for name, (total, count) in sums.items():
    parts = [''] if np.ndim(total) == 0 else [f'/{label}' for label in (labels or {}).get(name, range(len(total)))]
    total, count = np.atleast_1d(total), np.atleast_1d(count)
    row |= {f'{name}{part}': float(t) / float(c) for part, t, c in zip(parts, total, count, strict=True) if c}
  return row
