"""Stacked layers in a loop, against the same layers one after the other."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rtjax.models import parameters
from rtjax.models.layers import layer_stack
from rtjax.models.layers.common import dropout, random_streams
from rtjax.models.layers.layer_stack import LayerStack


class Layer(nnx.Module):
  """A linear map, dropout and a sum."""

  def __init__(self, rngs):
    self.linear = nnx.Linear(4, 4, rngs=rngs)

  def __call__(self, x, rngs=None):
    return x + dropout(jnp.tanh(self.linear(x)), 0.5, rngs)


class Network(nnx.Module):
  def __init__(self, count):
    rngs = random_streams(jax.random.key(0))
    self.layers = LayerStack(lambda: Layer(rngs), count)

  def __call__(self, x, remat=False, rngs=None):
    return self.layers.scan(lambda layer, x, rngs: (layer(x, rngs), None), x, remat=remat, rngs=rngs)[0]


@pytest.fixture(scope='module')
def network():
  return Network(3)


def test_layers_are_new_ones_in_order(network):
  rngs = random_streams(jax.random.key(0))
  for i in range(3):
    np.testing.assert_array_equal(network.layers[i].linear.kernel[...], Layer(rngs).linear.kernel[...])
  assert len(network.layers) == 3 == len(list(network.layers))
  np.testing.assert_array_equal(network.layers[-1].linear.kernel[...], network.layers[2].linear.kernel[...])
  with pytest.raises(IndexError):
    network.layers[3]


@pytest.mark.parametrize('remat', [False, True])
def test_the_loop_is_one_layer_after_the_other(network, remat):
  x = jax.random.normal(jax.random.key(1), (2, 4))

  def unrolled(network, x):
    for layer in network.layers:
      x = layer(x)
    return jnp.sum(x ** 2)
  expected, gradients = nnx.value_and_grad(unrolled)(network, x)
  value, found = nnx.value_and_grad(lambda network, x: jnp.sum(network(x, remat) ** 2))(network, x)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, gradients)


def test_inputs_and_outputs_of_each_layer(network):
  x = jnp.ones((1, 4))
  scales = jnp.array([1.0, 2.0, 3.0])
  last, outputs = network.layers.scan(lambda layer, x, scale, rngs: (scale * x, layer(x)), x, scales)
  np.testing.assert_array_equal(last, 6 * x)
  for i, factor in enumerate((1, 1, 2)):
    np.testing.assert_allclose(outputs[i], network.layers[i](factor * x), rtol=1e-6)
  np.testing.assert_allclose(network.layers.map(lambda layer: layer(x)), [layer(x) for layer in network.layers],
                             rtol=1e-6)


def test_each_layer_has_its_own_dropout(network):
  def dropped(layer, x, rngs):
    return x, dropout(jnp.ones(64), 0.5, rngs)
  masks = np.asarray(network.layers.scan(dropped, jnp.zeros(()), rngs=random_streams(jax.random.key(2)))[1])
  assert all((masks[i] != masks[j]).any() for i in range(3) for j in range(i))
  again = network.layers.scan(dropped, jnp.zeros(()), rngs=random_streams(jax.random.key(2)))[1]
  np.testing.assert_array_equal(again, masks)


def test_a_deeper_network_is_no_longer_program():
  def operations(count):
    graphdef, state = nnx.split(Network(count))
    return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x)).lower(state, jnp.ones((1, 4))).as_text().count('\n')
  assert operations(5) == operations(9)


def test_names_of_single_layers(network):
  assert parameters.shapes(network) == {
      f'layers/{i}/linear/{name}': shape for name, shape in (('kernel', (4, 4)), ('bias', (4,))) for i in range(3)}
  values = {name: np.full(shape, i, np.float32)
            for i, (name, shape) in enumerate(parameters.shapes(network).items())}
  other = Network(3)
  parameters.assign(other, values)
  for name, value in parameters.named(other).items():
    np.testing.assert_array_equal(value, values[name], err_msg=name)
  one_by_one = Network(3)
  parameters.assign_each(one_by_one, values.items())
  for name, value in parameters.stored(one_by_one).items():
    np.testing.assert_array_equal(value, parameters.stored(other)[name], err_msg=name)
  with pytest.raises(ValueError, match=r'missing: layers/2/linear/bias \(4,\)'):
    parameters.assign(other, {name: value for name, value in values.items() if name != 'layers/2/linear/bias'})
  assert layer_stack.stored_name('a/layers/12/b/kernel') == ('a/layers/stacked/b/kernel', 12)
  assert layer_stack.layer_name('a/layers/stacked/b/kernel', 12) == 'a/layers/12/b/kernel'
  assert not layer_stack.is_stacked('a/layers/1/b/kernel')
