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
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from machine import describe, device_memory, matmul_gflops
from steps import TrainingStep, cost, model_flops, policy_step, random_batch, seconds

from rtjax import configs, models
from rtjax.models import RT2, RT2Config
from rtjax.models.layers.lora import LoraConfig
from rtjax.models.parameters import count
from rtjax.runtime import malloc
from rtjax.training import optimizer as optimizers
from rtjax.training.config import TrainConfig
from rtjax.training.optimizer import OptimizerConfig
from rtjax.training.state import create, split

OptimizerKind = Literal['adam', 'adafactor']
Dtype = Literal['float32', 'bfloat16']
Trainable = Literal['full', 'decoder', 'lora']
PRESETS = ('rt2', 'rt2_tabletop', 'rt2_5b')


@functools.cache
def abstract(config: RT2Config) -> RT2:
  return models.abstract(config)


def gigabytes(config: TrainConfig) -> float:
  """Return the size of parameters, gradients and optimizer state."""
  _, params, stats, constants = split(abstract(config.model), config.is_trainable)
  optimizer = optimizers.build(config.optimizer, config.steps)
  state = jax.eval_shape(functools.partial(create, rng=jax.random.key(0), optimizer=optimizer, ema=False),
                         params, stats, constants)
  return 4 * (count(params) + count((state.params, state.constants, state.opt_state))) / 1e9


def size(name: str) -> dict[str, Any]:
  """Return parameters, tokens, arithmetic and memory of a preset."""
  preset = configs.get(name)
  config = dataclasses.replace(preset.model, action_head='classifier', dtype='float32', remat=False)
  plain = _with(preset, model=config, trainable='full')
  graphdef, variables = nnx.split(abstract(config))
  batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, random_batch(config, 1)))
  act = jax.jit(lambda values, observation: nnx.merge(graphdef, values).logits(observation))
  adam, adafactor = OptimizerConfig(), OptimizerConfig(kind='adafactor')
  adapted = dataclasses.replace(config, lora=LoraConfig(rank=16))
  return {
      'parameters': count(nnx.state(abstract(config), nnx.Param)),
      'tokens': [config.backbone.image_tokens * config.window, config.prompt_length, config.action_spec.num_tokens],
      'act_gflop': round(cost(act.lower(variables, batch.observation))['flops'] / 1e9, 2),
      'train_gflop': round(model_flops(plain) / 1e9, 2),
      'adam_gb': round(gigabytes(_with(plain, optimizer=adam)), 3),
      'adafactor_gb': round(gigabytes(_with(plain, optimizer=adafactor)), 3),
      'decoder_gb': round(gigabytes(_with(plain, optimizer=adam, trainable='decoder')), 3),
      'lora_gb': round(gigabytes(_with(plain, model=adapted, optimizer=adam, trainable='lora')), 3)}


def _with(preset: TrainConfig, *, trainable: Trainable | None = None, **changes: Any) -> TrainConfig:
  init = dataclasses.replace(preset.init, trainable=trainable) if trainable else preset.init
  return dataclasses.replace(preset, init=init, **changes)


def zeros(config: RT2Config) -> RT2:
  """Return a network of zeros, made without extra memory."""
  graphdef, variables = nnx.split(abstract(config))
  return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables))


def speed(preset: TrainConfig, steps: int) -> Iterator[dict[str, Any]]:
  """Yield times one by one, since the last network may not fit."""
  yield {'dtype': preset.model.dtype, 'optimizer': preset.optimizer.kind, 'trainable': preset.init.trainable,
         'matmul_gflops': round(matmul_gflops(preset.model.dtype)), **describe()}
  step = TrainingStep(preset, zeros(preset.model))
  yield {'batch_size': preset.batch_size, 'train_step_s': _median(step, steps), **device_memory()}
  del step  # the policies need its memory
  ids = tuple(range(3, 3 + preset.model.action_spec.vocab_size))
  for head in ('classifier', 'text'):
    plain = {'bin_smoothing': 0.0, 'decoding': 'argmax'} if head == 'text' else {}  # these are for classifiers
    config = dataclasses.replace(preset.model, action_head=head, action_ids=ids, lora=LoraConfig(), **plain)
    yield {f'{head}_step_s': _median(policy_step(zeros(config)), 2 * steps)}


def _median(function: Callable[[], Any], times: int) -> float:
  """Return the seconds of a call, without the first one."""
  return round(float(np.median(seconds(function, times + 1)[1:])), 4)


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
