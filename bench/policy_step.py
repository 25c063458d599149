"""Times one policy step of the full RT-1 (256x320 picture in, 11 tokens out) and, beside it, the machine's matrix rate.

  python bench/policy_step.py [--steps 30] [--dtype float32]

Prints one line of JSON. The official TensorFlow code takes 0.57 s on two CPU cores.
"""
import dataclasses
import json
import time

import numpy as np
import tyro
from flax import nnx
from machine import describe, matmul_gflops

from rtjax.models import RT1Config, build
from rtjax.policy import Policy


def main(steps: int = 30, dtype: str = 'float32') -> None:
  policy = Policy(build(dataclasses.replace(RT1Config(), dtype=dtype), rngs=nnx.Rngs(0)))
  policy.reset(embedding=np.zeros(512, np.float32))
  images = np.random.default_rng(0).integers(0, 256, (8, 256, 320, 3), dtype=np.uint8)
  start = time.perf_counter()
  policy.step(images[0])
  compile_s = time.perf_counter() - start
  times = []
  for index in range(steps):
    start = time.perf_counter()
    policy.step(images[index % 8])
    times.append(time.perf_counter() - start)
  print(json.dumps({
      'benchmark': 'policy_step', 'dtype': dtype, 'median_s': round(float(np.median(times)), 4),
      'min_s': round(min(times), 4), 'p95_s': round(float(np.percentile(times, 95)), 4),
      'first_call_s': round(compile_s, 1),
      'matmul_gflops': round(matmul_gflops(dtype)), **describe()}))


if __name__ == '__main__':
  tyro.cli(main)
