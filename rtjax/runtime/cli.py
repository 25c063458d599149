"""What the scripts at the root of the repository share."""
import sys
from collections.abc import Callable

from rtjax.runtime import malloc


def run(main: Callable[[], None]) -> None:
  """Calls `main`; what its user can mend is printed as `error: ...`, and ends the process with code 2."""
  malloc.keep()
  try:
    main()
  except Exception as error:
    # Imported only when something went wrong: orbax takes seconds.
    from rtjax.training.checkpoint import CheckpointError
    if not isinstance(error, (ValueError, OSError, CheckpointError)):
      raise
    print(f'error: {error}', file=sys.stderr)
    raise SystemExit(2) from None
