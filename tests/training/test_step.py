import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import tiny_rt2, tiny_training

from rtjax import models
from rtjax.models.parameters import named_leaves
from rtjax.observation import Batch
from rtjax.training import optimizer, state
from rtjax.training.step import eval_step, train_step


@functools.cache
def built(config):
  return state.split(models.build(config, seed=0))


SGD, ADAM = optax.sgd(1.0), optimizer.build(optimizer.OptimizerConfig(), 10)
compiled = jax.jit(train_step, static_argnames=(
    'graphdef', 'optimizer', 'grad_accum_steps', 'ema_decay', 'augment', 'text_loss_weight'))
TINY = tiny_training.TinyConfig()


def start(config=TINY, transform=SGD, ema=False):
  graphdef, *trees = built(config)
  first = state.create(*trees, jax.random.key(1), optimizer=transform, ema=ema)
  return first, functools.partial(compiled, graphdef=graphdef, optimizer=transform)


def device_batch(size, config=TINY):
  return jax.device_put(tiny_training.batch(0, size, config))


def assert_equal(one, other, **kwargs):
  named = named_leaves(other)
  for name, leaf in named_leaves(one).items():
    np.testing.assert_allclose(leaf, named[name], err_msg=name, **kwargs)


def test_split_and_merge_are_inverse_and_names_are_plain():
  model = models.build(tiny_training.TinyConfig(), seed=0)
  batch = tiny_training.batch(0, 3)
  graphdef, params, batch_stats, constants = state.split(model)
  merged = state.merge(graphdef, params, batch_stats, constants)
  inputs = batch.observation.images, batch.observation.instruction
  np.testing.assert_array_equal(merged(*inputs), model(*inputs))
  assert {'layers/0/kernel', 'layers/1/bias', 'norm/scale', 'output/kernel'} <= set(named_leaves(params))
  assert set(named_leaves(batch_stats)) == {'norm/mean', 'norm/var'}
  assert set(named_leaves(constants)) == {'shift'}


def test_a_model_with_random_number_generators_is_refused():
  class Noisy(nnx.Module):
    def __init__(self):
      self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
  with pytest.raises(ValueError, match='Noisy holds random number generators'):
    state.split(Noisy())


@pytest.mark.parametrize('parts', [2, 8])
def test_accumulated_gradient_is_the_gradient_of_the_complete_batch(parts):
  # SGD with a rate of one: the update is the gradient. Parts differ in how many targets count.
  config = tiny_training.TinyConfig(batch_norm=False, dropout=0.0)
  first, step = start(config)
  batch = device_batch(16)
  batch = dataclasses.replace(batch, action_mask=batch.action_mask.at[3::2].set(False))
  complete, complete_outputs = step(first, batch)
  accumulated, outputs = step(first, batch, grad_accum_steps=parts)
  assert_equal(complete.params, accumulated.params, rtol=1e-5, atol=1e-6)
  for name in ('loss', 'grad_norm'):
    np.testing.assert_allclose(outputs[name], complete_outputs[name], rtol=1e-5)
  np.testing.assert_allclose(outputs['metrics']['accuracy'], complete_outputs['metrics']['accuracy'])
  moved = jax.tree.map(lambda a, b: np.any(a != b), first.params, complete.params)
  assert any(jax.tree.leaves(moved))


def test_accumulation_moves_batch_statistics_once_per_part():
  first, step = start(tiny_training.TinyConfig(dropout=0.0))
  batch = device_batch(8)
  by_hand = first.batch_stats
  graphdef = step.keywords['graphdef']
  for i in range(2):
    model = state.merge(graphdef, first.params, by_hand, first.constants)
    model.loss(jax.tree.map(lambda leaf, i=i: leaf[i::2], batch), train=True, rngs=nnx.Rngs(0))
    by_hand = state.batch_stats_of(model)
  assert_equal(step(first, batch, grad_accum_steps=2)[0].batch_stats, by_hand, rtol=1e-5, atol=1e-9)


