"""Description of the machine and its matrix rate."""
import os
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np


def describe() -> dict[str, str | int]:
  """Return device, cores, architecture and JAX version."""
  return {'device': jax.devices()[0].device_kind, 'cores': os.cpu_count() or 0, 'machine': platform.machine(),
          'jax': jax.__version__}


def matmul_gflops(dtype: str = 'float32', size: int = 2048) -> float:
  """Return the GFLOP/s of a square matrix product, the best of five."""
  x = jnp.ones((size, size), dtype)
  multiply = jax.jit(lambda a, b: a @ b)
  jax.block_until_ready(multiply(x, x))
  times = []
  for _ in range(5):
    start = time.perf_counter()
    jax.block_until_ready(multiply(x, x))
    times.append(time.perf_counter() - start)
  return 2 * size ** 3 / float(np.min(times)) / 1e9


def device_memory() -> dict[str, float]:
  """Return the peak memory of the device, if the device reports it."""
  used = (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use')
  return {} if used is None else {'peak_gib': round(used / 2 ** 30, 2)}
