"""Benchmark of a training step of the full RT-1.

    python bench/train_step.py [--batch-size 2] [--steps 6] [--dtype float32] [--grad-accum-steps 1]

Forward, backward and Adam, with BatchNorm on batch statistics and dropout. Prints one line of JSON. The official
TensorFlow code takes 3.4 s for a batch of 2 on two CPU cores.
"""
import dataclasses
import functools
import json
import time

import jax
import numpy as np
import tyro
from machine import describe, device_memory, matmul_gflops

from rtjax.models import RT1Config, build
from rtjax.observation import Batch, Observation
from rtjax.runtime import compiler, malloc
from rtjax.training import optimizer as optimizers
from rtjax.training.state import create, split
from rtjax.training.step import train_step


def main(batch_size: int = 2, steps: int = 6, dtype: str = 'float32', grad_accum_steps: int = 1) -> None:
  malloc.keep_freed_memory()  # as train.py does
  config = dataclasses.replace(RT1Config(), dtype=dtype)
  graphdef, *trees = split(build(config, seed=0))
  optimizer = optimizers.build(optimizers.OptimizerConfig(), 1000)
  state = create(*trees, jax.random.key(0), optimizer=optimizer, ema=False)
  random = np.random.default_rng(0)
  shape = (batch_size, config.window)
  observation = Observation(
      images=random.integers(0, 256, (*shape, 256, 320, 3), dtype=np.uint8), frame_mask=np.ones(shape, bool),
      instruction=random.normal(size=(*shape, 512)).astype(np.float32))
  batch = Batch(observation, random.uniform(-1, 1, (*shape, 1, 13)).astype(np.float32), np.ones((*shape, 1), bool))
  step = jax.jit(functools.partial(train_step, graphdef=graphdef, optimizer=optimizer,
                                   grad_accum_steps=grad_accum_steps),
                 donate_argnums=0, compiler_options=compiler.options())
  batch = jax.device_put(batch)
  start = time.perf_counter()
  compiled = step.lower(state, batch).compile()
  compile_s = time.perf_counter() - start
  temporary = compiled.memory_analysis().temp_size_in_bytes
  times, losses = [], []
  for _ in range(steps + 1):
    start = time.perf_counter()
    state, out = compiled(state, batch)
    losses.append(float(out['loss']))
    times.append(time.perf_counter() - start)
  times = times[1:]  # the first one touches fresh memory
  median = float(np.median(times))
  print(json.dumps({
      'benchmark': 'train_step', 'dtype': dtype, 'batch_size': batch_size, 'grad_accum_steps': grad_accum_steps,
      'median_s': round(median, 4), 'min_s': round(min(times), 4), 'windows_per_s': round(batch_size / median, 2),
      'compile_s': round(compile_s, 1), 'temporary_gib': round(temporary / 2 ** 30, 2),
      'loss_first_last': [round(losses[0], 4), round(losses[-1], 4)],
      **device_memory(), 'matmul_gflops': round(matmul_gflops(dtype)), **describe()}))


if __name__ == '__main__':
  tyro.cli(main)
