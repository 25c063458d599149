"""Small layers that the image encoders and transformers share."""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float


class Constant(nnx.Variable):
  """A value that belongs to the weights but is never trained, such as the input normalisation."""


class Standardize(nnx.Module):
  """(x - mean) / std, with statistics of the training data that belong to the weights; at first x passes unchanged."""

  def __init__(self, size: int):
    self.mean, self.std = Constant(jnp.zeros(size)), Constant(jnp.ones(size))

  def __call__(self, x: Float[Array, '*b P']) -> Float[Array, '*b P']:
    return (x - self.mean[...]) / self.std[...]

  def set(self, mean: np.ndarray, std: np.ndarray) -> None:
    self.mean[...] = jnp.asarray(mean, jnp.float32)
    # A number that never changes tells nothing; were it divided by 0, it would one day be infinite.
    self.std[...] = jnp.asarray(np.where(np.asarray(std) > 1e-6, std, 1), jnp.float32)


class StateToken(Standardize):
  """The robot's state, standardised, as one token."""

  def __init__(self, size: int, width: int, *, dtype: Any, rngs: nnx.Rngs):
    super().__init__(size)
    self.project = nnx.Linear(size, width, kernel_init=nnx.initializers.glorot_uniform(), dtype=dtype, rngs=rngs)

  def __call__(self, proprioception: Float[Array, '*b P'] | None) -> Float[Array, '*b D']:
    """The token; there being no proprioception is a ValueError."""
    if proprioception is None:
      raise ValueError("this network looks at the robot's state: give proprioception, float32 "
                       f'[{len(self.mean[...])}], at every step. In training: --pipeline.proprioception.')
    return self.project(super().__call__(proprioception))

  def set(self, mean: np.ndarray, std: np.ndarray) -> None:
    size = len(self.mean[...])
    if len(mean) != size:
      raise ValueError(f'the proprioception of the data has {len(mean)} numbers, the network takes {size}: say '
                       f'--model.proprioception-size {len(mean)}.')
    super().set(mean, std)


def check_proprioception(given: Any, leading: tuple[int, ...], size: int) -> None:
  """Raises ValueError unless the robot's state is [*leading, size], or is not there where `size` is 0."""
  found, expected = (None if given is None else tuple(given.shape)), ((*leading, size) if size else None)
  if found != expected:
    raise ValueError(f'proprioception has shape {found}, expected {expected}.')


class BatchNorm(nnx.Module):
  """Batch normalisation over all axes but the last, as Keras does it.

  In training the batch's biased variance normalises while the moving variance takes the unbiased one (n / (n - 1));
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

  def __call__(self, x: Float[Array, '*b C'], train: bool = False, swish: bool = False) -> Float[Array, '*b C']:
    """Normalises x; with `swish`, applies that too."""
    if train:
      axes = tuple(range(x.ndim - 1))
      x32 = x.astype(jnp.float32)
      mean = jnp.mean(x32, axes)
      # One pass over x: E[x^2] - E[x]^2, in float32.
      var = jnp.maximum(jnp.mean(jnp.square(x32), axes) - jnp.square(mean), 0)
      count = x.size // x.shape[-1]
      self._move(self.mean, mean)
      self._move(self.var, var * (count / max(count - 1, 1)) if self.unbiased else var)
    else:
      mean, var = self.mean[...], self.var[...]
    scale = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
    shift = self.bias[...] - mean * scale
    return (_swish_affine if swish else _affine)(x, scale.astype(x.dtype), shift.astype(x.dtype))

  def _move(self, variable: nnx.BatchStat, value: Array) -> None:
    value = jax.lax.stop_gradient(value)
    variable[...] = variable[...] * self.momentum + value * (1 - self.momentum)


def _affine(x: Array, scale: Array, shift: Array) -> Array:
  return x * scale + shift


@jax.checkpoint
def _swish_affine(x: Array, scale: Array, shift: Array) -> Array:
  """The backward pass computes it again from x: cheaper than to write and read the sigmoid of every pixel."""
  return jax.nn.swish(_affine(x, scale, shift))


def dropout(x: Array, rate: float, rngs: nnx.Rngs | None, shape: tuple[Any, ...] | None = None) -> Array:
  """Zeroes each element with probability `rate` and scales up the rest; without `rngs`, returns x.

  Args:
    shape: of the mask, broadcast to x: `(B, 1, 1, 1)` drops whole images. B is no int where an export leaves it open.
  """
  if rngs is None or rate == 0:
    return x
  keep = jax.random.bernoulli(rngs.dropout(), 1 - rate, shape or x.shape)
  return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))


def _run(layer: nnx.Module, *inputs: Any) -> Any:
  return layer(*inputs)  # type: ignore[operator]


# `run_again(layer, *inputs)` is layer(*inputs), computed again in the backward pass in place of keeping what is inside.
# As a tree: in graph mode, parameters that lie outside of what is differentiated are refused.
run_again: Any = nnx.remat(_run, graph=False)
