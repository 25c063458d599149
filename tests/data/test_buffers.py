"""Buffers are reused when nothing refers to them, and not before."""
import gc

import jax
import numpy as np
import pytest

from rtjax.data.buffers import BufferPool

SHAPE = (4, 100, 3)


def address(array):
  return array.ctypes.data


def test_arrays_in_use_do_not_share():
  pool = BufferPool(SHAPE, np.float32, 2)
  arrays = [pool.array() for _ in range(5)]
  for number, array in enumerate(arrays):
    assert array.shape == SHAPE and array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
    array[:] = number
  assert [set(array.ravel().tolist()) for array in arrays] == [{0}, {1}, {2}, {3}, {4}]


HOLDERS = {
    'itself': lambda a: a, 'slice': lambda a: a[1:, ::2], 'view of a view': lambda a: a[1:][0].T[1:],
    'another type': lambda a: a.view(np.uint8), 'memoryview': lambda a: memoryview(a)[2:],
    'frombuffer': lambda a: np.frombuffer(a, np.uint8), 'asarray': lambda a: np.asarray(memoryview(a)),
    'dlpack': lambda a: np.from_dlpack(a), 'read-only': lambda a: np.broadcast_to(a, (2, *a.shape))}


@pytest.mark.parametrize('holder', HOLDERS)
def test_memory_waits_for_its_last_reference(holder):
  pool = BufferPool(SHAPE, np.float32, 2)
  array = pool.array()
  first = address(array)
  held = HOLDERS[holder](array)
  assert np.shares_memory(held, array)
  del array
  others = [pool.array() for _ in range(3)]
  assert first not in map(address, others)
  del held
  assert address(pool.array()) == first


def test_memory_waits_for_jax():
  """JAX on a CPU puts its array over aligned memory of NumPy's."""
  pool = BufferPool(SHAPE, np.float32, 2)
  array = pool.array()
  array[:] = 7
  first = address(array)
  held = jax.device_put(array, jax.devices('cpu')[0])
  assert held.unsafe_buffer_pointer() == first
  del array
  others = [pool.array() for _ in range(3)]
  for other in others:
    other[:] = 0
  assert first not in map(address, others) and (held == 7).all()
  del held
  gc.collect()  # JAX releases the buffer with some delay
  assert address(pool.array()) == first


def test_spare_memory_is_limited():
  pool = BufferPool(SHAPE, np.float32, 2)
  arrays = [pool.array() for _ in range(5)]
  assert len(pool._spare) == 0
  arrays.clear()
  assert len(pool._spare) == 2
