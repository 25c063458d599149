"""Limit of open connections, below the limit of file descriptors.

Without it, a process out of descriptors can neither accept a robot nor open a file.
"""
import asyncio
import os
import time
import weakref
from collections.abc import Callable
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

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
  """Factory of a server's connections, which keeps them below a limit.

  At the limit a new connection takes the place of the oldest one without a complete handshake, so that silent ones keep
  nobody out. It is refused if there is none.

  Args:
    most: number of connections at once.
    refused: called for each one that is closed or refused.
  """

  def __init__(self, most: int, refused: Callable[[], None]):
    self._most, self._refused = most, refused
    self._open: weakref.WeakSet[_Counted] = weakref.WeakSet()
    self._waiting: weakref.WeakSet[_Refusal] = weakref.WeakSet()

  def __call__(self, *arguments: Any, **options: Any) -> 'ServerConnection | _Refusal':
    if len(self._open) < self._most:
      return _Counted(self._open, *arguments, **options)
    self._refused()
    if silent := [connection for connection in self._open if connection.is_silent]:
      min(silent, key=lambda connection: connection.since).make_room()
      return _Counted(self._open, *arguments, **options)
    refusal = _Refusal(patient=len(self._waiting) < _REFUSALS)
    self._waiting.add(refusal)
    return refusal


class _Counted(ServerConnection):
  """Connection that is in a set while it is open."""

  def __init__(self, opened: 'weakref.WeakSet[_Counted]', *arguments: Any, **options: Any):
    super().__init__(*arguments, **options)
    self._opened, self.since = opened, time.monotonic()
    opened.add(self)

  @property
  def is_silent(self) -> bool:
    """Whether its handshake is not complete."""
    return self.state is not State.OPEN

  def make_room(self) -> None:
    """Close with an explanation, as soon as it is connected."""
    self._opened.discard(self)
    if hasattr(self, 'transport') and not self.transport.is_closing():
      self.transport.write(_RESPONSE)
      self.transport.close()

  def connection_made(self, transport: asyncio.BaseTransport) -> None:
    super().connection_made(transport)
    if self not in self._opened:  # gave way to one of the same burst, which the event loop accepts in one go
      self.make_room()

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
