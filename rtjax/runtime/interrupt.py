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
import types
from collections.abc import Callable, Iterator

EXIT_STATUS = 128 + signal.SIGINT

_REACTION_S = 1.0  # for the main thread to clean up

_kept: str | Callable[[], str] = ''
_deferred = False
_arrived = False
_scratch: set[pathlib.Path] = set()
_reported = threading.Event()
_reporting = threading.RLock()


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
  with _reporting:
    if not _reported.is_set():
      text = (_kept() if callable(_kept) else _kept) or 'Nothing is kept; the same command starts again.'
      print(f'\nStopped. {text}', file=sys.stderr, flush=True)
      _reported.set()


def note(number: int = signal.SIGINT, frame: object = None) -> None:
  """Record that Ctrl-C arrived, so that `watched` ends the process at once."""
  global _arrived
  _arrived = True


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """End the process after Ctrl-C even while the main thread is deaf.

  On leaving after Ctrl-C the process ends without the interpreter's shutdown, which takes seconds with TensorFlow.
  """
  usable = threading.current_thread() is threading.main_thread()
  if not usable or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
    yield  # a background job of a shell ignores Ctrl-C
    return
  keep('')
  _reported.clear()
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  hook, sys.unraisablehook = sys.unraisablehook, _hide_interrupts
  signal.signal(signal.SIGINT, _raise)
  threading.Thread(target=_watch, args=(reader,), daemon=True, name='interrupt').start()
  try:
    yield
  except BaseException as error:
    if _arrived:
      if not isinstance(error, SystemExit):  # the command has reported itself
        report()
      _exit()
    raise
  finally:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.unraisablehook = hook
    signal.set_wakeup_fd(descriptor)
    writer.close()


def _raise(number: int, frame: types.FrameType | None) -> None:
  note()
  if _in_import(frame):  # extension modules print the exception, or replace it
    report()
    _exit()
  signal.default_int_handler(number, frame)


def _in_import(frame: types.FrameType | None) -> bool:
  while frame and frame.f_code.co_filename != '<frozen importlib._bootstrap>':
    frame = frame.f_back
  return frame is not None


def _hide_interrupts(error: 'sys.UnraisableHookArgs') -> None:
  """Hide a KeyboardInterrupt in a callback, where it is lost."""
  if not isinstance(error.exc_value, KeyboardInterrupt):
    sys.__unraisablehook__(error)


def _watch(reader: socket.socket) -> None:
  global _deferred
  text = '\nStopping: the step is finished and saved first. Ctrl-C again ends at once.'
  notice = threading.Timer(_REACTION_S, print, [text], {'file': sys.stderr, 'flush': True})
  notice.daemon = True
  with reader:
    while number := reader.recv(1):
      if number[0] != signal.SIGINT:
        continue
      note()
      if not _deferred:
        notice.cancel()
        return _end()
      _deferred = False
      notice.start()


def _end() -> None:
  _reported.wait(_REACTION_S)
  report()
  _exit()


def _exit() -> None:
  for child in multiprocessing.active_children():
    child.kill()
    child.join(0.2)
  for folder in _scratch:
    shutil.rmtree(folder, ignore_errors=True)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(EXIT_STATUS)
