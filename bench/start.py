"""Benchmark of the start of a training, before the step is compiled.

    python bench/start.py

The full RT-1. Prints one line of JSON with seconds of CPU time, which other work on the machine stretches less than the
clock's.
"""
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
from machine import describe
from steps import random_batch

from rtjax.models import RT1Config, abstract, build
from rtjax.training import optimizer as optimizers
from rtjax.training.state import create, split
from rtjax.training.step import train_step


def seconds(function: Callable[[], Any]) -> float:
  start = time.process_time()
  jax.block_until_ready(function())
  return round(time.process_time() - start, 2)


def main() -> None:
  config = RT1Config()
  optimizer = optimizers.build(optimizers.OptimizerConfig(), 1000)
  graphdef, *trees = split(abstract(config))
  state = jax.eval_shape(functools.partial(create, rng=jax.random.key(0), optimizer=optimizer, ema=False), *trees)
  batch = random_batch(config, 1)
  step = jax.jit(functools.partial(train_step, graphdef=graphdef, optimizer=optimizer))
  print(json.dumps({'abstract': seconds(lambda: abstract(config)),
                    'build': seconds(lambda: split(build(config, seed=0))),
                    'trace': seconds(lambda: step.trace(state, batch)), 'machine': describe()}))


if __name__ == '__main__':
  main()
