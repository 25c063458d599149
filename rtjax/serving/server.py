"""Websocket server: connections, HTTP pages on the same port, and shutdown.

The event loop reads, writes and answers HTTP; the model runs in the thread of `Batcher`.
"""
import asyncio
import base64
import contextlib
import hmac
import http
import json
import logging
import time
import urllib.parse
import uuid
from collections.abc import Callable
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
from rtjax.serving import page, protocol
from rtjax.serving.batching import Batcher
from rtjax.serving.metrics import CONTENT_TYPE, Metrics
from rtjax.serving.protocol import ProtocolError
from rtjax.serving.sessions import Session, Sessions

log = logging.getLogger('rtjax.serve')

# Robots do not wait longer for an action.
_SHUTDOWN_S = 10


class Server:
  """Server of one policy.

  Args:
    policies: with one slot for each client that is served at once.
    image_size: height and width of the clients' images.
    api_key: key that clients must send; '' for none.
    name: name of the model on the status page.
  """

  def __init__(self, policies: BatchPolicy, image_size: tuple[int, int], api_key: str = '', name: str = ''):
    self.metadata = {
        'name': name, 'rtjax': rtjax.__version__, 'image_size': list(image_size), 'max_clients': policies.robots,
        'embedding_id': policies.metadata.embedding_id, 'model': models.config_to_json(policies.config),
        'numbers': _numbers(policies.config.action_spec)}
    self.image_size, self._views = image_size, policies.config.views
    self._api_key = api_key.encode()
    self.sessions = Sessions(policies.robots)
    self.metrics = Metrics(name)
    self.batcher = Batcher(policies, self.sessions, self.metrics)
    self._connections: dict[Session, ServerConnection] = {}
    self._stopping = False

  async def run(self, host: str, port: int, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
    """Serve until `stop` is set, then answer the running steps and close.

    Args:
      port: 0 takes a free one.
      ready: called with the port when clients can connect.
    """
    batches = asyncio.create_task(self.batcher.run())
    # Silenced, because it logs a traceback for every invalid connection.
    quiet = logging.getLogger('rtjax.serve.websockets')
    quiet.setLevel(logging.CRITICAL)
    try:
      # Browsers send an Origin; a web page must not reach the policy from the machine of its visitor.
      async with serve(self._handle, host, port, process_request=self._request, origins=[None], compression=None,
                       max_size=protocol.MAX_MESSAGE, max_queue=1, logger=quiet) as server:
        ready(server.sockets[0].getsockname()[1])
        await stop.wait()
        server.close(close_connections=False)
        await self._close_all()
    finally:
      batches.cancel()
      self.batcher.close()

  async def _handle(self, connection: ServerConnection) -> None:
    peer = '{}:{}'.format(*connection.remote_address[:2])
    session = self.sessions.open(peer)
    if session is None:
      self.metrics.connections.labels('full').inc()
      await connection.close(1013, f'all {self.sessions.slots} slots are taken; see --max-clients')
      return
    self.metrics.connections.labels('served').inc()
    self.metrics.clients.set(len(self.sessions))
    self._connections[session] = connection
    log.info('client %d connected from %s', session.slot, peer)
    try:
      await self._serve_client(connection, session)
    except websockets.ConnectionClosed:
      pass
    finally:
      del self._connections[session]
      self.sessions.close(session)
      self.metrics.clients.set(len(self.sessions))
      log.info('client %d left after %d episodes', session.slot, session.episodes)

  async def _serve_client(self, connection: ServerConnection, session: Session) -> None:
    await connection.send(protocol.pack(self.metadata))
    previous: dict[str, float] = {}
    async for message in connection:
      started = time.monotonic()
      session.busy = True
      await connection.send(await self._reply(message, session, started, previous))
      session.busy = False
      previous = {'prev_total_ms': 1000 * (time.monotonic() - started)}
      if self._stopping:
        await connection.close(1001, 'the server stops')

  async def _reply(self, message: bytes | str, session: Session, started: float,
                   previous: dict[str, float]) -> bytes | str:
    """Return the reply to a message, or the text of an error."""
    try:
      request = protocol.read_request(message, self.image_size, self._views)
      result = await self.batcher.step(session, request)
    except ProtocolError as error:
      self.metrics.requests.labels('refused').inc()
      return str(error)
    except Exception:
      self.metrics.requests.labels('failed').inc()
      number = uuid.uuid4().hex[:8]
      log.exception('client %d: error %s', session.slot, number)
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

  # HTTP

  async def _request(self, connection: ServerConnection, request: Request) -> Response | None:
    """Check the key, and answer plain HTTP; return None for a websocket."""
    path = urllib.parse.urlsplit(request.path).path
    upgrade = request.headers.get('Upgrade', '').lower() == 'websocket'
    if path == '/healthz' and not upgrade:
      return self._health()
    if not self._allowed(request.headers.get('Authorization', '')):
      self.metrics.connections.labels('unauthorized').inc()
      return _response(http.HTTPStatus.UNAUTHORIZED, 'text/plain', b'This server requires its API key: pass it as '
                       b'api_key to openpi-client or rtjax-client; in a browser as the password of any user.\n',
                       {'WWW-Authenticate': 'Basic realm="rtjax"'})
    return None if upgrade else await self._page(path)

  def _health(self) -> Response:
    if self.batcher.healthy:
      return _response(http.HTTPStatus.OK, 'text/plain', b'OK\n')
    return _response(http.HTTPStatus.SERVICE_UNAVAILABLE, 'text/plain', b'The last step of the model failed.\n')

  async def _page(self, path: str) -> Response:
    if path == '/':
      return _response(http.HTTPStatus.OK, 'text/html; charset=utf-8', page.HTML)
    if path == '/metrics':
      return _response(http.HTTPStatus.OK, CONTENT_TYPE, self.metrics.exposition())
    if path == '/state':
      state = page.state(self.metadata, self.sessions, self.metrics)
      return _response(http.HTTPStatus.OK, 'application/json', json.dumps(state).encode())
    kind, _, slot = path[1:].partition('/')
    session = self.sessions.get(int(slot)) if kind == 'frame' and slot.isdecimal() else None
    if session is not None and session.image is not None:
      return _response(http.HTTPStatus.OK, 'image/jpeg', await asyncio.to_thread(page.jpeg, session.image))
    return _response(http.HTTPStatus.NOT_FOUND, 'text/plain', b'This server has /, /metrics and /healthz.\n')

  def _allowed(self, authorization: str) -> bool:
    """Return whether the header holds the key, in any of three schemes."""
    if not self._api_key:
      return True
    scheme, _, credentials = authorization.partition(' ')
    key = credentials.strip().encode()
    if scheme.lower() == 'basic':
      try:
        key = base64.b64decode(key, validate=True).partition(b':')[2]
      except ValueError:
        return False
    elif scheme.lower() not in ('api-key', 'bearer'):
      return False
    return hmac.compare_digest(key, self._api_key)


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
