"""The table of RT-2's presets in docs/rt2.md: sizes from shapes alone, speed where this machine can hold the network.

  python bench/rt2_table.py                                     parameters, tokens, arithmetic, memory
  python bench/rt2_table.py --measure --presets rt2_tabletop    times of a training step and of a policy's
  python bench/rt2_table.py --measure --presets rt2_5b --batch-size 1 --dtype float32 --trainable lora

Lines of JSON. FLOPs are XLA's count for one window (and, of `train_gflop`, nothing beside it): the
forward pass of an action with heads, and a whole training step. Memory is that of parameters, gradients and optimizer
state in float32, without activations.
"""
import dataclasses
import functools
import json
import time
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from machine import describe, device_memory, matmul_gflops

from rtjax import configs, models
from rtjax.models import RT2Config
from rtjax.models.layers.lora import LoraConfig
from rtjax.policies.policy import BatchPolicy
from rtjax.runtime import compiler, malloc
from rtjax.training import optimizer as optimizers
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig
from rtjax.training.state import count, create, split
from rtjax.training.step import train_step

Kind = Literal['adam', 'adafactor']
Dtype = Literal['float32', 'bfloat16']
Trainable = Literal['full', 'decoder', 'lora']
PRESETS = ('rt2', 'rt2_tabletop', 'rt2_5b')


def batch(config: RT2Config, size: int) -> dict[str, np.ndarray]:
  """Windows of noise."""
  random, lead = np.random.default_rng(0), (size, config.window)
  states = {'proprioception': np.zeros((*lead, config.proprioception_size), np.float32)}
  return (states if config.proprioception_size else {}) | {
      'images': random.integers(0, 256, (*lead, *config.vision.image_size, 3), dtype=np.uint8),
      'embeddings': random.integers(2, 100, (size, config.prompt_length)).astype(np.float32),
      'waypoints': np.zeros((*lead, 3), np.float32),
      'actions': np.zeros((*lead, 1, config.action_spec.size), np.float32), 'mask': np.ones((*lead, 1), bool),
      'frames': np.ones(lead, bool)}


@functools.cache
def abstract(config: RT2Config) -> Any:
  return models.abstract(config)


def stepper(config: TrainConfig) -> tuple[Any, Any]:
  """The train step, and the function that makes its first state of a network's trees."""
  optimizer = optimizers.build(config.optimizer, config.steps)
  graphdef, *_ = split(abstract(config.model), config.trains)
  step = jax.jit(functools.partial(train_step, graphdef=graphdef, optimizer=optimizer), donate_argnums=0,
                 compiler_options=compiler.options())
  return step, lambda *trees: create(*trees, jax.random.key(0), optimizer=optimizer, ema=False)


def gigabytes(config: TrainConfig) -> float:
  """Parameters, gradients of those that are trained, and optimizer state."""
  _, params, stats, constants = split(abstract(config.model), config.trains)
  state = jax.eval_shape(stepper(config)[1], params, stats, constants)
  return 4 * (count(params) + count((state.params, state.constants, state.opt_state))) / 1e9


def _gflop(function: Any, *inputs: Any) -> float:
  return round(function.lower(*inputs).cost_analysis()['flops'] / 1e9, 2)


def size(name: str) -> dict[str, Any]:
  preset = configs.get(name)
  config = dataclasses.replace(preset.model, dtype='float32', remat=False)
  plain = dataclasses.replace(preset, model=config, trainable='full')
  model = abstract(config)
  graphdef, variables = nnx.split(model)
  inputs = jax.eval_shape(lambda: {k: jnp.asarray(v) for k, v in batch(config, 1).items()})
  act = jax.jit(lambda values, *inputs: nnx.merge(graphdef, values).apply(*inputs))
  step, start = stepper(plain)
  state = jax.eval_shape(start, *split(model)[1:])
  adam, adafactor = OptimizerConfig(), OptimizerConfig(kind='adafactor')
  adapted = dataclasses.replace(config, lora=LoraConfig(rank=16))
  return {
      'parameters': count(nnx.state(model, nnx.Param)),
      'tokens': [config.vision.tokens * config.window, config.prompt_length, config.action_spec.num_tokens],
      'act_gflop': _gflop(act, variables, inputs['images'], inputs['embeddings'], inputs.get('proprioception')),
      'train_gflop': _gflop(step, state, inputs),
      'adam_gb': round(gigabytes(dataclasses.replace(plain, optimizer=adam)), 3),
      'adafactor_gb': round(gigabytes(dataclasses.replace(plain, optimizer=adafactor)), 3),
      'decoder_gb': round(gigabytes(dataclasses.replace(plain, optimizer=adam, trainable='decoder')), 3),
      'lora_gb': round(gigabytes(dataclasses.replace(plain, model=adapted, optimizer=adam, trainable='lora')), 3)}


