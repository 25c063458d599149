"""Policy on a server, with the interface of a local one."""
import contextlib
import functools
import inspect
import ipaddress
import os
import socket
import struct
import threading
import time
import urllib.parse
from typing import Any, Callable, Dict, NamedTuple, Optional

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from rtjax_client import codec
from rtjax_client.image import fit

# Seconds between two attempts to connect.
_RETRY_S = 0.2


class RemoteError(RuntimeError):
  """Base of the errors of `RemotePolicy.step`."""


class ActionTimeout(RemoteError):
  """No reply came in time.

  The episode continues: the frame counts, and its late reply is dropped.
  """


class ConnectionLost(RemoteError):
  """There is no server, or it refused the connection."""


class ServerError(RemoteError):
  """The server replied with an error."""


class Hold(ServerError):
  """There is no action, because numbers were not finite: hold the robot.

  Either the observation holds NaN, or the policy computed it; then the next step begins a new episode.
  """


class RemoteAction(NamedTuple):
  """One step of a policy.

  Attributes:
    action: {field: float32 [size]} in the policy's units.
    plan: float32 [F, A], the actions predicted for this step and the F - 1 after it.
    tokens: int32 [K].
    confidence: float32 [K], the probability of each of `tokens`.
    begins: whether this was the first frame of an episode: after `reset`, and after a broken connection.
    timing: durations in milliseconds, measured by server and client.
  """
  action: Dict[str, np.ndarray]
  plan: np.ndarray
  tokens: np.ndarray
  confidence: np.ndarray
  begins: bool
  timing: Dict[str, float]


