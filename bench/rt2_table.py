"""Sizes of RT-2's presets from shapes alone, and their speed.

  python bench/rt2_table.py                                     parameters, tokens, arithmetic, memory
  python bench/rt2_table.py --measure --presets rt2_tabletop    times of a training step and of a policy step
  python bench/rt2_table.py --measure --presets rt2_5b --batch-size 1 --dtype float32 --trainable lora

Prints lines of JSON. FLOPs are XLA's count for one window: the forward pass of an action with classifiers, and a
training step on recorded actions alone. Memory is that of parameters, gradients and optimizer state in float32, without
activations.
"""
import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from machine import describe, device_memory, matmul_gflops

from rtjax import configs, models
from rtjax.models import RT2, RT2Config
from rtjax.models.layers.lora import LoraConfig
from rtjax.models.parameters import count
from rtjax.observation import Batch, Observation
from rtjax.policies.policy import BatchPolicy
from rtjax.runtime import compiler, malloc
from rtjax.training import optimizer as optimizers
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig
from rtjax.training.state import TrainState, create, split
from rtjax.training.step import train_step

OptimizerKind = Literal['adam', 'adafactor']
Dtype = Literal['float32', 'bfloat16']
Trainable = Literal['full', 'decoder', 'lora']
PRESETS = ('rt2', 'rt2_tabletop', 'rt2_5b')


def noise(config: RT2Config, size: int) -> Batch:
  """Return windows of noise."""
  random, lead = np.random.default_rng(0), (size, config.window)
  state = np.zeros((*lead, config.proprioception_size), np.float32) if config.proprioception_size else None
  observation = Observation(
      random.integers(0, 256, (*lead, *config.image_size, 3), dtype=np.uint8), np.ones(lead, bool),
      prompt=random.integers(2, 100, (size, config.prompt_length)).astype(np.int32), proprioception=state)
  actions = np.zeros((*lead, 1, config.action_spec.size), np.float32)
  return Batch(observation, actions, np.ones((*lead, 1), bool), np.zeros((*lead, 3), np.float32))


@functools.cache
def abstract(config: RT2Config) -> RT2:
  return models.abstract(config)


def stepper(config: TrainConfig) -> tuple[Callable[..., Any], Callable[..., TrainState]]:
  """Return the training step, and the function that makes its first state."""
  optimizer = optimizers.build(config.optimizer, config.steps)
  graphdef, *_ = split(abstract(config.model), config.is_trainable)
  step = jax.jit(functools.partial(train_step, graphdef=graphdef, optimizer=optimizer), donate_argnums=0,
                 compiler_options=compiler.options())
  return step, lambda *trees: create(*trees, jax.random.key(0), optimizer=optimizer, ema=False)


def gigabytes(config: TrainConfig) -> float:
  """Return the size of parameters, gradients and optimizer state."""
  _, params, stats, constants = split(abstract(config.model), config.is_trainable)
  state = jax.eval_shape(stepper(config)[1], params, stats, constants)
  return 4 * (count(params) + count((state.params, state.constants, state.opt_state))) / 1e9


def _gflop(function: Any, *inputs: Any) -> float:
  return round(function.lower(*inputs).cost_analysis()['flops'] / 1e9, 2)


def size(name: str) -> dict[str, Any]:
  """Return parameters, tokens, arithmetic and memory of a preset."""
  preset = configs.get(name)
  config = dataclasses.replace(preset.model, action_head='classifier', dtype='float32', remat=False)
  plain = _with(preset, model=config, trainable='full')
  graphdef, variables = nnx.split(abstract(config))
  batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, noise(config, 1)))
  act = jax.jit(lambda values, observation: nnx.merge(graphdef, values).logits(observation))
  step, start = stepper(plain)
  state = jax.eval_shape(start, *split(abstract(config))[1:])
  adam, adafactor = OptimizerConfig(), OptimizerConfig(kind='adafactor')
  adapted = dataclasses.replace(config, lora=LoraConfig(rank=16))
  return {
      'parameters': count(nnx.state(abstract(config), nnx.Param)),
      'tokens': [config.backbone.image_tokens * config.window, config.prompt_length, config.action_spec.num_tokens],
      'act_gflop': _gflop(act, variables, batch.observation),
      'train_gflop': _gflop(step, state, batch),
      'adam_gb': round(gigabytes(_with(plain, optimizer=adam)), 3),
      'adafactor_gb': round(gigabytes(_with(plain, optimizer=adafactor)), 3),
      'decoder_gb': round(gigabytes(_with(plain, optimizer=adam, trainable='decoder')), 3),
      'lora_gb': round(gigabytes(_with(plain, model=adapted, optimizer=adam, trainable='lora')), 3)}


