"""Small layers shared by image encoders and transformers."""
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from rtjax.models.layers import initializers


class Constant(nnx.Variable):
  """A weight that is never trained, such as the input normalisation."""


class Normalize(nnx.Module):
  """(x - mean) / std, with statistics kept as weights.

  The identity until they are set.
  """

  def __init__(self, size: int):
    self.mean, self.std = Constant(jnp.zeros(size)), Constant(jnp.ones(size))

  def __call__(self, x: Float[Array, '*B S']) -> Float[Array, '*B S']:
    return (x - self.mean[...]) / self.std[...]

  def set(self, mean: np.ndarray, std: np.ndarray) -> None:
    """Set the statistics; a standard deviation of 0 becomes 1."""
    self.mean[...] = jnp.asarray(mean, jnp.float32)
    self.std[...] = jnp.asarray(np.where(np.asarray(std) > 1e-6, std, 1), jnp.float32)


class StateToken(Normalize):
  """Encode the robot state, normalised, as one token."""

  def __init__(self, size: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
    super().__init__(size)
    self.project = nnx.Linear(size, width, kernel_init=initializers.glorot_uniform(), dtype=dtype, rngs=rngs)

  def __call__(self, proprioception: Float[Array, '*B S'] | None) -> Float[Array, '*B D']:
    """Return the token.

    Raises:
      ValueError: proprioception is missing.
    """
    if proprioception is None:
      raise ValueError(f'this model uses the robot state: give proprioception, float32 [{len(self.mean[...])}], at '
                       'every step. In training, set --pipeline.proprioception.')
    return self.project(super().__call__(proprioception))

  def set(self, mean: np.ndarray, std: np.ndarray) -> None:
    """As `Normalize.set`; raises ValueError if the data's state has another size."""
    size = len(self.mean[...])
    if len(mean) != size:
      raise ValueError(f'the proprioception of the data has {len(mean)} numbers, the model takes {size}: set '
                       f'--model.proprioception-size {len(mean)}.')
    super().set(mean, std)


class BatchNorm(nnx.Module):
  """Batch normalisation over all axes but the last, as in Keras.

  In training the batch's biased variance normalises, and the moving variance takes the unbiased one (n / (n - 1)).
  `nnx.BatchNorm`, and so RT-1-X (`unbiased=False`), takes the biased one for both. Under `jax.jit` a sharded batch is
  one batch: statistics are global.
  """

  def __init__(self, features: int, *, momentum: float = 0.99, epsilon: float = 1e-3, unbiased: bool = True):
    self.scale = nnx.Param(jnp.ones(features))
    self.bias = nnx.Param(jnp.zeros(features))
    self.mean = nnx.BatchStat(jnp.zeros(features))
    self.var = nnx.BatchStat(jnp.ones(features))
    self.momentum = momentum
    self.epsilon = epsilon
    self.unbiased = unbiased

  def __call__(self, x: Float[Array, '*B C'], train: bool = False, swish: bool = False) -> Float[Array, '*B C']:
    """Normalise x, and apply swish if asked to."""
    if train:
      axes = tuple(range(x.ndim - 1))
      x32 = x.astype(jnp.float32)
      mean = jnp.mean(x32, axes)
      # One pass over x: E[x^2] - E[x]^2, in float32.
      var = jnp.maximum(jnp.mean(jnp.square(x32), axes) - jnp.square(mean), 0)
      count = x.size // x.shape[-1]
      self._update(self.mean, mean)
      self._update(self.var, var * (count / max(count - 1, 1)) if self.unbiased else var)
    else:
      mean, var = self.mean[...], self.var[...]
    scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
    shift = self.bias[...] - mean * scale
    return (_swish_affine if swish else _affine)(x, scale.astype(x.dtype), shift.astype(x.dtype))

  def _update(self, average: nnx.BatchStat, value: Array) -> None:
    # Not `average[...] = `: see `KeyStream`.
    average.set_value(average[...] * self.momentum + jax.lax.stop_gradient(value) * (1 - self.momentum))


def _affine(x: Array, scale: Array, shift: Array) -> Array:
  return x * scale + shift


@jax.checkpoint
def _swish_affine(x: Array, scale: Array, shift: Array) -> Array:
  """Apply scale, shift and swish; recomputed in the backward pass.

  Cheaper than storing the sigmoid of every pixel.
  """
  return jax.nn.swish(_affine(x, scale, shift))


lecun_linear = functools.partial(nnx.Linear, kernel_init=initializers.lecun_normal())
"""nnx.Linear with flax's own initializer, drawn with NumPy."""


class KeyStream(nnx.RngStream):
  """Stream of random keys, the same as flax's, counted in Python.

  Flax counts in a variable; writing a traced value to one with an index looks through the whole program traced so far
  (flax 0.12.8 asks for its sharding, and JAX composes the error): seconds of tracing for a large network.
  """

  def __init__(self, key: Array, *, tag: str):
    super().__init__(key, tag=tag)
    self._drawn = 0

  def __call__(self) -> Array:
    key = jax.random.fold_in(self.key[...], self._drawn)
    self._drawn += 1
    return key


def random_streams(key: Array) -> nnx.Rngs:
  """Return `nnx.Rngs(key)` that is quick to trace."""
  rngs = nnx.Rngs(key)
  rngs.default = KeyStream(key, tag='default')  # type: ignore[attr-defined]
  return rngs


def dropout(x: Array, rate: float, rngs: nnx.Rngs | None, shape: tuple[Any, ...] | None = None) -> Array:
  """Zero each element with probability `rate`, and scale the rest.

  Without `rngs`, x is returned unchanged.

  Args:
    shape: of the mask, broadcast to x: `(B, 1, 1, 1)` drops whole images. B is symbolic in exports.
  """
  if rngs is None or rate == 0:
    return x
  keep = jax.random.bernoulli(rngs.dropout(), 1 - rate, shape or x.shape)
  return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))
