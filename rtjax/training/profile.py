"""Trace of a few training steps."""
import os
import types

import jax

_WARM_UP = 3
"""Steps before the trace: the first ones compile and fill the input buffers."""


class Profile:
  """Trace of some steps of a run, written by the first process.

  Args:
    folder: the trace is FOLDER/plugins/profile/TIME/*.xplane.pb and perfetto_trace.json.gz.
    start: step that the run starts or resumes at.
    steps: to trace; 0 = none.
  """

  def __init__(self, folder: str | os.PathLike, start: int, steps: int):
    self._folder, self._first, self._end = folder, start + _WARM_UP, start + _WARM_UP + steps
    self._active = False

  def __enter__(self) -> 'Profile':
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
               traceback: types.TracebackType | None) -> None:
    self._stop()

  def before(self, step: int) -> None:
    """Begin or end the trace before a step.

    Args:
      step: number of steps taken.
    """
    if step == self._end:
      self._stop()
    if step == self._first < self._end and jax.process_index() == 0:
      jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
      self._active = True

  def _stop(self) -> None:
    if self._active:
      self._active = False
      jax.profiler.stop_trace()
