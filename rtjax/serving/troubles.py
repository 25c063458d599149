"""Log with one line per kind and minute, which no client floods."""
import logging
import time
import uuid
from collections import Counter

_PERIOD_S = 60.0


class Troubles:
  """Limited log.

  Args:
    log: gets the lines.
    period_s: least seconds between two lines of a kind.
  """

  def __init__(self, log: logging.Logger, period_s: float = _PERIOD_S):
    self._log, self._period_s = log, period_s
    self._last: dict[str, tuple[float, str]] = {}
    self._unlogged: Counter[str] = Counter()

  def add(self, kind: str, message: str, level: int = logging.WARNING, *, error: BaseException | None = None) -> str:
    """Log a line, or count it if its kind was logged lately.

    Args:
      kind: one of few, since each is remembered.
      error: logged with a number and its traceback.

    Returns:
      The number that stands in the log for this kind.
    """
    now = time.monotonic()
    logged, number = self._last.get(kind, (-self._period_s, ''))
    if now - logged < self._period_s:
      self._unlogged[kind] += 1
      return number
    number, unlogged = uuid.uuid4().hex[:8], self._unlogged.pop(kind, 0)
    self._last[kind] = now, number
    name = f' (error {number})' if error else ''
    more = f' ({unlogged} more like this since the last line)' if unlogged else ''
    self._log.log(level, '%s%s%s', message, name, more, exc_info=error)
    return number
