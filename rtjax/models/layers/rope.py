"""Rotary position embedding (Su et al. 2021).

Pairs of channels i and i + d / 2 of a query or key turn by an angle that grows with the position, so that scores depend
on the distance alone. Source: the halves, and not neighbours, as in Gemma.
"""
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


class Rotation(NamedTuple):
  """Cosine and sine of each position's angles."""
  cos: Float[Array, 'B N 1 half']
  sin: Float[Array, 'B N 1 half']


def rotation(positions: Int[Array, 'B N'], size: int, base: float, factor: float = 1.0) -> Rotation:
  """Return the rotation of heads of `size` channels.

  Args:
    base: wavelength, in units of 2 pi, of the slowest pair.
    factor: divides the positions, for contexts longer than those of the first training.
  """
  frequencies = (base ** (-np.arange(0, size, 2, dtype=np.float32) / size) / factor).astype(np.float32)
  angles = positions[..., None, None].astype(jnp.float32) * frequencies
  return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Float[Array, 'B N h d'], by: Rotation) -> Float[Array, 'B N h d']:
  first, second = jnp.split(x.astype(jnp.float32), 2, -1)
  turned = jnp.concatenate([first * by.cos - second * by.sin, second * by.cos + first * by.sin], -1)
  return turned.astype(x.dtype)
