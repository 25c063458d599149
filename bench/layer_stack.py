"""Benchmark of equal layers: apart, stacked, in a loop.

    python bench/layer_stack.py [--preset rt2_tabletop] [--batch-size 0] [--rounds 5]

Times training steps on noise, one layout after the other in each round, so that other work on the machine disturbs all
of them. Prints one line of JSON with the median milliseconds of a step and the seconds of its compilation.
"""
import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import steps
from flax import nnx
from machine import describe

from rtjax import configs, models
from rtjax.models.backbones import gemma, t5, vit
from rtjax.models.layers import layer_stack
from rtjax.models.layers.common import random_streams
from rtjax.runtime import malloc


class Apart(nnx.Module):
  """LayerStack whose layers have variables of their own."""

  def __init__(self, make: Callable[[], nnx.Module], count: int):
    self.each = nnx.List([make() for _ in range(count)])

  def scan(self, call: Callable[..., Any], x: Any, *inputs: Any, remat: bool = False, rngs: Any = None) -> Any:
    keys = [None] * len(self.each) if rngs is None else jax.random.split(rngs.dropout(), len(self.each))
    outputs = []
    for number, layer in enumerate(self.each):
      streams = None if rngs is None else random_streams(keys[number])
      x, output = call(layer, x, *jax.tree.map(lambda leaf, n=number: leaf[n], inputs), streams)
      outputs.append(output)
    return x, jax.tree.map(lambda *each: jax.numpy.stack(each), *outputs)

  def map(self, call: Callable[[Any], Any]) -> Any:
    return jax.tree.map(lambda *each: jax.numpy.stack(each), *map(call, self.each))


def training_step(preset: str, batch_size: int, stack: type, unrolled: int) -> steps.TrainingStep:
  """Compile a training step with a kind of stack."""
  for module in (gemma, t5, vit):
    module.LayerStack = stack
  layer_stack._UNROLLED = unrolled
  config = configs.get(preset)
  config = dataclasses.replace(config, batch_size=batch_size or config.batch_size)
  step = steps.TrainingStep(config, models.build(config.model, seed=0))
  step()
  return step


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--preset', default='rt2_tabletop')
  parser.add_argument('--batch-size', type=int, default=0, help="0: the preset's")
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--steps', type=int, default=3, help='of each layout in a round')
  args = parser.parse_args()
  malloc.keep_freed_memory()
  layouts = {name: training_step(args.preset, args.batch_size, stack, unrolled) for name, stack, unrolled in (
      ('apart', Apart, 0), ('unrolled', layer_stack.LayerStack, 99), ('loop', layer_stack.LayerStack, 0))}
  times: dict[str, list[float]] = {name: [] for name in layouts}
  for _ in range(args.rounds):
    for name, take in layouts.items():
      for _ in range(args.steps):
        start = time.perf_counter()
        take()
        times[name].append(time.perf_counter() - start)
  print(json.dumps({
      'preset': args.preset, 'step_ms': {name: round(1e3 * float(np.median(t)), 1) for name, t in times.items()},
      'least_ms': {name: round(1e3 * min(t), 1) for name, t in times.items()},
      'compile_s': {name: take.compile_s for name, take in layouts.items()}, 'machine': describe()}))


if __name__ == '__main__':
  main()
