"""Lock of a run's folder, for one writer at a time."""
import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket
import warnings
from collections.abc import Iterator
from typing import IO

import jax

from rtjax.runtime.cli import UserError
from rtjax.training import sharding

NAME = '.lock'
_TAKEN = (errno.EAGAIN, errno.EACCES)


class RunLockedError(UserError):
  """Another process trains into the folder."""


@contextlib.contextmanager
def locked(run: pathlib.Path) -> Iterator[None]:
  """Hold the lock of a run's folder, which is made if necessary.

  The first process of a run takes it for all of them. The operating system releases it when that process ends, however
  it ends. On a file system without locks there is a warning. A folder that is still empty at the end is removed.

  Raises:
    RunLockedError: another process holds it; names its id and host.
  """
  with contextlib.ExitStack() as stack:
    refusal: RunLockedError | None = None
    if jax.process_index() == 0:
      try:
        stack.enter_context(_file_lock(run))
      except RunLockedError as error:
        refusal = error
    if not sharding.in_all_processes(refusal is None):
      raise refusal or RunLockedError(f'{run} is in use, as the first process of this run reports.')
    yield


@contextlib.contextmanager
def _file_lock(run: pathlib.Path) -> Iterator[None]:
  file = _take(run)
  try:
    yield
  finally:
    with contextlib.suppress(FileNotFoundError):  # somebody removed the folder
      if [entry.name for entry in run.iterdir()] == [NAME]:
        (run / NAME).unlink()
        run.rmdir()
    file.close()


def _take(run: pathlib.Path) -> IO[str]:
  """Return the locked file, which names its holder."""
  while True:
    run.mkdir(parents=True, exist_ok=True)
    try:
      file = (run / NAME).open('a+')
    except FileNotFoundError:  # another process has just removed the empty folder
      continue
    try:
      _flock(file, run)
      if _is_in_place(file, run / NAME):
        file.truncate(0)
        file.write(json.dumps({'pid': os.getpid(), 'host': socket.gethostname(), 'since': _now()}))
        file.flush()
        return file
    except BaseException:
      file.close()
      raise
    file.close()


def _flock(file: IO[str], run: pathlib.Path) -> None:
  try:
    import fcntl
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (ImportError, OSError) as error:  # Windows has no fcntl; NFS without its lock service gives ENOLCK
    if isinstance(error, OSError) and error.errno in _TAKEN:
      raise RunLockedError(_refusal(run, file)) from None
    warnings.warn(f'{run} cannot be locked ({error}): its file system has no locks. Take care that no second process '
                  'trains into this folder.', stacklevel=2)


def _refusal(run: pathlib.Path, file: IO[str]) -> str:
  file.seek(0)
  try:
    holder = json.load(file)
    process = f'process {holder["pid"]} on {holder["host"]} has been training into it since {holder["since"]}'
  except (ValueError, KeyError, TypeError):  # just being written
    process = 'another process trains into it'
  return (f'{run} is in use: {process}. Wait for its end, stop it (it saves and the same command resumes), or give '
          'another --output.')


def _is_in_place(file: IO[str], path: pathlib.Path) -> bool:
  """Return whether a file was not removed between opening and locking."""
  try:
    return os.path.samestat(os.fstat(file.fileno()), path.stat())
  except FileNotFoundError:
    return False


def _now() -> str:
  return datetime.datetime.now().astimezone().isoformat(' ', 'seconds')
