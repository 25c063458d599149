"""Lock of a run's folder, held by its first process for all."""
import contextlib
import pathlib
from collections.abc import Iterator

import jax

from rtjax.runtime import lock
from rtjax.training import sharding

_ADVICE = 'Wait for its end, stop it (it saves and the same command resumes), or give another --output.'


@contextlib.contextmanager
def locked(run: pathlib.Path) -> Iterator[None]:
  """Hold the lock of a run's folder; see `rtjax.runtime.lock`.

  Raises:
    LockedError: another process holds it; names its id and host.
  """
  with contextlib.ExitStack() as stack:
    refusal: lock.LockedError | None = None
    if jax.process_index() == 0:
      try:
        stack.enter_context(lock.locked(run, _ADVICE))
      except lock.LockedError as error:
        refusal = error
    if not sharding.in_all_processes(refusal is None):
      raise refusal or lock.LockedError(f'{run} is in use, as the first process of this run reports.')
    yield
