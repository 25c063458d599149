"""Processes of one run, which connect and end together.

Every process writes a sign of life to the store of JAX's coordinator, which process 0 hosts, and reads the others'. The
first one to miss a process names it in its own last sign, for all to repeat, and process 0 is the last to end: its end
would look like the cause. JAX watches as well, more slowly here; it ends a process by SIGABRT, at once where process 0
is gone. That becomes a sentence and an exit status too.
"""
import contextlib
import ctypes
import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed as jax_distributed  # the store has no public name

from rtjax.training import sharding

EXIT_STATUS = 1

_FOLDER = 'rtjax/signs_of_life'
_FAILED, _ENDS = 'failed', 'ends'
_SIGNS_IN_TIMEOUT = 6
_SLOWER = 4  # factor of JAX's timeouts, which lose its own report's race on a busy machine
_ON_ABORT = ctypes.CFUNCTYPE(None, ctypes.c_int)


def connect(distributed: str, timeout: int) -> None:
  """Connect this process with the others of a run.

  Call it before any use of a device.

  Args:
    distributed: '' for one process; 'auto' where JAX detects the processes (TPU pods, Slurm, Open MPI); or
      HOST:PORT,COUNT,INDEX: address of process 0, number of processes, and index of this one.
    timeout: seconds without a sign of life after which a process counts as gone.

  Raises:
    ValueError: `distributed` is none of these.
  """
  if not distributed or jax.distributed.is_initialized():
    return
  slower: Any = {'heartbeat_timeout_seconds': _SLOWER * timeout, 'shutdown_timeout_seconds': _SLOWER * timeout}
  if distributed == 'auto':
    jax.distributed.initialize(**slower)
    return
  match = re.fullmatch(r'([^,]+:\d+),(\d+),(\d+)', distributed)
  if not match:
    raise ValueError(f"mesh.distributed is {distributed!r}, expected 'auto' or HOST:PORT,COUNT,INDEX such as "
                     '10.0.0.1:1234,4,0.')
  jax.distributed.initialize(match[1], int(match[2]), int(match[3]), **slower)


@contextlib.contextmanager
def watched(timeout: int) -> Iterator[None]:
  """End this process once another of the run is gone.

  Args:
    timeout: seconds without a sign of life.
  """
  if jax.process_count() == 1:
    yield
    return
  watch = _Watch(timeout)
  watch.start()
  with watch.over_abort():
    try:
      yield
      sharding.wait_for_all('the end of the run')  # none counts as gone while another still writes
    except BaseException as error:
      if isinstance(error, jax.errors.JaxRuntimeError):  # such as a broken connection: the watch finds out whose
        watch.join(_SLOWER * timeout)
      watch.stop(error)
      raise
    watch.stop()


class _Watch(threading.Thread):
  """Gives signs of life, and looks at those of the others."""

  def __init__(self, timeout: int):
    super().__init__(daemon=True, name='rtjax-watch')
    self._timeout, self._interval, self._stopped = timeout, timeout / _SIGNS_IN_TIMEOUT, threading.Event()
    self._client: Any = jax_distributed.global_state.client
    self._index, self._count = jax.process_index(), jax.process_count()
    self._name = f'{socket.gethostname()}, process id {os.getpid()}'
    self._seen: dict[str, tuple[str, float]] = {}  # last sign, and when it was new
    self._watched, self._last_look = 0.0, time.monotonic()

  def run(self) -> None:
    for number in itertools.count():
      gone = ''
      try:
        gone = self._look(number)
        if gone and not self._stopped.is_set():
          self._tell(gone)
      except jax.errors.JaxRuntimeError:
        gone = gone or self._without_coordinator()
      if gone and not self._stopped.is_set():
        _end(gone)
      if self._stopped.wait(self._interval):
        return

  def stop(self, failure: BaseException | None = None) -> None:
    """Stop to watch; tell the others of a failure."""
    self._stopped.set()
    self.join(self._timeout)  # before JAX, which it uses, is taken down
    if failure:
      with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 may be gone
        self._sign(f'{_FAILED} {type(failure).__name__}: {failure}')

  @contextlib.contextmanager
  def over_abort(self) -> Iterator[None]:
    """Print a sentence where JAX's own watch aborts this process."""
    def end(number: int) -> None:
      if threading.current_thread() is not self:
        self.join(2 * self._timeout)  # the watch may find out which process is gone
      _end(self._without_coordinator())

    handler = _ON_ABORT(end)
    # Python's handlers run in the main thread between its instructions, which an abort never reaches.
    set_handler = ctypes.CDLL(None).signal
    set_handler.restype, set_handler.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    before = set_handler(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
      yield
    finally:
      set_handler(signal.SIGABRT, before)

  def _sign(self, text: Any) -> None:
    self._client.key_value_set(f'{_FOLDER}/{self._index}', f'{self._name}|{text}', allow_overwrite=True)

  def _look(self, number: int) -> str:
    """Describe a process that is gone; empty if none is."""
    self._sign(number)
    self._read()
    for key, (sign, _) in self._seen.items():
      name, _, text = sign.partition('|')
      process = f'process {key.rpartition("/")[2]} of {self._count} ({name})'
      if text.startswith(_ENDS):
        return text.removeprefix(_ENDS).strip()
      if text.startswith(_FAILED):
        return f'{process} ended: {text.removeprefix(_FAILED).strip()}'
      if self._silent(key) > self._timeout:
        return f'{process} is gone: no sign of life for {self._silent(key):.0f} s'
    return ''

  def _read(self) -> None:
    """Read all signs."""
    now = time.monotonic()
    # A machine that stood still, or was too busy for this thread, was so for the others' signs too.
    self._watched += min(now - self._last_look, 2 * self._interval)
    self._last_look = now
    for key, sign in self._client.key_value_dir_get(_FOLDER):
      if self._seen.setdefault(key, (sign, self._watched))[0] != sign:
        self._seen[key] = sign, self._watched

  def _silent(self, key: str) -> float:
    """Return for how many seconds a process has given no sign."""
    return self._watched - self._seen[key][1]

  def _tell(self, gone: str) -> None:
    """Pass the reason on; in process 0, wait until the others have ended."""
    self._sign(f'{_ENDS} {gone}')
    limit = time.monotonic() + self._timeout
    while self._index == 0 and self._others() and time.monotonic() < limit:
      time.sleep(0.1)
      self._read()

  def _others(self) -> list[str]:
    """Return the other processes that have not ended."""
    return [key for key, (sign, _) in self._seen.items() if not key.endswith('/0') and
            self._silent(key) <= self._timeout and not sign.partition('|')[2].startswith((_ENDS, _FAILED))]

  def _without_coordinator(self) -> str:
    """Return the end of process 0, as far as it is known."""
    name = next((sign.partition('|')[0] for key, (sign, _) in self._seen.items() if key.endswith('/0')), 'not yet seen')
    if self._index == 0:
      return 'the coordinator of the processes, in process 0, has failed'
    return f'process 0 of {self._count} ({name}) is gone: it does not answer any more'


_ending = threading.Lock()


def _end(reason: str) -> None:
  _ending.acquire()  # for good: one sentence
  print(f'\nerror: {reason}. This process ends as well; the same command for all processes resumes from the last '
        'checkpoint.', file=sys.stderr, flush=True)
  sys.stdout.flush()
  os._exit(EXIT_STATUS)
