"""Initializers of parameters, drawn with NumPy.

Those of `jax.nn.initializers` are compiled for each shape of a network, half a minute for RT-1. They are used where a
network is only traced, as in `models.abstract`.
"""
import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import initializers
from jax.typing import DTypeLike

Initializer = Callable[..., Array]

# Not jnp.asarray, which compiles a program for each shape.
_place: contextvars.ContextVar[Callable[[np.ndarray], Array]] = contextvars.ContextVar('place', default=jax.device_put)


@contextlib.contextmanager
def placed(place: Callable[[np.ndarray], Array]) -> Iterator[None]:
  """Put arrays that are drawn in this context on devices by `place`.

  So a network can be built that no device has the memory for.
  """
  token = _place.set(place)
  try:
    yield
  finally:
    _place.reset(token)


def normal(stddev: float) -> Initializer:
  """Normal distribution with this standard deviation."""
  return _drawn(initializers.normal(stddev), lambda rng, shape: stddev * _standard_normal(rng, shape))


def variance_scaling(scale: float, mode: str, distribution: str, in_axis: int | tuple[int, ...] = -2) -> Initializer:
  """Variance `scale / fan`, as `jax.nn.initializers.variance_scaling` has it.

  Args:
    mode: 'fan_in', 'fan_out' or 'fan_avg'.
    distribution: 'normal', 'truncated_normal' (at two standard deviations of the untruncated one) or 'uniform'.
    in_axis: axes of the inputs; the last is that of the outputs, and others belong to the window of a convolution.
  """
  def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    axes = in_axis if isinstance(in_axis, tuple) else (in_axis,)
    inputs, outputs = math.prod(shape[axis] for axis in axes), shape[-1]
    window = math.prod(shape) / (inputs * outputs)
    fans = {'fan_in': inputs, 'fan_out': outputs, 'fan_avg': (inputs + outputs) / 2}
    stddev = math.sqrt(scale / (fans[mode] * window))
    return np.float32(stddev) * _UNIT_VARIANCE[distribution](rng, shape)

  return _drawn(initializers.variance_scaling(scale, mode, distribution, in_axis=in_axis), draw)  # type: ignore[arg-type]


def lecun_normal(in_axis: int | tuple[int, ...] = -2) -> Initializer:
  """Truncated normal distribution of variance 1 / fan-in: flax's default."""
  return variance_scaling(1.0, 'fan_in', 'truncated_normal', in_axis)


def glorot_uniform() -> Initializer:
  """Uniform distribution of variance 2 / (fan-in + fan-out): Keras's default."""
  return variance_scaling(1.0, 'fan_avg', 'uniform')


def he_uniform() -> Initializer:
  """Uniform distribution of variance 2 / fan-in."""
  return variance_scaling(2.0, 'fan_in', 'uniform')


def repeated(initializer: Initializer, stack: tuple[int, ...]) -> Initializer:
  """Return an initializer of stacked layers, from that of one; () for one.

  Args:
    stack: (number of layers,).
  """
  if not stack:
    return initializer
  return lambda key, shape: jnp.stack([initializer(k, shape) for k in jax.random.split(key, stack[0])])


def _drawn(traced: Initializer, draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> Initializer:
  """Return an initializer that draws, or traces if the key is traced."""
  def initialize(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **options: Any) -> Array:
    if isinstance(key, jax.core.Tracer):
      return traced(key, shape, dtype, **options)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return _place.get()(draw(rng, tuple(shape)).astype(dtype, copy=False))
  return initialize


def _standard_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  return rng.standard_normal(shape, np.float32)


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  x = _standard_normal(rng, shape)
  while (far := np.abs(x) > 2).any():
    x[far] = _standard_normal(rng, (int(far.sum()),))
  return x / np.float32(0.87962566103423978)  # its standard deviation


def _uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
  return np.float32(math.sqrt(3)) * (2 * rng.random(shape, np.float32) - 1)


_UNIT_VARIANCE = {'normal': _standard_normal, 'truncated_normal': _truncated_normal, 'uniform': _uniform}