def _with(preset: TrainConfig, *, trainable: Trainable | None = None, **changes: Any) -> TrainConfig:
  init = dataclasses.replace(preset.init, trainable=trainable) if trainable else preset.init
  return dataclasses.replace(preset, init=init, **changes)


def median(function: Callable[[], Any], times: int) -> float:
  """Return the seconds of a call, without the first one, which compiles."""
  seconds = []
  for _ in range(times + 1):
    start = time.perf_counter()
    function()
    seconds.append(time.perf_counter() - start)
  return round(float(np.median(seconds[1:])), 4)


def zeros(config: RT2Config) -> RT2:
  """Return a network of zeros, made without extra memory."""
  graphdef, variables = nnx.split(abstract(config))
  return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables))


def speed(preset: TrainConfig, steps: int) -> Iterator[dict[str, Any]]:
  """Yield times one by one, since the last network may not fit."""
  yield {'dtype': preset.model.dtype, 'optimizer': preset.optimizer.kind, 'trainable': preset.init.trainable,
         'matmul_gflops': round(matmul_gflops(preset.model.dtype)), **describe()}
  step, start = stepper(preset)
  state = start(*split(zeros(preset.model), preset.is_trainable)[1:])
  windows = jax.device_put(noise(preset.model, preset.batch_size))

  def train() -> None:
    nonlocal state
    state, out = step(state, windows)
    float(out['loss'])

  yield {'batch_size': preset.batch_size, 'train_step_s': median(train, steps), **device_memory()}
  del state  # the policies need its memory
  ids = tuple(range(3, 3 + preset.model.action_spec.vocab_size))
  for head in ('classifier', 'text'):
    plain = {'bin_smoothing': 0.0, 'decoding': 'argmax'} if head == 'text' else {}  # these are for classifiers
    config = dataclasses.replace(preset.model, action_head=head, action_ids=ids, lora=LoraConfig(), **plain)
    policy = BatchPolicy(zeros(config), 1)
    observation = noise(config, 1).observation
    policy.reset(0, embedding=observation.prompt[0])
    robot_state = None if observation.proprioception is None else observation.proprioception[:, -1]
    act = functools.partial(policy.step, observation.images[:, -1], proprioception=robot_state)
    yield {f'{head}_step_s': median(act, 2 * steps)}
    del policy, act


def variant(name: str, batch_size: int, dtype: Dtype | None, trainable: Trainable | None,
            optimizer: OptimizerKind | None) -> TrainConfig:
  """Return a preset with changes; adapters have the rank of the table."""
  preset = configs.get(name)
  model = dataclasses.replace(preset.model, dtype=dtype or preset.model.dtype,
                              lora=LoraConfig(rank=16 if trainable == 'lora' else 0))
  return _with(preset, trainable=trainable, model=model, batch_size=batch_size or preset.batch_size,
               optimizer=dataclasses.replace(preset.optimizer, kind=optimizer or preset.optimizer.kind))


def main(presets: tuple[str, ...] = PRESETS, measure: bool = False, steps: int = 5, batch_size: int = 0,
         dtype: Dtype | None = None, trainable: Trainable | None = None,
         optimizer: OptimizerKind | None = None) -> None:
  """Print the lines.

  Args:
    presets: names of presets.
    measure: print times in place of sizes; the following options are for these.
    steps: training steps timed, and half of the policy steps.
    batch_size: windows of a training step, 0 = the preset's.
    dtype: type of the computation, None = the preset's.
    trainable: parameters that the training step updates, None = the preset's.
    optimizer: of the training step, None = the preset's.
  """
  malloc.keep_freed_memory()
  for name in presets:
    if not measure:
      print(json.dumps({'preset': name} | size(name)), flush=True)
      continue
    for line in speed(variant(name, batch_size, dtype, trainable, optimizer), steps):
      print(json.dumps({'preset': name} | line), flush=True)


if __name__ == '__main__':
  tyro.cli(main)
