"""Time of one policy step (256x320 image, 11 tokens).

  python bench/policy_step.py [--model rt1] [--robots 1] [--steps 30] [--dtype float32]

Prints one line of JSON. On two CPU cores the official TensorFlow RT-1 takes 0.57 s; the public RT-1-X example 5.4 s,
and 2.3 s with its image tokens cached.
"""
import dataclasses
import json
from typing import Literal

import numpy as np
import tyro
from machine import describe, matmul_gflops
from steps import policy_step, seconds

from rtjax.models import RT1_X, RT1Config, build
from rtjax.runtime import malloc


def main(model: Literal['rt1', 'rt1_x'] = 'rt1', robots: int = 1, steps: int = 30, dtype: str = 'float32') -> None:
  malloc.keep_freed_memory()  # as eval.py and the server do
  config = dataclasses.replace({'rt1': RT1Config(), 'rt1_x': RT1_X}[model], dtype=dtype)
  act = policy_step(build(config, seed=0), robots)
  (first,), times = seconds(act, 1), seconds(act, steps)
  print(json.dumps({
      'benchmark': 'policy_step', 'model': model, 'robots': robots, 'dtype': dtype,
      'median_s': round(float(np.median(times)), 4),
      'min_s': round(min(times), 4), 'p95_s': round(float(np.percentile(times, 95)), 4),
      'first_call_s': round(first, 1),
      'matmul_gflops': round(matmul_gflops(dtype)), **describe()}))


if __name__ == '__main__':
  tyro.cli(main)
