"""Memory of a training step: the estimate against XLA's own, and the message before compiling."""
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_training

from rtjax.training import loop, memory, sharding

F32 = jax.ShapeDtypeStruct((1000,), jnp.float32)


@pytest.mark.parametrize(('function', 'arrays'), [
    (lambda x: x + 1, 2), (lambda x: (x + 1) * 2, 2), (lambda x: jnp.sin(x) * jnp.cos(x), 3),
    (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * 2, x), 2),
    (lambda x: jax.jit(lambda y: jnp.sin(y) * jnp.cos(y))(x), 3)])
def test_most_bytes_at_once(function, arrays):
  found = memory.peak_bytes(jax.make_jaxpr(function)(F32).jaxpr)
  assert arrays * 4000 <= found < arrays * 4000 + 100


def test_estimate_of_a_deep_network_is_near_that_of_xla():
  def loss(weights, x):
    for weight in weights:
      x = jnp.tanh(x @ weight)
    return jnp.sum(x ** 2)
  shapes = [jax.ShapeDtypeStruct((64, 64), jnp.float32)] * 10, jax.ShapeDtypeStruct((2048, 64), jnp.float32)
  traced = jax.jit(jax.grad(loss)).trace(*shapes)
  xla = traced.lower().compile().memory_analysis()
  bytes_of_xla = xla.temp_size_in_bytes + xla.argument_size_in_bytes + xla.output_size_in_bytes
  assert 1 <= memory.peak_bytes(traced.jaxpr.jaxpr) / bytes_of_xla < 2


def test_a_run_without_memory_stops_before_it_starts(tmp_path, monkeypatch):
  config = tiny_training.config(tmp_path / 'run')
  monkeypatch.setattr(memory, '_limit', lambda device: 1e5)
  monkeypatch.setattr(loop, '_initial_state', lambda *_: pytest.fail('the check comes first'))
  with pytest.raises(ValueError, match=r'batch_size 16 in 1 part\(s\) needs .* GB of memory.*--batch-size.*my_robot'):
    loop.train(config, data=tiny_training.data())


@pytest.mark.parametrize(('limit', 'parts'), [(10e6, 4), (4e6, 8)])
def test_the_message_names_the_number_of_parts_that_fits(limit, parts, monkeypatch):
  jaxpr = jax.make_jaxpr(lambda x: (x + 1) * 2)(jax.ShapeDtypeStruct((64, 50_000), jnp.float32)).jaxpr  # 25.6 MB
  monkeypatch.setattr(memory, '_limit', lambda device: limit)
  mesh = sharding.make_mesh((1, 1, 1))
  with pytest.raises(ValueError, match=f'--grad-accum-steps {parts} '):
    memory.require_memory(jaxpr, {}, 64, 1, mesh)


def test_a_step_that_may_not_fit_warns_and_one_that_fits_does_not(monkeypatch, recwarn):
  jaxpr = jax.make_jaxpr(lambda x: x + 1)(F32).jaxpr
  mesh = sharding.make_mesh((1, 1, 1))
  monkeypatch.setattr(memory, '_limit', lambda device: 9000)
  memory.require_memory(jaxpr, {}, 4, 1, mesh)
  assert not recwarn
  monkeypatch.setattr(memory, '_limit', lambda device: 7000)
  with pytest.warns(UserWarning, match='may not suffice'):
    memory.require_memory(jaxpr, {}, 4, 1, mesh)


def test_memory_of_this_machine_and_of_a_container(tmp_path, monkeypatch):
  cpu = types.SimpleNamespace(platform='cpu')
  limits = [tmp_path / 'max', tmp_path / 'absent']
  monkeypatch.setattr(memory, '_CGROUP', limits)
  limits[0].write_text('max\n')
  unlimited = memory._limit(cpu)
  limits[0].write_text('1000000\n')
  assert memory._limit(cpu) == 1_000_000 and (unlimited is None or unlimited > 2 ** 28)
  gpu = types.SimpleNamespace(platform='gpu', memory_stats=lambda: {'bytes_limit': np.int64(5)})
  assert memory._limit(gpu) == 5
