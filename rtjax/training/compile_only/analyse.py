"""Compilation of a training step for devices that are not there."""
import dataclasses
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from rtjax import models
from rtjax.observation import Batch, Observation, TextBatch
from rtjax.training import lineage, loop, sharding
from rtjax.training import optimizer as optimizers
from rtjax.training.compile_only.devices import CHIPS, devices
from rtjax.training.compile_only.program import LeastSeconds, Program
from rtjax.training.compile_only.report import Report
from rtjax.training.config import TrainConfig
from rtjax.training.state import TrainState

CAMERA = (256, 320)
"""Height and width of images where `pipeline.image_size` sets none, those of RT-1's robots."""


def analyse(config: TrainConfig, target: str) -> Report:
  """Compile a training step and return its memory and work.

  Call it before any use of a device.

  Args:
    target: TPU:TOPOLOGY such as v5e:4x4 or v5p:2x2x4, or cpu:N, N simulated devices.

  Raises:
    ValueError: there are no such devices, libtpu is missing, or the step is impossible.
  """
  if config.distillation and config.distillation.teacher:
    raise ValueError('--compile-only compiles no teacher: leave out --distillation.teacher.')
  mesh = sharding.make_mesh(config.mesh.shape, devices(target))
  sharding.check_batch(config.batch_size, config.grad_accum_steps, mesh)
  if not config.text_data:
    config = dataclasses.replace(config, data=config.data or ('robot episodes',))
  model = lineage.with_backbone(config, weights=False).with_placeholders()
  config = dataclasses.replace(config, model=model)
  optimizer = optimizers.build(config.optimizer, config.steps)
  graphdef, state = loop.target_state(config, models.abstract(model), optimizer, mesh)
  step, _ = loop.training_step(config, graphdef, optimizer, state, mesh)
  batch = abstract_batch(config, mesh)
  start = time.perf_counter()
  lowered = step.lower(state, batch)
  memory = argument_bytes(state, batch)
  axes = sharding.layout(mesh)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    memory['temporary'] = _refused_bytes(str(error))
    return Report(config, target, axes, memory, [], None, time.perf_counter() - start)
  found = compiled.memory_analysis()
  memory['temporary'] = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
  memory['program'] = found.generated_code_size_in_bytes
  program, seconds = Program(compiled.as_text()), time.perf_counter() - start
  return Report(config, target, axes, memory, program.live_at_peak(), program.cost(_rates(target)), seconds)


def _rates(target: str) -> LeastSeconds:
  chip = CHIPS.get(target.split(':')[0])
  return (lambda flops, size: max(flops / chip.flops, size / chip.hbm_rate)) if chip else lambda flops, size: 0.0


def abstract_batch(config: TrainConfig, mesh: Mesh) -> Batch:
  """Return shapes, types and shardings of a training batch."""
  c, size = config.model, config.batch_size
  sharding_of_batch = NamedSharding(mesh, sharding.batch_spec(mesh))

  def array(kind: Any, *shape: int) -> Any:
    return jax.ShapeDtypeStruct((size, *shape), kind, sharding=sharding_of_batch)

  text = None
  if config.text_data:
    assert config.text is not None
    windows, size = size, config.text.batch_size if config.data else size
    text = TextBatch(array(jnp.uint8, *c.image_size, 3), array(jnp.int32, c.prompt_length),
                     array(jnp.int32, c.answer_length), array(jnp.int32), array(jnp.int32, 2), array(jnp.int32))
    size = windows
  if not config.data:
    return Batch(text=text)
  views = (c.views,) if c.views > 1 else ()
  camera = config.pipeline.image_size or CAMERA
  observation = Observation(
      array(jnp.uint8, c.window, *views, *camera, 3), array(jnp.bool_, c.window, *views),
      instruction=None if c.reads_prompts else array(jnp.float32, c.window, c.instruction_size),
      prompt=array(jnp.int32, c.prompt_length) if c.reads_prompts else None,
      proprioception=array(jnp.float32, c.window, c.proprioception_size) if c.proprioception_size else None)
  return Batch(observation, array(jnp.float32, c.window, c.horizon, c.action_spec.size),
               array(jnp.bool_, c.window, c.horizon),
               array(jnp.float32, c.window, 3) if config.pipeline.waypoints else None, text=text)


def argument_bytes(state: TrainState, batch: Batch) -> dict[str, float]:
  """Return the bytes of a step's arguments on one device, by kind."""
  kinds = {'parameters': (state.params, state.constants), 'optimizer': state.opt_state,
           'moving averages': (state.ema, state.batch_stats), 'batch': batch}
  return {kind: sum(map(_shard_bytes, jax.tree.leaves(tree))) for kind, tree in kinds.items()}


def _shard_bytes(leaf: Any) -> float:
  return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def _refused_bytes(message: str) -> float:
  """Return the temporary bytes of a program that was refused."""
  match = re.search(r'temporaries \(([\d.]+)G\) exceeds available HBM', message)
  if not match:
    raise ValueError(f'the step does not compile: {message.splitlines()[0][:500]}')
  return float(match[1]) * 2 ** 30
