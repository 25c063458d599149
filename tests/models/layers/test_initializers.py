import jax
import numpy as np
import pytest
from flax import nnx

from rtjax.models.layers import initializers
from rtjax.models.layers.common import random_streams

BOTH = [  # ours, JAX's, shape
    (initializers.normal(0.5), nnx.initializers.normal(0.5), (300, 200)),
    (initializers.lecun_normal(), nnx.initializers.lecun_normal(), (300, 200)),
    (initializers.lecun_normal((0, 1, 2)), nnx.initializers.lecun_normal((0, 1, 2)), (3, 3, 60, 100)),
    (initializers.glorot_uniform(), nnx.initializers.glorot_uniform(), (300, 200)),
    (initializers.glorot_uniform(), nnx.initializers.glorot_uniform(), (100, 8, 64)),
    (initializers.he_uniform(), nnx.initializers.he_uniform(), (300, 200)),
    (initializers.variance_scaling(2.0, 'fan_out', 'truncated_normal'),
     nnx.initializers.variance_scaling(2.0, 'fan_out', 'truncated_normal'), (5, 5, 1000, 1)),
    (initializers.variance_scaling(1.0, 'fan_in', 'normal'),
     nnx.initializers.variance_scaling(1.0, 'fan_in', 'normal'), (300, 200)),
]


@pytest.mark.parametrize('ours, theirs, shape', BOTH)
def test_distribution_is_that_of_jax(ours, theirs, shape):
  found, expected = (np.sort(np.ravel(draw(jax.random.key(3), shape))) for draw in (ours, theirs))
  assert found.dtype == expected.dtype and found.shape == expected.shape
  # A hundredth is left out at either end, where numbers are rare.
  inner = slice(found.size // 100, -found.size // 100)
  np.testing.assert_allclose(found[inner], expected[inner], atol=0.1 * expected.std())
  assert found.max() < 1.3 * expected.max()


def test_draws_depend_on_the_key_alone():
  draw = initializers.lecun_normal()
  np.testing.assert_array_equal(draw(jax.random.key(1), (4, 5)), draw(jax.random.key(1), (4, 5)))
  assert not np.allclose(draw(jax.random.key(1), (4, 5)), draw(jax.random.key(2), (4, 5)))
  rngs = random_streams(jax.random.key(0))
  assert not np.allclose(draw(rngs.params(), (4, 5)), draw(rngs.params(), (4, 5)))


def test_a_traced_key_gives_jax_numbers():
  found = jax.jit(lambda key: initializers.lecun_normal()(key, (4, 5)))(jax.random.key(1))
  np.testing.assert_allclose(found, nnx.initializers.lecun_normal()(jax.random.key(1), (4, 5)), rtol=1e-6)


def test_streams_give_the_keys_of_flax():
  ours, theirs = random_streams(jax.random.key(7)), nnx.Rngs(7)
  for _ in range(3):
    for stream in ('params', 'dropout'):
      assert ours[stream]() == theirs[stream]()
