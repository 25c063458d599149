"""Optimizers and the learning rate against optax and by hand."""
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rtjax.models.parameters import count
from rtjax.training import optimizer, sharding


def test_optimizer_clips_warms_up_decays_and_is_adam():
  config = optimizer.OptimizerConfig(learning_rate=1e-2, warmup_steps=10, end_learning_rate=1e-3, clip_norm=1.0)
  rate = optimizer.schedule(config, 110)
  rates = [rate(step) for step in (0, 5, 10, 60, 110)]
  np.testing.assert_allclose(rates, [0, 5e-3, 1e-2, 5.5e-3, 1e-3], rtol=1e-5)
  flat = dataclasses.replace(config, warmup_steps=0, end_learning_rate=1e-2)
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  grads = jax.tree.map(lambda p: 100 * jnp.arange(1.0, p.size + 1).reshape(p.shape), params)
  moved, by_hand = (t.update(grads, t.init(params), params)[0] for t in (
      optimizer.build(flat, 100), optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2, eps=1e-7))))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), moved, by_hand)
  decayed = optimizer.build(dataclasses.replace(flat, weight_decay=0.1), 100)
  decayed = decayed.update(grads, decayed.init(params), params)[0]
  np.testing.assert_allclose(decayed['kernel'] - moved['kernel'], -1e-2 * 0.1 * params['kernel'], rtol=1e-3)
  np.testing.assert_array_equal(decayed['bias'], moved['bias'])


def test_a_warm_up_longer_than_the_run_ends_with_it():
  rate = optimizer.schedule(optimizer.OptimizerConfig(learning_rate=1.0, warmup_steps=1000), 5)
  assert float(rate(4)) == 1.0
  assert float(optimizer.schedule(optimizer.OptimizerConfig(learning_rate=1.0), 1)(0)) == 1.0


@pytest.mark.parametrize('change', [{'learning_rate': -1.0}, {'ema_decay': 1.0}, {'clip_norm': -1.0},
                                    {'learning_rate': float('nan')}, {'weight_decay': float('inf')}])
def test_optimizer_settings_out_of_range_are_named(change):
  with pytest.raises(ValueError, match=next(iter(change))):
    optimizer.OptimizerConfig(**change)


def test_adafactor_keeps_rows_and_columns():
  params = {'kernel': jnp.linspace(-1, 1, 12).reshape(3, 4), 'bias': jnp.ones(4)}
  large = {'kernel': jnp.zeros((256, 512)), 'bias': jnp.zeros(3)}
  adam, small = (optimizer.build(optimizer.OptimizerConfig(kind=kind), 10).init(large)
                 for kind in ('adam', 'adafactor'))
  assert count(adam) > 2 * 256 * 512 and count(small) < 2000
  mesh = sharding.make_mesh((1, 1, 1))
  assert jax.tree.structure(sharding.shardings(small, mesh)) == jax.tree.structure(small)
  transform = optimizer.build(optimizer.OptimizerConfig(kind='adafactor', learning_rate=0.1, warmup_steps=0), 10)
  moments = transform.init(params)
  target = jax.tree.map(lambda p: p + 0.5, params)
  first = sum(jnp.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True))
  for _ in range(8):
    gradient = jax.tree.map(lambda p, t: p - t, params, target)
    updates, moments = transform.update(gradient, moments, params)
    params = jax.tree.map(jnp.add, params, updates)
  last = sum(jnp.sum((p - t) ** 2) for p, t in zip(jax.tree.leaves(params), jax.tree.leaves(target), strict=True))
  assert last < 0.3 * first


@pytest.mark.parametrize('kind', ['adam', 'adafactor'])
def test_stacked_layers_are_updated_as_layers_of_their_own(kind):
  """Also where Adafactor factors moments and clips, and where biases do not decay."""
  config = optimizer.OptimizerConfig(kind=kind, learning_rate=0.1, warmup_steps=0, weight_decay=0.1, clip_norm=0.0)
  keys = jax.random.split(jax.random.key(0), 4)
  stack, grads = ({'kernel': jax.random.normal(a, (3, 130, 140)), 'bias': jax.random.normal(b, (3, 140))}
                  for a, b in (keys[:2], keys[2:]))
  grads = jax.tree.map(lambda leaf: leaf * jnp.array([1e-3, 1.0, 50.0]).reshape(-1, *[1] * (leaf.ndim - 1)), grads)
  apart = [{str(i): jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(3)} for tree in (stack, grads)]
  moved = []
  for params, gradients in (({'layers': {'stacked': stack}}, {'layers': {'stacked': grads}}),
                            ({'layers': apart[0]}, {'layers': apart[1]})):
    transform = optimizer.build(config, 10)
    moments = transform.init(params)
    for _ in range(2):
      updates, moments = transform.update(gradients, moments, params)
      params = jax.tree.map(jnp.add, params, updates)
    moved.append(params['layers'])
  for i in range(3):
    for name, value in moved[1][str(i)].items():
      np.testing.assert_allclose(moved[0]['stacked'][name][i], value, rtol=1e-5)
