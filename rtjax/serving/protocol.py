"""Wire protocol between robot and server: openpi's, strictly checked.

    server, once         metadata
    client, each step    an observation with keys of KEYS
    server, each step    a reply; or a text message, which is an error and does not end the connection

All messages but errors are binary: msgpack. An array is the map {b'__ndarray__': True, b'data': bytes,
b'dtype': '<f4', b'shape': [..]}, a NumPy number {b'__npgeneric__': True, b'data': .., b'dtype': ..} (openpi-client,
msgpack_numpy.py).
"""
import dataclasses
import itertools
import math
from typing import Any

import msgpack
import numpy as np

from rtjax.policies.policy import PolicyOutput
from rtjax.runtime import limits
from rtjax.runtime.numbers import LARGEST, unusable
from rtjax.runtime.suggest import did_you_mean

MAX_MESSAGE = 16 * 2 ** 20
"""Largest message of a client in bytes; an image of 1920 x 1080 takes 6 MiB."""

MAX_CONTAINERS, MAX_ITEMS = 256, 1024
"""Most maps and lists of a message, and most items of one; an observation of openpi's robots has about ten."""

MAX_FRAGMENTS = 1024
"""Most websocket frames of a message; clients send one."""

MAX_TEXT = 2000
"""Most characters of an instruction."""

# Field of `Request` by key. Keys with None are ignored: openpi's robots send them, but no policy here uses them.
KEYS: dict[str, str | None] = {
    'image': 'image', 'observation/image': 'image', 'observation/exterior_image_1_left': 'image',
    'instruction': 'instruction', 'prompt': 'instruction',
    'embedding': 'embedding',
    'proprioception': 'proprioception', 'observation/state': 'proprioception',
    'reset': 'reset',
    'observation/wrist_image': None, 'observation/wrist_image_left': None,
    'observation/joint_position': None, 'observation/gripper_position': None}


class ProtocolError(ValueError):
  """A message is invalid; the client gets the error's text.

  Attributes:
    outcome: of the request, in the metric rtjax_requests.
  """
  outcome = 'refused'


class Hold(ProtocolError):
  """Numbers are not finite, so that there is no action.

  The client gets a text that begins with 'hold: '.

  Args:
    message: the reason.
    outcome: 'refused' if the client sent them, 'failed' if the policy computed them.
  """

  def __init__(self, message: str, outcome: str = 'refused'):
    super().__init__(message)
    self.outcome = outcome

  def __str__(self) -> str:
    return f'hold: {super().__str__()}'


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
  """A client's observation, and what it asks for.

  Attributes:
    image: uint8 [H, W, 3]; of several cameras [views, H, W, 3].
    instruction, embedding: the instruction as text or as embedding, at most one of them; both None: unchanged.
    proprioception: float32 [S], or None.
    reset: whether to begin an episode.
  """
  image: np.ndarray
  instruction: str | None = None
  embedding: np.ndarray | None = None
  proprioception: np.ndarray | None = None
  reset: bool = False


def pack(value: Any) -> bytes:
  """Encode a message."""
  return msgpack.packb(value, default=_encode)


def unpack(message: bytes) -> Any:
  """Decode a message; arrays share its memory.

  Raises:
    ProtocolError: it is no msgpack, has too many parts, or holds an array with inconsistent parts.
  """
  count = itertools.count(1)

  def counted(container: Any) -> Any:
    if next(count) > MAX_CONTAINERS:
      raise ProtocolError(f'the message holds more than {MAX_CONTAINERS} maps and lists.')
    return container

  try:
    # Lengths are bounded because msgpack allocates as many items as a header announces, and containers because a byte
    # of the message becomes an object of a hundred.
    return msgpack.unpackb(message, object_hook=lambda value: _decode(counted(value)), list_hook=counted,
                           max_array_len=MAX_ITEMS, max_map_len=64, max_ext_len=1024)
  except ProtocolError:
    raise
  except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
    raise ProtocolError(f'the message is no msgpack map ({type(error).__name__}).') from None


def read_request(message: bytes | str, image_size: tuple[int, int], views: int = 1) -> Request:
  """Read and check a client's message.

  Args:
    image_size: height and width that images must have.
    views: number of cameras; above 1 the image is [views, H, W, 3].

  Raises:
    ProtocolError: names the key, its value and what was expected. `Hold` where numbers are not finite.
  """
  if isinstance(message, str):
    raise ProtocolError('the message is text, expected a binary message: a msgpack map.')
  received = unpack(message)
  if not isinstance(received, dict):
    raise ProtocolError(f'the message holds a {type(received).__name__}, expected a map of {sorted(KEYS)}.')
  fields: dict[str, Any] = {}
  for key, value in received.items():
    name = _field_of(key)
    if name in fields:
      raise ProtocolError(f'{key!r} gives {name} a second time.')
    if name and value is not None:
      fields[name] = _READERS[name](key, value)
  if 'image' not in fields:
    raise ProtocolError("the message has no 'image' (nor 'observation/image'), only "
                        f'{limits.short(sorted(received), 200)}.')
  if fields['image'].shape[:-3] != ((views,) if views > 1 else ()):
    raise ProtocolError(f'image is {_kind(fields["image"])}, this policy takes {views} view(s): expected uint8 '
                        + (f'[{views}, H, W, 3].' if views > 1 else '[H, W, 3].'))
  if fields['image'].shape[-3:-1] != image_size:
    found, expected = ('{}x{}'.format(*size) for size in (fields['image'].shape[-3:], image_size))
    raise ProtocolError(f'image is {found} (height x width), this server takes {expected}: resize it before sending, '
                        f'as rtjax-client does, or start the server with --image-size {found.replace("x", " ")}.')
  if 'instruction' in fields and 'embedding' in fields:
    raise ProtocolError('give either instruction (prompt) or embedding, not both.')
  return Request(**fields)


