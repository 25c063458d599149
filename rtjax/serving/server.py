"""Websocket server: connections, HTTP pages on the same port, and shutdown.

The event loop reads, writes and answers HTTP; the model runs in the thread of `Batcher`.
"""
import asyncio
import contextlib
import http
import json
import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import websockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

import rtjax
from rtjax import models
from rtjax.actions import ActionSpec
from rtjax.policies.policy import BatchPolicy
from rtjax.runtime.html import frames
from rtjax.serving import page, protocol
from rtjax.serving.access import Access, Refused
from rtjax.serving.batching import Batcher
from rtjax.serving.connections import BACKLOG, Connections, most_connections
from rtjax.serving.metrics import CONTENT_TYPE, Metrics
from rtjax.serving.protocol import ProtocolError
from rtjax.serving.sessions import Session, Sessions
from rtjax.serving.troubles import Troubles

log = logging.getLogger('rtjax.serve')

# Robots do not wait longer for an action.
_SHUTDOWN_S = 10

# Time for a client to send its request.
_OPEN_S = 3

# Time for a client to take its first step, after which another one may have its slot.
_UNUSED_S = 10

# Time for a client to read a reply. One that reads nothing would keep its slot: pings wait for the reply before them.
_READ_S = 20

# Time for a client to answer the closing handshake, during which it keeps its slot.
_CLOSE_S = 2


