"""Convolutions by shifted views against XLA's, forward and both gradients; patches."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtjax.models.backbones.film_efficientnet import conv_padding
from rtjax.models.layers.convolution import _grouped, dense_conv, depthwise_conv, patchify


@pytest.mark.parametrize('rule', ['official', 'same'])
@pytest.mark.parametrize('height,width,kernel,stride', [
    (9, 7, 3, 1), (9, 8, 3, 2), (10, 9, 5, 2), (6, 6, 5, 1), (3, 4, 5, 2)])
def test_equals_grouped_convolution(height, width, kernel, stride, rule):
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(2, height, width, 4)), jnp.float32)
  weights = jnp.asarray(random.normal(size=(kernel, kernel, 4)), jnp.float32)
  padding = (conv_padding(height, kernel, stride, rule), conv_padding(width, kernel, stride, rule))
  value, pull = jax.vjp(lambda x, w: depthwise_conv(x, w, stride, padding), x, weights)
  expected, pull_expected = jax.vjp(lambda x, w: _grouped(x, w, stride, padding), x, weights)
  np.testing.assert_allclose(value, expected, atol=1e-5)
  upstream = jnp.asarray(random.normal(size=expected.shape), jnp.float32)
  for ours, theirs in zip(pull(upstream), pull_expected(upstream), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_dense_equals_convolution():
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(2, 9, 8, 3)), jnp.float32)
  weights = jnp.asarray(random.normal(size=(3, 3, 3, 5)), jnp.float32)

  def reference(x, weights):
    return jax.lax.conv_general_dilated(x, weights, (2, 2), ((0, 1), (1, 1)),
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  value, pull = jax.vjp(lambda x, w: dense_conv(x, w, 2, ((0, 1), (1, 1))), x, weights)
  expected, pull_expected = jax.vjp(reference, x, weights)
  np.testing.assert_allclose(value, expected, atol=1e-5)
  for ours, theirs in zip(pull(value), pull_expected(value), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_bfloat16_keeps_its_type():
  x, weights = jnp.ones((1, 5, 5, 2), jnp.bfloat16), jnp.ones((3, 3, 2), jnp.bfloat16)
  value, pull = jax.vjp(lambda x, w: depthwise_conv(x, w, 1, ((1, 1), (1, 1))), x, weights)
  gradients = pull(value)
  assert value.dtype == gradients[0].dtype == gradients[1].dtype == jnp.bfloat16


def test_official_padding_sizes():
  """300 pixels become 9 positions with the official rule, 10 with SAME.

  Source: parity notes, and keras.applications.
  """
  for rule, sizes in [('official', [150, 75, 37, 18, 9]), ('same', [150, 75, 38, 19, 10])]:
    size, kernels = 300, [3, 3, 5, 3, 5]  # stem, and the first kernel of each stage that halves
    for kernel, expected in zip(kernels, sizes, strict=True):
      size = (size + sum(conv_padding(size, kernel, 2, rule)) - kernel) // 2 + 1
      assert size == expected


def test_patches():
  x = np.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3)
  patches = patchify(jnp.asarray(x, jnp.float32), 2)
  assert patches.shape == (2, 3, 2, 12)
  np.testing.assert_array_equal(patches[1, 2, 1], x[1, 4:6, 2:4].reshape(-1))
