import os

import jax
import pytest


@pytest.fixture(autouse=True, scope='module')
def quick_compilation():
  """Most of these tests' time is XLA's; what is compared here was compiled alike, here and in the processes started."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
  yield
  jax.config.update('jax_disable_most_optimizations', before)
  del os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS']
