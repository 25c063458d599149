"""Layouts of tensors in Hugging Face's files, and of variables.

One table, from the names of both to a rule; reading and writing follow it.
"""
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike

Shape = tuple[int, ...]


class Layout(NamedTuple):
  """Relation of a tensor to a variable, beyond a reshape.

  Attributes:
    shape: shape of the tensor, from that of the variable.
    axes: the tensor's axes in the order of the variable; None for the same order.
  """
  shape: Callable[[Shape], Shape]
  axes: tuple[int, ...] | None = None


# The first pattern found in 'TENSOR -> VARIABLE' counts.
LAYOUTS: tuple[tuple[str, Layout], ...] = (
    (r'patch_embedding/kernel$',  # [D, 3, P, P] -> [P * P * 3, D]
     Layout(lambda s: (s[1], 3, math.isqrt(s[0] // 3), math.isqrt(s[0] // 3)), (2, 3, 1, 0))),
    (r'\bout/kernel$', Layout(lambda s: (s[-1], math.prod(s[:-1])), (1, 0))),  # [out, in] -> [heads.., size, out]
    (r'\bkernel$', Layout(lambda s: (math.prod(s[1:]), s[0]), (1, 0))),  # [out, in] -> [in, heads.., size]
    (r'\bbias$', Layout(lambda s: (math.prod(s),))),  # [out] -> [heads.., size]
    (r'\b(cls_token|probe) -> ', Layout(lambda s: (1, 1, *s))),
    (r'\bposition_embeddings -> ', Layout(lambda s: (1, *s))),
    ('', Layout(lambda s: s)))


def find(tensor: str, place: str) -> Layout:
  """Return the layout of a tensor that becomes the variable at `place`."""
  return next(layout for pattern, layout in LAYOUTS if re.search(pattern, f'{tensor} -> {place}'))


def shape_in_file(tensor: str, places: tuple[str, ...], variables: Mapping[str, Shape]) -> Shape:
  """Return the shape of a tensor that stacks the variables at `places`."""
  first, *rest = find(tensor, places[0]).shape(variables[places[0]])
  return (len(places) * first, *rest)


def read(value: np.ndarray, tensor: str, place: str, shape: Shape, dtype: DTypeLike) -> np.ndarray:
  """Return the variable at `place`, of this shape, from its tensor."""
  layout = find(tensor, place)
  value = value.reshape(layout.shape(shape)).astype(jnp.dtype(dtype), copy=False)
  # Contiguous, so that neither the reshape nor a device copies it once more.
  return np.ascontiguousarray(value.transpose(layout.axes or range(value.ndim))).reshape(shape)


def write(value: np.ndarray, tensor: str, place: str) -> np.ndarray:
  """Return the tensor of the variable at `place`."""
  layout = find(tensor, place)
  shape = layout.shape(value.shape)
  axes = layout.axes or tuple(range(len(shape)))
  return value.reshape([shape[axis] for axis in axes]).transpose(np.argsort(axes))
