"""msgpack with NumPy arrays, in openpi's format (openpi-client, msgpack_numpy.py)."""
from typing import Any

import msgpack
import numpy as np


def pack(value: Any) -> bytes:
  """Encode a message; arrays that do not hold numbers raise TypeError."""
  return msgpack.packb(value, default=_encode)


def unpack(message: Any) -> Any:
  """Decode a message."""
  return msgpack.unpackb(message, object_hook=_decode)


def _encode(value: Any) -> Any:
  if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind not in 'biuf':
    raise TypeError(f'a {getattr(value, "dtype", type(value).__name__)} cannot be sent, expected numbers or strings.')
  if isinstance(value, np.ndarray):
    return {b'__ndarray__': True, b'data': value.tobytes(), b'dtype': value.dtype.str, b'shape': value.shape}
  return {b'__npgeneric__': True, b'data': value.item(), b'dtype': value.dtype.str}


def _decode(value: dict) -> Any:
  if b'__ndarray__' in value:
    return np.frombuffer(value[b'data'], np.dtype(value[b'dtype'])).reshape(value[b'shape'])
  if b'__npgeneric__' in value:
    return np.dtype(value[b'dtype']).type(value[b'data'])
  return value
