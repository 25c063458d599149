"""Lock of a folder, for one writer at a time."""
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

from rtjax.runtime.cli import UserError

NAME = '.lock'
_TAKEN = (errno.EAGAIN, errno.EACCES)


class LockedError(UserError):
  """Another process writes into the folder."""


@contextlib.contextmanager
def locked(folder: pathlib.Path, advice: str) -> Iterator[None]:
  """Hold the lock of a folder, which is made if necessary.

  The operating system releases it when the process ends, however it ends. On a file system without locks there is a
  warning. A folder that is still empty at the end is removed.

  Args:
    advice: end of the refusal, on what to do.

  Raises:
    LockedError: another process holds it; names its id and host.
  """
  file = _take(folder, advice)
  try:
    yield
  finally:
    with contextlib.suppress(FileNotFoundError):  # somebody removed the folder
      if [entry.name for entry in folder.iterdir()] == [NAME]:
        (folder / NAME).unlink()
        folder.rmdir()
    file.close()


def beside(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
  """Hold the lock of a new dataset, in a folder beside it."""
  return locked(path.with_name(f'.{path.name}'), 'Wait for its end, or choose another --name or --out.')


def _take(folder: pathlib.Path, advice: str) -> IO[str]:
  """Return the locked file, which names its holder."""
  while True:
    folder.mkdir(parents=True, exist_ok=True)
    try:
      file = (folder / NAME).open('a+')
    except FileNotFoundError:  # another process has just removed the empty folder
      continue
    try:
      _flock(file, folder, advice)
      if _is_in_place(file, folder / NAME):
        file.truncate(0)
        file.write(json.dumps({'pid': os.getpid(), 'host': socket.gethostname(), 'since': _now()}))
        file.flush()
        return file
    except BaseException:
      file.close()
      raise
    file.close()


def _flock(file: IO[str], folder: pathlib.Path, advice: str) -> None:
  try:
    import fcntl
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (ImportError, OSError) as error:  # Windows has no fcntl; NFS without its lock service gives ENOLCK
    if isinstance(error, OSError) and error.errno in _TAKEN:
      raise LockedError(f'{folder} is in use: {_holder(file)}. {advice}') from None
    warnings.warn(f'{folder} cannot be locked ({error}): its file system has no locks. Take care that no second '
                  'process writes into this folder.', stacklevel=2)


def _holder(file: IO[str]) -> str:
  file.seek(0)
  try:
    holder = json.load(file)
    return f'process {holder["pid"]} on {holder["host"]} has been writing into it since {holder["since"]}'
  except (ValueError, KeyError, TypeError):  # just being written
    return 'another process writes into it'


def _is_in_place(file: IO[str], path: pathlib.Path) -> bool:
  """Return whether a file was not removed between opening and locking."""
  try:
    return os.path.samestat(os.fstat(file.fileno()), path.stat())
  except FileNotFoundError:
    return False


def _now() -> str:
  return datetime.datetime.now().astimezone().isoformat(' ', 'seconds')