class Server:
  """Server of one policy.

  Args:
    policies: with one slot for each client that is served at once.
    image_size: height and width of the clients' images.
    api_key: key that clients must send; '' for none.
    name: name of the model on the status page.
    allowed_hosts: names of the server, see `Access`.
    idle_timeout: seconds without an answered step after which a client loses its slot.

  Raises:
    ValueError: the process may not open enough files for these clients.
  """

  def __init__(self, policies: BatchPolicy, image_size: tuple[int, int], api_key: str = '', name: str = '', *,
               allowed_hosts: Iterable[str] = (), idle_timeout: float = 300.0):
    self.metadata = {
        'name': name, 'rtjax': rtjax.__version__, 'image_size': list(image_size),
        'recorded_sizes': policies.metadata.recorded_sizes(), 'max_clients': policies.robots,
        'embedding_id': policies.metadata.embedding_id, 'model': models.config_to_json(policies.config),
        'numbers': _numbers(policies.config.action_spec)}
    self.image_size, self._views = image_size, policies.config.views
    self._access, self._idle_timeout = Access(api_key, allowed_hosts), idle_timeout
    self._most_connections = most_connections(policies.robots)
    self._troubles = Troubles(log)
    self.sessions = Sessions(policies.robots)
    self.metrics = Metrics(name)
    self.batcher = Batcher(policies, self.sessions, self.metrics)
    self._connections: dict[Session, ServerConnection] = {}
    self._closing: set[asyncio.Task[None]] = set()
    self._stopping = False

  async def run(self, host: str, port: int, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
    """Serve until `stop` is set, then answer the running steps and close.

    Args:
      port: 0 takes a free one.
      ready: called with the port when clients can connect.
    """
    batches = asyncio.create_task(self.batcher.run())
    asyncio.get_running_loop().set_exception_handler(self._loop_failed)
    create: Any = Connections(self._most_connections, self._crowded)  # annotated as a class in websockets
    # Silenced, because it logs a traceback for every invalid connection.
    quiet = logging.getLogger('rtjax.serve.websockets')
    quiet.setLevel(logging.CRITICAL)
    try:
      # Browsers send an Origin; a web page must not reach the policy from the machine of its visitor.
      async with serve(self._handle, host, port, process_request=self._request, origins=[None], compression=None,
                       max_size=protocol.MAX_MESSAGE, max_queue=1, logger=quiet, backlog=BACKLOG,
                       open_timeout=_OPEN_S, close_timeout=_CLOSE_S, create_connection=create) as server:
        ready(server.sockets[0].getsockname()[1])
        await stop.wait()
        server.close(close_connections=False)
        await self._close_all()
    finally:
      batches.cancel()
      self.batcher.close()

  async def _handle(self, connection: ServerConnection) -> None:
    peer = '{}:{}'.format(*connection.remote_address[:2])
    session = self.sessions.open(peer) or self._open_in_unused(peer)
    if session is None:
      self.metrics.connections.labels('full').inc()
      self._troubles.add('full', f'{peer} refused: all {self.sessions.slots} slots are taken, see --max-clients')
      await connection.close(1013, f'all {self.sessions.slots} slots are taken; see --max-clients')
      return
    self.metrics.connections.labels('served').inc()
    self.metrics.clients.set(len(self.sessions))
    self._connections[session] = connection
    self._troubles.add(f'connected {session.slot}', f'client {session.slot} connected from {peer}', logging.INFO)
    try:
      await self._serve_client(connection, session)
    except websockets.ConnectionClosed:
      pass
    finally:
      del self._connections[session]
      self.sessions.close(session)
      self.metrics.clients.set(len(self.sessions))
      self._troubles.add(f'left {session.slot}', f'client {session.slot} left after {session.episodes} episodes',
                         logging.INFO)

  def _open_in_unused(self, peer: str) -> Session | None:
    """Open a session in the slot of a client without a step."""
    unused = self.sessions.take_unused(_UNUSED_S)
    if unused is None:
      return None
    self.metrics.connections.labels('unused').inc()
    self._troubles.add('unused', f'client {unused.slot} lost its slot to {peer}: it took no step, and all '
                       f'{self.sessions.slots} are taken, see --max-clients')
    closing = asyncio.create_task(self._connections[unused].close(
        1013, f'no step in {_UNUSED_S} s, and another client came; see --max-clients'))
    self._closing.add(closing)
    closing.add_done_callback(self._closing.discard)
    return self.sessions.open(peer)

  async def _serve_client(self, connection: ServerConnection, session: Session) -> None:
    await connection.send(protocol.pack(self.metadata))
    previous: dict[str, float] = {}
    while (message := await self._receive(connection, session)) is not None and not session.lost:
      started = time.monotonic()
      session.busy = True
      await self._send(connection, session, await self._reply(message, session, started, previous))
      session.busy = False
      previous = {'prev_total_ms': 1000 * (time.monotonic() - started)}
      if self._stopping:
        await connection.close(1001, 'the server stops')

  async def _send(self, connection: ServerConnection, session: Session, reply: bytes | str) -> None:
    """Send a reply; drop a client that does not read."""
    try:
      async with asyncio.timeout(_READ_S):
        await connection.send(reply)
    except TimeoutError:
      self.metrics.connections.labels('unread').inc()
      self._troubles.add('unread', f'client {session.slot} dropped: it did not read for {_READ_S:g} s')
      connection.transport.abort()

  async def _receive(self, connection: ServerConnection, session: Session) -> bytes | str | None:
    """Return the next message.

    None if it does not come in time or has too many fragments; the connection is then closed.
    """
    left = session.active + self._idle_timeout - time.monotonic()
    fragments: list[Any] = []
    try:
      if left <= 0:  # a flood of refused messages never waits
        raise TimeoutError
      async with asyncio.timeout(left if left < math.inf else None):
        async for fragment in connection.recv_streaming():
          fragments.append(fragment)
          if len(fragments) > protocol.MAX_FRAGMENTS:
            await connection.close(1009, f'a message of more than {protocol.MAX_FRAGMENTS} fragments')
            return None
    except TimeoutError:
      self.metrics.connections.labels('idle').inc()
      self._troubles.add('idle', f'client {session.slot} lost its slot: no step for {self._idle_timeout:g} s, see '
                         '--idle-timeout')
      await connection.close(1008, f'no step for {self._idle_timeout:g} s (--idle-timeout): reconnect to go on')
      return None
    return fragments[0][:0].join(fragments)

  async def _reply(self, message: bytes | str, session: Session, started: float,
                   previous: dict[str, float]) -> bytes | str:
    """Return the reply to a message, or the text of an error."""
    try:
      # In a thread, because a large message takes longer than other robots should wait.
      request = await asyncio.to_thread(protocol.read_request, message, self.image_size, self._views)
      result = await self.batcher.step(session, request)
    except ProtocolError as error:
      self.metrics.requests.labels(error.outcome).inc()
      self._troubles.add(f'{type(error).__name__} {error.outcome}',
                         f'client {session.slot}, {session.peer}: {str(error)[:500]}')
      return str(error)
    except Exception as error:
      self.metrics.requests.labels('failed').inc()
      number = self._troubles.add(type(error).__name__, f'client {session.slot}: the step failed', error=error)
      return (f'the server failed (error {number} in its log). The episode is over: the next observation begins a new '
              'one.')
    seconds = time.monotonic() - started
    self.metrics.answered(seconds)
    if result.begins:
      self.metrics.episodes.inc()
    image = request.image if self._views == 1 else request.image[0]
    session.record(image, result.output, result.begins, seconds)
    return protocol.pack(protocol.reply(result.output, result.begins, result.timing | previous))

  async def _close_all(self) -> None:
    """Close idle connections at once, the others after their reply."""
    self._stopping = True
    idle = [connection.close(1001, 'the server stops')
            for session, connection in self._connections.items() if not session.busy]
    with contextlib.suppress(TimeoutError):
      async with asyncio.timeout(_SHUTDOWN_S):
        await asyncio.gather(*idle)
        while self._connections:
          await asyncio.sleep(0.01)

  def _crowded(self) -> None:
    self.metrics.connections.labels('crowded').inc()
    self._troubles.add('crowded', f'connections refused, silent ones first: {self._most_connections} are open')

  def _loop_failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error outside of any request, without a traceback."""
    error = context.get('exception')
    self._troubles.add(type(error).__name__, f'{context["message"]}: {error!r}')

  # HTTP

  async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
    """Check the headers, and answer plain HTTP; return None for a websocket."""
    try:
      path, is_websocket = self._access.check(request)
    except Refused as refused:
      self.metrics.connections.labels(refused.outcome).inc()
      peer = '{}:{}'.format(*connection.remote_address[:2])
      self._troubles.add(refused.outcome, f'{peer} refused: {refused}')
      return _response(refused.status, 'text/plain', f'{refused}\n'.encode(), refused.headers)
    return None if is_websocket else await self._page(path)

  def _health(self) -> Response:
    if self.batcher.healthy:
      return _response(http.HTTPStatus.OK, 'text/plain', b'OK\n')
    return _response(http.HTTPStatus.SERVICE_UNAVAILABLE, 'text/plain', b'The last step of the model failed.\n')

  async def _page(self, path: str) -> Response:
    if path == '/healthz':
      return self._health()
    if path == '/':
      return _response(http.HTTPStatus.OK, 'text/html; charset=utf-8', page.HTML)
    if path == '/metrics':
      return _response(http.HTTPStatus.OK, CONTENT_TYPE, self.metrics.exposition())
    if path == '/state':
      state = page.state(self.metadata, self.sessions, self.metrics)
      return _response(http.HTTPStatus.OK, 'application/json', json.dumps(state).encode())
    kind, _, slot = path[1:].partition('/')
    session = next((s for s in self.sessions if f'{s.slot}' == slot), None) if kind == 'frame' else None
    if session is not None and session.image is not None:
      return _response(http.HTTPStatus.OK, 'image/jpeg', await asyncio.to_thread(frames.jpeg, session.image))
    return _response(http.HTTPStatus.NOT_FOUND, 'text/plain', b'This server has /, /metrics and /healthz.\n')


def _numbers(spec: ActionSpec) -> list[dict[str, Any]]:
  """Return name, unit and bounds of each number of an action."""
  return [{'name': name, 'unit': unit, 'low': low, 'high': high} for name, unit, low, high
          in zip(spec.dimension_names, spec.dimension_units, *(side.tolist() for side in spec.bounds), strict=True)]


def warm_up(policies: BatchPolicy, image_size: tuple[int, int]) -> None:
  """Compile the policy's step for every number of robots it compiles for."""
  config = policies.config
  counts = {min(1 << power, policies.robots) for power in range(policies.robots.bit_length() + 1)}
  for slot in range(policies.robots):
    policies.reset(slot, embedding=np.zeros(config.instruction_size, config.instruction_dtype))
  with contextlib.suppress(ValueError):  # loads the instruction encoder, if there is one
    policies.reset(0, 'go')
  views = (config.views,) if config.views > 1 else ()
  for count in sorted(counts):
    states = np.zeros((count, config.proprioception_size), np.float32) if config.proprioception_size else None
    policies.step(np.zeros((count, *views, *image_size, 3), np.uint8), list(range(count)), states)


def _response(status: http.HTTPStatus, kind: str, body: bytes, headers: dict[str, str] | None = None) -> Response:
  return Response(status.value, status.phrase, Headers({
      'Content-Type': kind, 'Content-Length': str(len(body)), 'Connection': 'close', 'Cache-Control': 'no-store',
      'X-Content-Type-Options': 'nosniff', 'Content-Security-Policy': page.POLICY} | (headers or {})), body)
