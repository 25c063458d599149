"""Training and policy steps on noise, which benchmarks time."""
import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rtjax import models
from rtjax.models import PolicyConfig, PolicyModel, RT2Config
from rtjax.observation import Batch, Observation
from rtjax.policies.policy import BatchPolicy
from rtjax.runtime import compiler
from rtjax.training import optimizer as optimizers
from rtjax.training.config import TrainConfig
from rtjax.training.state import create, split
from rtjax.training.step import train_step

CAMERA = (256, 320)


def random_batch(config: PolicyConfig, size: int) -> Batch:
  """Return windows of noise, as a camera of 256x320 would give them."""
  random, lead = np.random.default_rng(0), (size, config.window)
  camera = CAMERA if not isinstance(config, RT2Config) else config.image_size
  state = random.normal(size=(*lead, config.proprioception_size)).astype(np.float32)
  prompted = isinstance(config, RT2Config)
  observation = Observation(
      random.integers(0, 256, (*lead, *camera, 3), dtype=np.uint8), np.ones(lead, bool),
      instruction=None if prompted else random.normal(size=(size, config.instruction_size)).astype(np.float32),
      prompt=random.integers(2, 100, (size, config.instruction_size)).astype(np.int32) if prompted else None,
      proprioception=state if config.proprioception_size else None)
  actions = random.uniform(-0.5, 0.5, (*lead, 1, config.action_spec.size)).astype(np.float32)
  return Batch(observation, actions, np.ones((*lead, 1), bool), np.zeros((*lead, 3), np.float32))


def random_model(config: PolicyConfig) -> PolicyModel:
  """Return a network of small random numbers, drawn on the device."""
  abstract = models.abstract(config)
  graphdef, variables = nnx.split(abstract)
  leaves, structure = jax.tree.flatten(variables)

  def draw() -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(0), len(leaves))
    # Vectors are scales, variances and biases: positive numbers near one are safe for each.
    return [0.02 * jax.random.normal(key, leaf.shape, leaf.dtype) if leaf.ndim > 1 else jnp.ones(leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)]
  return nnx.merge(graphdef, jax.tree.unflatten(structure, jax.jit(draw)()))


class TrainingStep:
  """Compiled training step; a call takes a step and returns the loss.

  Attributes:
    compiled: XLA's program.
    compile_s: seconds of tracing and compiling.
  """

  def __init__(self, config: TrainConfig, model: PolicyModel):
    optimizer = optimizers.build(config.optimizer, config.steps)
    graphdef, *trees = split(model, config.is_trainable)
    self._state = create(*trees, jax.random.key(0), optimizer=optimizer, ema=False)
    self._batch = jax.device_put(random_batch(config.model, config.batch_size))
    step = functools.partial(train_step, graphdef=graphdef, optimizer=optimizer,
                             grad_accum_steps=config.grad_accum_steps)
    start = time.perf_counter()
    self.compiled = jax.jit(step, donate_argnums=0, compiler_options=compiler.options()).lower(
        self._state, self._batch).compile()
    self.compile_s = round(time.perf_counter() - start, 1)

  def __call__(self) -> float:
    self._state, out = self.compiled(self._state, self._batch)
    return float(out['loss'])


def policy_step(model: PolicyModel, robots: int = 1) -> Callable[[], Any]:
  """Return a policy's step on noise, from host to host."""
  policy, batch = BatchPolicy(model, robots), random_batch(model.config, 1).observation
  for slot in range(robots):
    policy.reset(slot, embedding=(batch.instruction if batch.prompt is None else batch.prompt)[0])
  images = np.random.default_rng(0).integers(0, 256, (8, robots, *batch.images.shape[2:]), dtype=np.uint8)
  states = None if batch.proprioception is None else np.repeat(batch.proprioception[:, -1], robots, 0)
  return lambda: policy.step(images[np.random.randint(8)], proprioception=states)


def seconds(function: Callable[[], Any], times: int) -> list[float]:
  """Return the seconds of each call."""
  found = []
  for _ in range(times):
    start = time.perf_counter()
    function()
    found.append(time.perf_counter() - start)
  return found


def model_flops(config: TrainConfig) -> float:
  """Return FLOPs of a training step per window, without recomputation."""
  optimizer = optimizers.build(config.optimizer, config.steps)
  model = dataclasses.replace(config.model, remat=False) if hasattr(config.model, 'remat') else config.model
  graphdef, *trees = split(models.abstract(model), config.is_trainable)
  state = jax.eval_shape(lambda *trees: create(*trees, jax.random.key(0), optimizer=optimizer, ema=False), *trees)
  batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, random_batch(model, 1)))
  step = jax.jit(functools.partial(train_step, graphdef=graphdef, optimizer=optimizer))
  return cost(step.lower(state, batch))['flops']


def cost(stage: Any) -> dict[str, float]:
  """Return XLA's count of operations and bytes of a program."""
  analysis = stage.cost_analysis()
  return analysis[0] if isinstance(analysis, list) else analysis or {}