def median(function: Any, times: int) -> float:
  """Seconds of a call, the first one, which compiles, left out."""
  found = []
  for _ in range(times + 1):
    start = time.perf_counter()
    function()
    found.append(time.perf_counter() - start)
  return round(float(np.median(found[1:])), 4)


def filled(config: RT2Config) -> Any:
  """A network of zeros: as fast as any, and no memory but its own is needed to make it."""
  graphdef, variables = nnx.split(abstract(config))
  return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables))


def speed(preset: TrainConfig, steps: int) -> Iterator[dict[str, Any]]:
  """One after the other, as the last may not fit."""
  yield {'dtype': preset.model.dtype, 'optimizer': preset.optimizer.kind, 'trainable': preset.trainable,
         'matmul_gflops': round(matmul_gflops(preset.model.dtype)), **describe()}
  step, start = stepper(preset)
  state = start(*split(filled(preset.model), preset.trains)[1:])
  windows = jax.device_put(batch(preset.model, preset.batch_size))

  def train() -> None:
    nonlocal state
    state, out = step(state, windows)
    float(out['loss'])

  yield {'batch_size': preset.batch_size, 'train_step_s': median(train, steps), **device_memory()}
  del state  # room for the policies
  ids = tuple(range(3, 3 + preset.model.action_spec.vocab_size))
  ways: tuple[Literal['heads', 'text'], ...] = ('heads', 'text')
  for act in ways:
    plain = {'smoothing': 0.0, 'decoding': 'argmax'} if act == 'text' else {}  # these are for heads
    config = dataclasses.replace(preset.model, act=act, action_ids=ids, lora=LoraConfig(), **plain)
    policy = BatchPolicy(filled(config), 1)
    seen = batch(config, 1)
    policy.reset(0, embedding=seen['embeddings'][0])
    states = seen['proprioception'][:, -1] if config.proprioception_size else None
    see = functools.partial(policy.step, seen['images'][:, -1], proprioception=states)
    yield {f'{act}_step_s': median(see, 2 * steps)}
    del policy, see


def variant(name: str, batch_size: int, dtype: Dtype | None, trainable: Trainable | None, optimizer: Kind | None
            ) -> TrainConfig:
  """A preset with what is given; adapters have the rank of the table."""
  preset = configs.get(name)
  model = dataclasses.replace(preset.model, dtype=dtype or preset.model.dtype,
                              lora=LoraConfig(rank=16 if trainable == 'lora' else 0))
  return dataclasses.replace(
      preset, model=model, batch_size=batch_size or preset.batch_size, trainable=trainable or preset.trainable,
      optimizer=dataclasses.replace(preset.optimizer, kind=optimizer or preset.optimizer.kind))


def main(presets: tuple[str, ...] = PRESETS, measure: bool = False, steps: int = 5, batch_size: int = 0,
         dtype: Dtype | None = None, trainable: Trainable | None = None, optimizer: Kind | None = None) -> None:
  """Prints the lines.

  Args:
    presets: of which.
    measure: times in place of sizes; what follows is for these.
    steps: training steps timed; of a policy's twice as many.
    batch_size: windows of a training step, 0 = the preset's.
    dtype: of the arithmetic, None = the preset's.
    trainable: what the training step moves, None = the preset's.
    optimizer: of the training step, None = the preset's.
  """
  malloc.keep()
  for name in presets:
    if not measure:
      print(json.dumps({'preset': name} | size(name)), flush=True)
      continue
    for found in speed(variant(name, batch_size, dtype, trainable, optimizer), steps):
      print(json.dumps({'preset': name} | found), flush=True)


if __name__ == '__main__':
  tyro.cli(main)
