"""Benchmark of a training step of the full RT-1.

    python bench/train_step.py [--batch-size 2] [--steps 6] [--dtype float32] [--grad-accum-steps 1]

Forward, backward and Adam, with BatchNorm on batch statistics and dropout. Prints one line of JSON. The official
TensorFlow code takes 3.4 s for a batch of 2 on two CPU cores.
"""
import dataclasses
import json

import numpy as np
import tyro
from machine import describe, device_memory, matmul_gflops
from steps import TrainingStep, seconds

from rtjax import configs, models
from rtjax.runtime import malloc


def main(batch_size: int = 2, steps: int = 6, dtype: str = 'float32', grad_accum_steps: int = 1) -> None:
  malloc.keep_freed_memory()  # as train.py does
  preset = configs.get('rt1')
  config = dataclasses.replace(preset, model=dataclasses.replace(preset.model, dtype=dtype), batch_size=batch_size,
                               grad_accum_steps=grad_accum_steps)
  step, losses = TrainingStep(config, models.build(config.model, seed=0)), []
  times = seconds(lambda: losses.append(step()), steps + 1)[1:]  # the first one touches fresh memory
  median = float(np.median(times))
  print(json.dumps({
      'benchmark': 'train_step', 'dtype': dtype, 'batch_size': batch_size, 'grad_accum_steps': grad_accum_steps,
      'median_s': round(median, 4), 'min_s': round(min(times), 4), 'windows_per_s': round(batch_size / median, 2),
      'compile_s': step.compile_s,
      'temporary_gib': round(step.compiled.memory_analysis().temp_size_in_bytes / 2 ** 30, 2),
      'loss_first_last': [round(losses[0], 4), round(losses[-1], 4)],
      **device_memory(), 'matmul_gflops': round(matmul_gflops(dtype)), **describe()}))


if __name__ == '__main__':
  tyro.cli(main)
