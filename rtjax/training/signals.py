"""Signals that end a training."""
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import multihost_utils

from rtjax.runtime import interrupt


class Signals:
  """Handler of SIGTERM and Ctrl-C: the loop saves and ends.

  Ctrl-C counts from the end of the first step on: before, there is nothing to save. A second one ends at once.

  With several processes only SIGTERM counts, and JAX stops all of them at the same step or validation batch.
  """

  def __init__(self) -> None:
    self.number, self._asked = 0, 0
    self._handlers: dict[signal.Signals, Any] = {}

  def __enter__(self) -> 'Signals':
    self._take(signal.SIGTERM)
    return self

  def take_interrupt(self) -> None:
    """Handle Ctrl-C from now on, once."""
    if not self.number and signal.SIGINT not in self._handlers:
      self._take(signal.SIGINT)
      interrupt.defer(signal.SIGINT in self._handlers)

  def _take(self, number: signal.Signals) -> None:
    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
      self._handlers[number] = signal.signal(number, self._handle)

  def _handle(self, number: int, frame: Any) -> None:
    self.number = number
    signal.signal(signal.SIGINT, signal.default_int_handler)

  def checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises KeyboardInterrupt once a signal arrived."""
    def call(*arguments: Any) -> Any:
      if self.arrived():
        raise KeyboardInterrupt
      return function(*arguments)
    return call

  def arrived(self) -> bool:
    """Return whether to stop now; all processes ask equally often."""
    if jax.process_count() > 1 and not self.number:
      self._asked += 1
      self.number = signal.SIGTERM * multihost_utils.reached_preemption_sync_point(self._asked)
    return self.number > 0

  def __exit__(self, *_: Any) -> None:
    interrupt.defer(False)
    for number, handler in self._handlers.items():
      signal.signal(number, handler)