def test_loss_scale_multiplies_loss_and_gradient(monkeypatch):
  first, step = start()
  batch = device_batch(8)
  plain, outputs = step(first, batch)
  monkeypatch.setattr(tiny_training.TinyModel, 'loss_scale', lambda self, size: 1 / size)
  traced_again = jax.jit(functools.partial(train_step, **step.keywords))
  scaled, scaled_outputs = traced_again(first, batch)
  np.testing.assert_allclose(scaled_outputs['loss'] * 8, outputs['loss'], rtol=1e-6)
  moved, moved_scaled = (jax.tree.map(jnp.subtract, s.params, first.params) for s in (plain, scaled))
  assert_equal(jax.tree.map(lambda x: x * 8, moved_scaled), moved, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(value):
  first, step = start(transform=ADAM, ema=True)
  batch = device_batch(8)
  first, _ = step(first, batch, ema_decay=0.9)
  broken = dataclasses.replace(batch.observation, instruction=batch.observation.instruction.at[0, 0, 0].set(value))
  batch = dataclasses.replace(batch, observation=broken)
  after, outputs = step(first, batch, ema_decay=0.9)
  assert not outputs['finite']
  assert int(after.step) == int(first.step) + 1
  assert_equal(dataclasses.replace(after, step=first.step, rng=None), dataclasses.replace(first, rng=None), rtol=0)


def test_a_batch_without_targets_has_no_loss_and_no_gradient():
  first, step = start()
  batch = device_batch(4)
  batch = dataclasses.replace(batch, action_mask=jnp.zeros_like(batch.action_mask))
  after, outputs = step(first, batch)
  assert outputs['finite'] and outputs['loss'] == 0 and outputs['grad_norm'] == 0
  assert_equal(after.params, first.params, rtol=0)


def test_random_numbers_follow_from_the_state_and_the_step():
  first, step = start(tiny_training.TinyConfig(dropout=0.5))
  batch = device_batch(8)
  loss = float(step(first, batch)[1]['loss'])
  assert loss == float(step(first, batch)[1]['loss'])
  assert loss != float(step(dataclasses.replace(first, step=first.step + 1), batch)[1]['loss'])
  assert loss != float(step(dataclasses.replace(first, rng=jax.random.key(2)), batch)[1]['loss'])


def test_augmentation_has_a_key_for_each_part_and_step():
  keys = []
  first, step = start()
  def note(part, key):
    jax.debug.callback(lambda k: keys.append(tuple(np.asarray(k))), jax.random.key_data(key))
    return part
  for _ in range(2):
    first, _ = step(first, device_batch(8), grad_accum_steps=2, augment=note)
  jax.effects_barrier()
  assert len(set(keys)) == 4


def test_moving_average_and_validation_with_it():
  first, step = start(ema=True)
  batch = device_batch(8)
  second, _ = step(first, batch, ema_decay=0.9)
  # Step 0: the decay is the smaller one of 0.9 and 1 / 10.
  expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, first.params, second.params)
  assert_equal(second.ema, expected, rtol=1e-5, atol=1e-6)
  graphdef = step.keywords['graphdef']
  evaluated = eval_step(second, batch, graphdef=graphdef)
  by_average = eval_step(dataclasses.replace(second, params=second.ema, ema=None), batch, graphdef=graphdef)
  by_params = eval_step(dataclasses.replace(second, ema=None), batch, graphdef=graphdef)
  assert float(evaluated.total) == float(by_average.total) != float(by_params.total)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
  batch = device_batch(8)
  losses = {}
  for dtype in ('float32', 'bfloat16'):
    first, step = start(tiny_training.TinyConfig(dtype=dtype, dropout=0.0))
    after, outputs = step(first, batch)
    losses[dtype] = float(outputs['loss'])
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {jnp.dtype('float32')}
  assert losses['float32'] != losses['bfloat16']
  np.testing.assert_allclose(losses['float32'], losses['bfloat16'], rtol=2e-2)


def co_training_step(model, batch, weight, grad_accum_steps=1):
  first, _ = start(model)
  step = functools.partial(compiled, graphdef=built(model)[0], optimizer=SGD, text_loss_weight=weight)
  after, outputs = step(first, batch, grad_accum_steps=grad_accum_steps)
  return jax.tree.map(lambda a, b: a - b, first.params, after.params), outputs


@pytest.mark.parametrize('model, parts', [
    pytest.param(tiny_rt2.TINY, 1, id='classifier'),
    pytest.param(tiny_rt2.TEXT, 2, id='text', marks=pytest.mark.slow)])
def test_the_losses_are_weighted_as_configured(model, parts):
  """The gradients of actions and texts add up, in any number of parts."""
  robots = tiny_rt2.robot_batch(model, 4)
  mask = robots.action_mask.copy()
  mask[0] = False  # one that does not count
  robots = dataclasses.replace(robots, action_mask=mask)
  text = dataclasses.replace(tiny_rt2.text_batch(model, 8), weights=None)
  actions, action_row = co_training_step(model, robots, 0.1)
  language, text_row = co_training_step(model, Batch(text=text), 0.1)
  both, row = co_training_step(model, dataclasses.replace(robots, text=text), 0.1, parts)
  np.testing.assert_allclose(row['loss'], action_row['loss'] + 0.1 * text_row['loss'], rtol=1e-5)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-6), both,
               jax.tree.map(lambda a, t: a + 0.1 * t, actions, language))
