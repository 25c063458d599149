"""Progress of long work: a bar in a terminal, lines elsewhere."""
import time
from typing import Any

import rich.console
import rich.progress

_FIRST_S, _EVERY_S = 2.0, 10.0


class Progress:
  """Count of finished items, shown in a `with` block.

  Args:
    name: of the work.
    total: number of items.
    items: their name, such as 'episodes'.
    done: number of items that were finished earlier.
  """

  def __init__(self, name: str, total: int, items: str, done: int = 0):
    self._name, self._total, self._items, self._done = name, total, items, done
    self._console = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
    self._bar = rich.progress.Progress(
        '{task.description}', rich.progress.BarColumn(), rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(), '{task.fields[note]}', console=self._console,
        disable=not self._console.is_terminal)
    self._task = self._bar.add_task(name, total=total, completed=done, note='')
    self._next_line = time.monotonic() + _FIRST_S

  def __enter__(self) -> 'Progress':
    self._bar.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._bar.stop()

  def advance(self, count: int = 1, note: str = '') -> None:
    """Count finished items.

    Args:
      note: text beside the count.
    """
    self._done += count
    self._bar.update(self._task, advance=count, note=note)
    if not self._console.is_terminal and time.monotonic() > self._next_line:
      self._next_line = time.monotonic() + _EVERY_S
      self._console.print(f'{self._name}: {self._done} of {self._total} {self._items}{note and f", {note}"}')
