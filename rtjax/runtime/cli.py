"""Entry point shared by all commands: errors and Ctrl-C become one line."""
import contextlib
import importlib
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator

from rtjax.runtime import interrupt, malloc

_SLOW_S = 4


class UserError(RuntimeError):
  """An error that the user can fix; its message says how."""


def describe(error: BaseException) -> str:
  """Return kind and first words of an error; some have pages."""
  text = ' '.join(str(error).split())
  kind = '' if isinstance(error, UserError) else f'{type(error).__name__}: '
  return f'{kind}{text[:300]}{"..." if len(text) > 300 else ""}'


def run(main: Callable[[], None] | str) -> None:
  """Call `main`, or the function of that name in the module `main`.

  Errors that the user can fix exit with code 2, Ctrl-C with 130.
  """
  with interrupt.watched():
    try:
      malloc.keep_freed_memory()
      (importlib.import_module(main).main if isinstance(main, str) else main)()
    except (ValueError, OSError, UserError) as error:
      print(f'error: {error}', file=sys.stderr)
      raise SystemExit(2) from None
    except KeyboardInterrupt:
      interrupt.report()
      raise SystemExit(interrupt.EXIT_STATUS) from None


def prog(default: str) -> str:
  """Return the name of the running command: `rtjax NAME`, or the default."""
  return sys.argv[0] if sys.argv[0].startswith('rtjax ') else default


def command(script: str) -> str:
  """Return the call of another script, in the style of this call."""
  return f'rtjax {script}' if prog('') else f'python {script}.py'


def note(text: str) -> None:
  """Print a line on the work that starts now, to stderr."""
  print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def noted_if_slow(text: str) -> Iterator[None]:
  """Print a line on work that takes longer than some seconds."""
  timer = threading.Timer(_SLOW_S, note, [text])
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def weights_exist(path: str | os.PathLike) -> bool:
  """Return whether there are weights at a path, or may be.

  A TensorFlow checkpoint is named by the prefix of its files.
  """
  expanded = pathlib.Path(path).expanduser()
  return '://' in os.fspath(path) or expanded.exists() or expanded.with_name(f'{expanded.name}.index').exists()


def require_weights(path: str, what: str = 'model') -> None:
  """Require weights at a path.

  Raises FileNotFoundError, about a `what`.
  """
  if not weights_exist(path):
    raise FileNotFoundError(f'no {what} at {path}: there is no such file or folder.')
