"""Ctrl-C: one line on the work that is kept, and exit status 130.

Python runs a signal's handler in the main thread, between two of its instructions: not while that thread compiles or
waits in native code. A second thread therefore reads the signals from Python's wakeup descriptor, and ends the process
if the main thread does not within a second or two.
"""
import contextlib
import multiprocessing
import os
import pathlib
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator

EXIT_STATUS = 128 + signal.SIGINT

_REACTION_S = 1.2  # for the main thread to clean up
_EXIT_S = 0.5  # for the interpreter to end after the line

_kept: str | Callable[[], str] = ''
_deferred = False
_scratch: set[pathlib.Path] = set()
_reported = threading.Event()


def keep(message: str | Callable[[], str]) -> None:
  """Set the text on kept work and how to go on."""
  global _kept
  _kept = message


def defer(active: bool) -> None:
  """Leave the next Ctrl-C to the caller's own handler.

  The one after it ends the process.
  """
  global _deferred
  _deferred = active


@contextlib.contextmanager
def scratch_folder(parent: pathlib.Path, prefix: str) -> Iterator[pathlib.Path]:
  """Create a temporary folder that is removed however the process is interrupted."""
  with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as name:
    folder = pathlib.Path(name)
    _scratch.add(folder)
    try:
      yield folder
    finally:
      _scratch.discard(folder)


@contextlib.contextmanager
def masked() -> Iterator[None]:
  """Start processes that never react to Ctrl-C: this one ends them."""
  if not hasattr(signal, 'pthread_sigmask'):  # Windows
    yield
    return
  before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def report() -> None:
  """Print the line, once."""
  if not _reported.is_set():
    _reported.set()
    text = (_kept() if callable(_kept) else _kept) or 'Nothing is kept; the same command starts again.'
    print(f'\nStopped. {text}', file=sys.stderr, flush=True)


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """End the process after Ctrl-C even while the main thread is deaf."""
  usable = threading.current_thread() is threading.main_thread()
  if not usable or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
    yield  # a background job of a shell ignores Ctrl-C
    return
  keep('')
  _reported.clear()
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  threading.Thread(target=_watch, args=(reader,), daemon=True, name='interrupt').start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    writer.close()


def _watch(reader: socket.socket) -> None:
  global _deferred
  with reader:
    while number := reader.recv(1):
      if number[0] != signal.SIGINT:
        continue
      if not _deferred:
        return _end()
      _deferred = False
      notice = threading.Timer(_REACTION_S, print, ['\nStopping: the step is finished and saved first. Ctrl-C again '
                                                    'ends at once.'], {'file': sys.stderr, 'flush': True})
      notice.daemon = True
      notice.start()


def _end() -> None:
  if _reported.wait(_REACTION_S):
    threading.Event().wait(_EXIT_S)
  report()
  for child in multiprocessing.active_children():
    child.kill()
  for folder in _scratch:
    shutil.rmtree(folder, ignore_errors=True)
  sys.stdout.flush()
  os._exit(EXIT_STATUS)
