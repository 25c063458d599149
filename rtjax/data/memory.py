"""Memory for arrays that come and go, used again once nobody holds it. NumPy only."""
import collections
import math
import mmap
import weakref
from typing import Any

import numpy as np


class Memory:
  """Gives out arrays of one shape and type, in the memory of earlier ones that are gone.

  Fresh memory costs a page fault for every 4 KiB: for a batch of pictures a sixth of the time that decoding takes. An
  array is gone when no reference to it is left, and everything made of it without a copy holds one: a view, a
  memoryview, a jax.Array that JAX on a CPU puts over it.

  Args:
    shape, dtype: of the arrays; at least one byte.
    spare: how many unused ones are kept; more go back to the system.
  """

  def __init__(self, shape: tuple[int, ...], dtype: Any, spare: int):
    self._shape, self._dtype = shape, np.dtype(dtype)
    self._spare: collections.deque[mmap.mmap] = collections.deque(maxlen=spare)

  def array(self) -> np.ndarray:
    """An array whose contents are undefined, and nobody else's."""
    try:
      block = self._spare.pop()
    except IndexError:
      block = mmap.mmap(-1, math.prod(self._shape) * self._dtype.itemsize)
    # Over a mapping and not over another array: then views refer to this array, and it lives as long as any of them.
    array = np.ndarray(self._shape, self._dtype, block)
    weakref.finalize(array, self._spare.append, block).atexit = False
    return array
