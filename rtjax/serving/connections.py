"""Limit of open connections, below the limit of file descriptors.

Without it, a process out of descriptors can neither accept a robot nor open a file.
"""
import asyncio
import os
import weakref
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import ServerConnection

# Connections beside those of robots: pages, health checks, handshakes.
_OTHERS = 256
# Descriptors for the rest of the process, and for connections that the system accepts at once before they are refused.
BACKLOG = 100
_REFUSALS = 32
_RESERVE = BACKLOG + _REFUSALS + 28
# For the request of a connection that is refused.
_PATIENCE_S = 1.0

_BUSY = b'This server has no room for another connection. Try again later.\n'
_RESPONSE = (b'HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\nRetry-After: 10\r\n'
             b'Content-Length: %d\r\n\r\n%b' % (len(_BUSY), _BUSY))


def most_connections(robots: int) -> int:
  """Return the number of connections that this process can hold.

  Raises:
    ValueError: its descriptors do not suffice for the robots.
  """
  try:
    import resource
  except ModuleNotFoundError:  # Windows, whose sockets are no descriptors
    return robots + _OTHERS
  limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
  if limit == resource.RLIM_INFINITY:
    return robots + _OTHERS
  left = limit - len(os.listdir('/dev/fd')) - _RESERVE
  if left <= robots:
    raise ValueError(f'{robots} clients need more file descriptors than the limit of {limit} leaves: raise it with '
                     f'"ulimit -n {limit + 2 * robots + _OTHERS}", or lower --max-clients.')
  return min(robots + _OTHERS, left)


class Connections:
  """Factory of a server's connections, which refuses those above a limit.

  Args:
    most: number of connections at once.
    refused: called for each one above it.
  """

  def __init__(self, most: int, refused: Callable[[], None]):
    self._most, self._refused = most, refused
    self._open: weakref.WeakSet[_Counted] = weakref.WeakSet()
    self._waiting: weakref.WeakSet[_Refusal] = weakref.WeakSet()

  def __call__(self, *arguments: Any, **options: Any) -> 'ServerConnection | _Refusal':
    if len(self._open) < self._most:
      return _Counted(self._open, *arguments, **options)
    self._refused()
    refusal = _Refusal(patient=len(self._waiting) < _REFUSALS)
    self._waiting.add(refusal)
    return refusal


class _Counted(ServerConnection):
  """Connection that is in a set while it is open."""

  def __init__(self, opened: 'weakref.WeakSet[_Counted]', *arguments: Any, **options: Any):
    super().__init__(*arguments, **options)
    self._opened = opened
    opened.add(self)

  def connection_lost(self, error: Exception | None) -> None:
    self._opened.discard(self)
    super().connection_lost(error)


class _Refusal(asyncio.Protocol):
  """Connection that is closed with an explanation.

  Args:
    patient: whether to wait for the request, without which some clients do not understand the answer.
  """

  def __init__(self, patient: bool):
    self._patient = patient

  def connection_made(self, transport: asyncio.BaseTransport) -> None:
    assert isinstance(transport, asyncio.WriteTransport)
    self._transport = transport
    if self._patient:
      asyncio.get_running_loop().call_later(_PATIENCE_S, self._answer)
    else:
      self._answer()

  def data_received(self, data: bytes) -> None:
    self._answer()

  def _answer(self) -> None:
    if not self._transport.is_closing():
      self._transport.write(_RESPONSE)
      self._transport.close()
