"""Checkpoints with a variable for each layer."""
import dataclasses
import functools

import jax
import numpy as np
import pytest
from helpers import tiny_rt2

from rtjax import models
from rtjax.models import parameters
from rtjax.training import optimizer, sharding, single_layers, state
from rtjax.training.checkpoint import RunCheckpoints


@pytest.mark.parametrize('kind', ['adam', 'adafactor'])
def test_a_run_goes_on_from_one(tmp_path, kind):
  """Parameters, frozen ones, moments and the moving average."""
  transform = optimizer.build(optimizer.OptimizerConfig(kind=kind), 10)
  graphdef, *trees = state.split(tiny_rt2.randomised(tiny_rt2.TINY), lambda name: 'vision' not in name)
  make = functools.partial(state.create, rng=jax.random.key(1), optimizer=transform, ema=True)
  now = make(*trees)
  now = dataclasses.replace(now, opt_state=jax.tree.map(lambda leaf: leaf + 1, now.opt_state))
  layout = sharding.shardings(now, sharding.make_mesh((1, 1, 1)))
  target = jax.tree.map(lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), now, layout)

  before = single_layers.taken_apart(target)
  names = parameters.named_leaves(before)
  assert {'params/backbone/text/decoder/layers/1/mlp/gate/kernel', 'ema/backbone/text/encoder/layers/0/mlp_norm/scale',
          'constants/backbone/vision/layers/0/mlp/hidden/bias'} <= names.keys()
  assert not any('stacked' in name for name in names)
  with RunCheckpoints(tmp_path) as saves:
    saves.save(apart(now, before), {}, {'loss': 1.0})
  restored, _ = RunCheckpoints(tmp_path).restore(target)
  jax.tree.map(np.testing.assert_array_equal, without_key(restored), without_key(now))
  jax.tree.map(lambda leaf, expected: leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim), restored, target)
  model = state.merge(graphdef, restored.params, restored.batch_stats, restored.constants)
  observation = tiny_rt2.robot_batch(tiny_rt2.TINY, 2).observation
  np.testing.assert_array_equal(model(observation.images, observation.prompt), tiny_rt2.randomised(tiny_rt2.TINY)(
      observation.images, observation.prompt))


def test_weights_of_single_layers_load():
  model = tiny_rt2.randomised(tiny_rt2.TINY)
  other = models.from_values(tiny_rt2.TINY, parameters.named(model))
  jax.tree.map(np.testing.assert_array_equal, parameters.stored(other), parameters.stored(model))


def without_key(current):
  return dataclasses.replace(current, rng=jax.random.key_data(current.rng))


def apart(current, before):
  """Return a state with the names of `before`."""
  values = parameters.named_leaves(current)

  def value(path, leaf):
    name = parameters.path_name(path)
    if name in values:
      return values[name]
    prefix, _, rest = name.partition('layers/')
    layer, _, rest = rest.partition('/')
    stored = values[f'{prefix}layers/stacked/{rest}']
    return stored if stored.shape == leaf.shape == (1,) else stored[int(layer)]
  return jax.tree_util.tree_map_with_path(value, before)
