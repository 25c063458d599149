"""Entry point shared by all commands: errors become one line."""
import sys
from collections.abc import Callable

from rtjax.runtime import malloc


class UserError(RuntimeError):
  """An error that the user can fix; its message says how."""


def run(main: Callable[[], None]) -> None:
  """Call `main`; errors that the user can fix exit with code 2."""
  malloc.keep_freed_memory()
  try:
    main()
  except (ValueError, OSError, UserError) as error:
    print(f'error: {error}', file=sys.stderr)
    raise SystemExit(2) from None
