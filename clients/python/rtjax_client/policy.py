"""A policy that runs elsewhere, as if it were here."""
import contextlib
import functools
import os
import socket
import struct
import time
from typing import Any, Callable, Dict, NamedTuple, Optional

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import ClientConnection, connect

from rtjax_client import codec
from rtjax_client.image import resize_with_pad

# Between two tries to connect, seconds.
_RETRY_S = 0.2


class RemoteError(RuntimeError):
  """The policy gave no action."""


class ActionTimeout(RemoteError):
  """No answer in time. The episode goes on: the server has seen the picture, and its late answer is dropped."""


class ConnectionLost(RemoteError):
  """There is no server, or it does not take us."""


class ServerError(RemoteError):
  """The server tells what is wrong."""


class RemoteAction(NamedTuple):
  """One step of a policy.

  Attributes:
    action: {field: float32 [size]} in the policy's units.
    plan: float32 [F, A], raw actions of this step and, with an action horizon, of those after it.
    tokens: int32 [K].
    confidence: float32 [K], the probability of each token chosen.
    begins: whether the server saw this as an episode's first frame: after `reset`, and after a broken connection.
    timing: milliseconds, as the server and the client see them.
  """
  action: Dict[str, np.ndarray]
  plan: np.ndarray
  tokens: np.ndarray
  confidence: np.ndarray
  begins: bool
  timing: Dict[str, float]


class RemotePolicy:
  """Runs one robot with the policy of a server. `reset` at the start of every episode, then `step`.

  Args:
    host: the server's name or address, or a whole URL (wss://...).
    port: its port.
    api_key: its key; None takes the environment variable RTJAX_API_KEY, if there is one.
    timeout: seconds that a step may take, all in all.
    connect_timeout: seconds to wait for the server at first; it may still be starting.

  Raises:
    ConnectionLost: there is no server, or it does not take us.
  """

  def __init__(self, host: str = '127.0.0.1', port: int = 8000, api_key: Optional[str] = None, timeout: float = 2.0,
               connect_timeout: float = 60.0):
    self._url = host if host.startswith(('ws://', 'wss://')) else f'ws://{host}:{port}'
    key = os.environ.get('RTJAX_API_KEY') if api_key is None else api_key
    self._headers = {'Authorization': f'Api-Key {key}'} if key else None
    self._timeout = timeout
    self._connection: Optional[ClientConnection] = None
    self._open = contextlib.ExitStack()
    self._task: Dict[str, Any] = {}
    self._begins = True
    self._owed = 0  # answers to steps that timed out
    self.metadata: Dict[str, Any] = {}
    self._until(time.monotonic() + connect_timeout, self._connect)

  def __enter__(self) -> 'RemotePolicy':
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    self._connection = None
    self._open.close()

  def reset(self, instruction: Optional[str] = None, *, embedding: Optional[np.ndarray] = None) -> None:
    """Lets an episode begin with the next step: an instruction, or its embedding (float32 [512])."""
    self.set_instruction(instruction, embedding=embedding)
    self._begins = True

  def set_instruction(self, instruction: Optional[str] = None, *, embedding: Optional[np.ndarray] = None) -> None:
    """Changes what to do from the next step on; the episode goes on."""
    if (instruction is None) == (embedding is None):
      raise ValueError('give either instruction or embedding.')
    self._task = {'instruction': instruction} if embedding is None else {
        'embedding': np.asarray(embedding, np.float32)}

  def step(self, image: np.ndarray, proprioception: Optional[np.ndarray] = None) -> RemoteAction:
    """The action to take on seeing `image`, uint8 [H, W, 3], which is resized to what the server takes.

    Raises:
      ValueError: before `reset`, or for a picture of another kind.
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
    answer = self._until(started + self._timeout, functools.partial(self._exchange, observation))
    timing = dict(answer['server_timing'], total_ms=1000 * (time.monotonic() - started))
    return RemoteAction({name: np.asarray(value, np.float32) for name, value in answer['action'].items()},
                        np.array(answer['actions']), np.asarray(answer['tokens'], np.int32),
                        np.asarray(answer['confidence'], np.float32), answer['begins'], timing)

  def _until(self, deadline: float, attempt: Callable[[float], Any]) -> Any:
    """Repeats an attempt while the connection fails and there is time."""
    while True:
      try:
        return attempt(deadline)
      except (OSError, InvalidHandshake, ConnectionClosed) as error:
        self._drop()
        if _hopeless(error) or time.monotonic() + _RETRY_S > deadline:
          raise ConnectionLost(f'no policy from {self._url}: {_words(error)}') from error
        time.sleep(_RETRY_S)

  def _drop(self) -> None:
    """Forgets the connection; the server forgets the episode with it."""
    self.close()
    self._owed, self._begins = 0, True

  def _connect(self, deadline: float) -> ClientConnection:
    connection = self._open.enter_context(connect(
        self._url, compression=None, max_size=None, additional_headers=self._headers, open_timeout=_left(deadline),
        close_timeout=0.2))
    if os.name == 'posix':
      # Sending to a machine that has gone silent must not hold a robot for longer than a step may take.
      limit = struct.pack('ll', int(self._timeout), int(self._timeout % 1 * 1e6))
      with contextlib.suppress(OSError):  # closed by a server that refuses: receiving will tell why
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    self.metadata = codec.unpack(connection.recv(timeout=_left(deadline)))
    self._connection = connection
    return connection

  def _exchange(self, observation: Dict[str, Any], deadline: float) -> Any:
    connection = self._connection or self._connect(deadline)
    image = resize_with_pad(observation['image'], tuple(self.metadata['image_size']))
    # Until an answer says that the episode has begun: an observation whose answer was late may have been refused.
    connection.send(codec.pack(dict(observation, **self._task, image=image, reset=self._begins)))
    self._owed += 1
    while self._owed:
      try:
        message = connection.recv(timeout=_left(deadline))
      except TimeoutError:
        raise ActionTimeout(f'no action from {self._url} within {self._timeout} s.') from None
      self._owed -= 1
    if isinstance(message, str):
      raise ServerError(message)
    self._begins = False
    return codec.unpack(message)


def _left(deadline: float) -> float:
  return max(0.0, deadline - time.monotonic())


def _hopeless(error: Exception) -> bool:
  """Whether trying again cannot help: a wrong key, a wrong path."""
  status = getattr(getattr(error, 'response', None), 'status_code', None)
  return status is not None and 400 <= status < 500


def _words(error: Exception) -> str:
  body = getattr(getattr(error, 'response', None), 'body', None)
  return body.decode(errors='replace').strip() if body else f'{error} ({type(error).__name__})'