def reply(output: PolicyOutput, begins: bool, timing: dict[str, Any]) -> dict[str, Any]:
  """Return the reply to a request.

  `actions` alone is an array: openpi's ActionChunkBroker takes one row of every array at each step of a plan.
  """
  return {'actions': output.plan, 'action': {name: value.tolist() for name, value in output.action.items()},
          'tokens': output.tokens.tolist(), 'confidence': output.confidence.tolist(),
          'begins': begins, 'server_timing': timing}


def _field_of(key: Any) -> str | None:
  if key not in KEYS:
    raise ProtocolError(f'unknown key {limits.short(key, 200)}, expected {sorted(KEYS)}.{did_you_mean(key, KEYS)}')
  return KEYS[key]


def _image(key: str, value: Any) -> np.ndarray:
  if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim not in (3, 4) or value.shape[-1] != 3:
    raise ProtocolError(f'{key} is {_kind(value)}, expected uint8 [H, W, 3], 0 to 255.')
  return value


def _text(key: str, value: Any) -> str:
  if not isinstance(value, str) or len(value) > MAX_TEXT:
    raise ProtocolError(f'{key} is {_kind(value)}, expected a text of at most {MAX_TEXT} characters.')
  return value


def _vector(key: str, value: Any) -> np.ndarray:
  return _embedding(key, value).astype(np.float32)


def _embedding(key: str, value: Any) -> np.ndarray:
  """Return a float32 embedding, or int32 token ids of a prompt."""
  if not isinstance(value, np.ndarray) or value.dtype.kind not in 'fiu' or value.ndim != 1:
    raise ProtocolError(f'{key} is {_kind(value)}, expected a float32 vector.')
  if value.dtype.kind in 'iu' and value.size and not -2 ** 31 <= int(value.min()) <= int(value.max()) < 2 ** 31:
    raise ProtocolError(f'{key} holds a number beyond 32 bits, expected token ids.')
  with np.errstate(over='ignore', invalid='ignore'):  # float64 beyond float32 becomes infinite
    vector = value.astype(np.float32 if value.dtype.kind == 'f' else np.int32)
  if vector.dtype.kind == 'f' and unusable(vector).any():
    raise Hold(f'{key} holds NaN, infinite numbers or numbers beyond {LARGEST:g}.')
  return vector


def _flag(key: str, value: Any) -> bool:
  if not isinstance(value, (bool, np.bool_)):
    raise ProtocolError(f'{key} is {_kind(value)}, expected true or false.')
  return bool(value)


_READERS = {'image': _image, 'instruction': _text, 'embedding': _embedding, 'proprioception': _vector, 'reset': _flag}


def _kind(value: Any) -> str:
  if isinstance(value, np.ndarray):
    return f'{value.dtype} {value.shape}'
  return f'a {type(value).__name__}' + (f' of length {len(value)}' if isinstance(value, (str, bytes)) else '')


def _encode(value: Any) -> Any:
  if isinstance(value, np.ndarray):
    return {b'__ndarray__': True, b'data': value.tobytes(), b'dtype': value.dtype.str, b'shape': value.shape}
  if isinstance(value, np.generic):
    return {b'__npgeneric__': True, b'data': value.item(), b'dtype': value.dtype.str}
  raise TypeError(f'{type(value).__name__} cannot be sent.')


def _decode(value: dict[Any, Any]) -> Any:
  if b'__ndarray__' in value:
    return _array(value.get(b'data'), _dtype(value), value.get(b'shape'))
  if b'__npgeneric__' in value:
    return _dtype(value).type(value.get(b'data'))
  return value


def _dtype(value: dict[Any, Any]) -> np.dtype:
  name = value.get(b'dtype')
  # Numbers only: no objects, texts or structures, whose descriptions can be of any size.
  if not isinstance(name, str) or len(name) > 8:
    raise ProtocolError('the dtype of an array is no short text.')
  try:
    dtype = np.dtype(name)
  except (TypeError, ValueError, SyntaxError):
    dtype = np.dtype(object)
  if dtype.kind not in 'biuf':
    raise ProtocolError(f'an array has dtype {name!r}, expected numbers, such as |u1 or <f4.')
  return dtype


def _array(data: Any, dtype: np.dtype, shape: Any) -> np.ndarray:
  if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > 8 or not all(
      type(n) is int and n >= 0 for n in shape):
    raise ProtocolError('an array lacks its data (bytes) or its shape (at most 8 numbers).')
  if math.prod(shape) * dtype.itemsize != len(data):
    raise ProtocolError(f'an array of {dtype} {shape} comes with {len(data)} bytes.')
  return np.ndarray(tuple(shape), dtype, data)