class RemotePolicy:
  """Policy of one robot on a server.

  Call `reset` at the start of every episode, then `step`. Several threads may use it: steps run one at a time.

  Args:
    host: the server's name or address, or a full URL (wss://...).
    port: its port.
    api_key: its key; None: the environment variable RTJAX_API_KEY, if it is set.
    timeout: most seconds of a step, connecting included.
    connect_timeout: most seconds to wait for the server at first, while it may be starting.

  Raises:
    ConnectionLost: there is no server, or it refused the connection.
  """

  def __init__(self, host: str = '127.0.0.1', port: int = 8000, api_key: Optional[str] = None, timeout: float = 2.0,
               connect_timeout: float = 60.0):
    self._url = host if host.startswith(('ws://', 'wss://')) else f'ws://{host}:{port}'
    key = os.environ.get('RTJAX_API_KEY') if api_key is None else api_key
    self._headers = {'Authorization': f'Api-Key {key}'} if key else None
    self._timeout = timeout
    self._lock = threading.RLock()
    self._connection: Optional[ClientConnection] = None
    self._open = contextlib.ExitStack()
    self._task: Dict[str, Any] = {}
    self._begins = True
    self._outstanding = 0  # replies that were not received yet, also those of steps that timed out
    self.metadata: Dict[str, Any] = {}
    self._until(time.monotonic() + connect_timeout, self._connect)

  def __enter__(self) -> 'RemotePolicy':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Close the connection."""
    self._connection = None
    self._open.close()

  def reset(self, instruction: Optional[str] = None, *, embedding: Optional[np.ndarray] = None) -> None:
    """Begin an episode with the next step; arguments as for `set_instruction`."""
    with self._lock:
      self.set_instruction(instruction, embedding=embedding)
      self._begins = True

  def set_instruction(self, instruction: Optional[str] = None, *, embedding: Optional[np.ndarray] = None) -> None:
    """Set the instruction from the next step on; the episode continues.

    Args:
      instruction: the instruction as text.
      embedding: its embedding instead, float32 [512]; for models that read prompts its token ids, integers [L].
    """
    if (instruction is None) == (embedding is None):
      raise ValueError('give either instruction or embedding.')
    if embedding is None:
      self._task = {'instruction': instruction}
    else:
      vector = np.asarray(embedding)
      self._task = {'embedding': vector if vector.dtype.kind in 'iu' else vector.astype(np.float32)}

  def step(self, image: np.ndarray, proprioception: Optional[np.ndarray] = None) -> RemoteAction:
    """Return the next action.

    Args:
      image: uint8 [H, W, 3], resized to the server's size as in training; another aspect than that of the training
        data is a warning.
      proprioception: the robot's state, for models that use it.

    Raises:
      ValueError: before `reset`, or for an image of another type.
      ActionTimeout, ConnectionLost, ServerError: see README.md.
    """
    if not self._task:
      raise ValueError('call policy.reset(instruction) before the first step of an episode.')
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
      raise ValueError(f'image is {image.dtype} {image.shape}, expected uint8 [H, W, 3].')
    observation = {'image': image}
    if proprioception is not None:
      observation['proprioception'] = np.asarray(proprioception, np.float32)
    started = time.monotonic()
    with self._lock:
      reply = self._until(started + self._timeout, functools.partial(self._exchange, observation))
    return _read_action(reply, 1000 * (time.monotonic() - started))

  def _until(self, deadline: float, attempt: Callable[[float], Any]) -> Any:
    """Repeat an attempt while the connection fails, until the deadline."""
    while True:
      try:
        return attempt(deadline)
      except (OSError, InvalidHandshake, ConnectionClosed) as error:
        self._drop()
        if _is_permanent(error) or time.monotonic() + _RETRY_S > deadline:
          raise ConnectionLost(f'no policy from {self._url}: {_message(error)}') from error
        time.sleep(_RETRY_S)

  def _drop(self) -> None:
    """Drop the connection, with which the server ends the episode."""
    self.close()
    self._outstanding, self._begins = 0, True

  def _connect(self, deadline: float) -> ClientConnection:
    try:
      connection = self._open.enter_context(connect(
          self._url, compression=None, max_size=None, additional_headers=self._headers, open_timeout=_left(deadline),
          close_timeout=0.2, **_without_proxy(self._url)))
    except AssertionError as error:  # of websockets, which expects to be the first to send
      raise InvalidHandshake('the server answered before it was asked, as one does that has no room for another '
                             'connection') from error
    if os.name == 'posix':
      # Sending to a machine that does not respond must not block a robot for longer than a step may take.
      limit = struct.pack('ll', int(self._timeout), int(self._timeout % 1 * 1e6))
      with contextlib.suppress(OSError):  # closed by a server that refused: the reason is received below
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    self.metadata = _unpack(connection.recv(timeout=_left(deadline)))
    if not _is_size(self.metadata.get('image_size')):
      self._drop()
      raise ServerError(f'{self._url} is no policy server of rtjax: its metadata has no image_size.')
    self._connection = connection
    return connection

  def _exchange(self, observation: Dict[str, Any], deadline: float) -> Any:
    connection = self._connection or self._connect(deadline)
    image = fit(observation['image'], self.metadata['image_size'], self.metadata.get('recorded_sizes', ()))
    # `reset` is sent until a reply was received: an observation without a reply may have been refused.
    connection.send(codec.pack(dict(observation, **self._task, image=image, reset=self._begins)))
    self._outstanding += 1
    while self._outstanding:
      try:
        message = connection.recv(timeout=_left(deadline))
      except TimeoutError:
        raise ActionTimeout(f'no action from {self._url} within {self._timeout} s.') from None
      self._outstanding -= 1
    if isinstance(message, str):
      raise (Hold if message.startswith('hold: ') else ServerError)(message)
    self._begins = False
    return _unpack(message)


def _unpack(message: Any) -> Dict[str, Any]:
  """Decode a map of a server."""
  try:
    value = codec.unpack(message)
  except Exception as error:  # msgpack and NumPy each fail in their own ways
    raise ServerError(f'the server sent a message that is no msgpack map ({type(error).__name__}).') from error
  if not isinstance(value, dict):
    raise ServerError(f'the server sent a {type(value).__name__}, expected a map.')
  return value


def _is_size(value: Any) -> bool:
  return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)


def _read_action(reply: Dict[str, Any], total_ms: float) -> RemoteAction:
  """Return the action of a reply.

  Raises:
    ServerError: it holds none. `Hold` where numbers are not finite.
  """
  try:
    with np.errstate(over='ignore'):  # numbers beyond float32 become infinite
      action = RemoteAction({name: np.asarray(value, np.float32) for name, value in reply['action'].items()},
                            np.array(reply['actions'], np.float32), np.asarray(reply['tokens'], np.int32),
                            np.asarray(reply['confidence'], np.float32), bool(reply['begins']),
                            dict(reply['server_timing'], total_ms=total_ms))
  except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
    raise ServerError(f'the server sent a reply without an action: {error!r}.') from error
  if not all(np.isfinite(part).all() for part in (action.plan, *action.action.values())):
    raise Hold('hold: the server sent NaN or infinite numbers.')
  return action


def _without_proxy(url: str) -> Dict[str, Any]:
  """Return the option that ignores proxies on the way to this machine."""
  # websockets obeys proxy variables since 15, for loopback too.
  host = urllib.parse.urlsplit(url).hostname or ''
  try:
    local = ipaddress.ip_address(host).is_loopback
  except ValueError:  # a name
    local = host == 'localhost' or host.endswith('.localhost')
  return {'proxy': None} if local and 'proxy' in inspect.signature(connect).parameters else {}


def _left(deadline: float) -> float:
  return max(0.0, deadline - time.monotonic())


def _is_permanent(error: Exception) -> bool:
  """Return whether another attempt is useless: a wrong key, a wrong path."""
  status = getattr(getattr(error, 'response', None), 'status_code', None)
  return status is not None and 400 <= status < 500


def _message(error: Exception) -> str:
  body = getattr(getattr(error, 'response', None), 'body', None)
  return body.decode(errors='replace').strip() if body else f'{error} ({type(error).__name__})'
