"""Benchmark of one GPU: speed and memory of training and policies.

  python bench/gpu.py [--out bench/gpu.jsonl] [--only rt1_train ...] [--minutes 9] [--small]

Needs JAX, Flax, optax, orbax, tyro and NumPy alone: neither TensorFlow nor data. Each row runs in a process of its own,
prints one line of JSON as soon as it is measured and is appended to --out, whose rows are not measured again.
`--small` runs tiny networks, to try the benchmark without a GPU. `--table-only` prints the rows of --out as Markdown.
"""
import collections
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from machine import describe, device_memory
from steps import TrainingStep, cost, model_flops, policy_step, random_model, seconds

from rtjax import configs
from rtjax.models import PolicyConfig, RT2Config
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig
from rtjax.models.layers.lora import LoraConfig
from rtjax.training.config import TrainConfig

Row = dict[str, Any]
_FEW = EfficientNetConfig(width=0.2, depth=0.4)
_SMALL = {'rt2': 'rt2_tabletop', 'rt2_5b': 'rt2_tabletop'}


def preset(name: str, *, small: bool, lora: int = 0, **changes: Any) -> TrainConfig:
  """Return a preset in bfloat16."""
  config = configs.get(_SMALL.get(name, name) if small else name)
  model: dict[str, Any] = {'dtype': 'bfloat16'}
  if isinstance(config.model, RT2Config):
    model['lora'] = LoraConfig(rank=lora)
  if small and name in ('rt1', 'rt1_x'):
    model |= {'encoder': _FEW, 'image_size': (64, 64), 'layers': 1, 'window': 3}
  init = dataclasses.replace(config.init, trainable='lora') if lora else config.init
  return dataclasses.replace(config, model=dataclasses.replace(config.model, **model), init=init, **changes)


def training(config: TrainConfig, steps: int, rates: Row) -> Iterator[Row]:
  """Yield the figures of a training step, then its slowest operations."""
  flops = config.batch_size * model_flops(config)
  step = TrainingStep(config, random_model(config.model))
  memory = step.compiled.memory_analysis()

  def train() -> None:
    loss = step()
    if not np.isfinite(loss):
      raise FloatingPointError(f'loss is {loss}')

  median = float(np.median(seconds(train, steps + 2)[2:]))
  yield {'batch_size': config.batch_size, 'grad_accum_steps': config.grad_accum_steps, 'dtype': config.model.dtype,
         'step_s': round(median, 4), 'windows_per_s': round(config.batch_size / median, 1),
         'frames_per_s': round(config.batch_size * config.model.window / median),
         'tflop': round(flops / 1e12, 2), 'tflop_per_s': round(flops / median / 1e12, 1),
         'utilisation': round(flops / median / 1e12 / rates['matmul_tflop_per_s'], 3),
         'accessed_gb': round(cost(step.compiled).get('bytes accessed', 0) / 1e9, 1),
         'arguments_gib': round(memory.argument_size_in_bytes / 2 ** 30, 2),
         'temporary_gib': round(memory.temp_size_in_bytes / 2 ** 30, 2), 'compile_s': step.compile_s, **device_memory()}
  yield {'slowest': slowest(train)}


def policy(config: PolicyConfig, robots: int, steps: int) -> Row:
  """Return the latency of a policy step, from host to host."""
  act = policy_step(random_model(config), robots)
  (first,), times = seconds(act, 1), seconds(act, steps)
  return {'robots': robots, 'dtype': config.dtype, 'median_ms': round(1e3 * float(np.median(times)), 2),
          'p95_ms': round(1e3 * float(np.percentile(times, 95)), 2), 'first_call_s': round(first, 1), **device_memory()}


def rates(*, small: bool) -> Row:
  """Return the rates of bfloat16 products and of copies."""
  side, length = (256, 2 ** 20) if small else (8192, 2 ** 30)
  a = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
  vector = jax.random.normal(jax.random.key(1), (length,), jnp.float32)
  product = best(functools.partial(jax.jit(lambda a: a @ a), a))
  copy = best(functools.partial(jax.jit(lambda x: x + 1), vector))
  return {'matmul_tflop_per_s': round(2 * side ** 3 / product / 1e12, 1),
          'copy_gb_per_s': round(8 * length / copy / 1e9)}


def best(function: Callable[[], Any]) -> float:
  return min(seconds(lambda: jax.block_until_ready(function()), 11)[1:])


def slowest(function: Callable[[], Any], count: int = 12) -> list[tuple[str, float, int]]:
  """Return the slowest operations, their milliseconds and kernels."""
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      function()
    traces = [jax.profiler.ProfileData.from_file(str(path)) for path in Path(folder).rglob('*.xplane.pb')]
  times: collections.Counter[str] = collections.Counter()
  kernels: collections.Counter[str] = collections.Counter()
  for plane in (plane for trace in traces for plane in trace.planes if plane.name.startswith('/device:GPU')):
    for line in (line for line in plane.lines if line.name.startswith('Stream')):
      for event in line.events:
        stats = {name: value for name, value in event.stats if name}
        name = operation(str(stats.get('name') or stats.get('tf_op') or stats.get('hlo_op') or event.name))
        times[name] += event.duration_ns / 1e6
        kernels[name] += 1
  return [(name, round(ms, 2), kernels[name]) for name, ms in times.most_common(count)] + [
      ('all', round(sum(times.values()), 2), sum(kernels.values()))]


def operation(name: str) -> str:
  """Return an operation's name without the numbers of blocks and layers."""
  return re.sub(r'\d+', '*', name)[-120:]


def _train(name: str, batch_size: int, accum: int = 1, **options: Any) -> Callable[[bool, Row], Iterator[Row]]:
  def run(small: bool, rates: Row) -> Iterator[Row]:
    size, parts = (2, 1) if small else (batch_size, accum)
    return training(preset(name, small=small, batch_size=size, grad_accum_steps=parts, **options), 2 if small else 6,
                    rates)
  return run


def _policy(name: str, robots: int, **model: Any) -> Callable[[bool, Row], Iterator[Row]]:
  def run(small: bool, rates: Row) -> Iterator[Row]:
    yield policy(dataclasses.replace(preset(name, small=small).model, **model), robots, 3 if small else 100)
  return run


# Large networks last: time may run out.
ROWS: dict[str, Callable[[bool, Row], Iterator[Row]]] = {
    'rt1_policy_1': _policy('rt1', 1), 'rt1_policy_16': _policy('rt1', 16),
    'rt1_train': _train('rt1', 256, 8), 'rt1_train_64': _train('rt1', 64, 1),
    'rt1_x_policy_1': _policy('rt1_x', 1), 'rt1_x_policy_16': _policy('rt1_x', 16),
    'rt1_x_train': _train('rt1_x', 32, 2),
    'rt2_policy_1': _policy('rt2', 1), 'rt2_policy_16': _policy('rt2', 16), 'rt2_train': _train('rt2', 64),
    'rt2_5b_policy_1': _policy('rt2_5b', 1), 'rt2_5b_train_lora': _train('rt2_5b', 16, lora=16)}


def measure(row: str, small: bool) -> None:
  """Print the lines of one row."""
  rate = rates(small=small)
  for line in ROWS[row](small, rate):
    print(json.dumps({'row': row} | line | ({} if 'slowest' in line else rate | describe())), flush=True)


def table(lines: list[Row]) -> str:
  """Return the rows as two Markdown tables."""
  train, act = (['| ' + ' | '.join(names) + ' |', '|' + '---|' * len(names)] for names in (
      ('training', 'batch', 'step', 'windows/s', 'TFLOP', 'share of the matrix rate', 'peak memory', 'compile'),
      ('policy step', 'robots', 'median', '95 %', 'first call')))
  for line in lines:
    if 'step_s' in line:
      train.append(f'| {line["row"]} | {line["batch_size"]} in {line["grad_accum_steps"]} | {line["step_s"]:.3f} s '
                   f'| {line["windows_per_s"]} | {line["tflop"]} | {100 * line["utilisation"]:.1f} % '
                   f'| {line.get("peak_gib", "")} GiB | {line["compile_s"]} s |')
    elif 'median_ms' in line:
      act.append(f'| {line["row"]} | {line["robots"]} | {line["median_ms"]} ms | {line["p95_ms"]} ms '
                 f'| {line["first_call_s"]} s |')
  return '\n'.join([*train, '', *act])


def main(out: Path = Path('bench/gpu.jsonl'), only: tuple[str, ...] = (), minutes: float = 9.0, small: bool = False,
         table_only: bool = False, row: str = '') -> None:
  """Measure rows, each in a process of its own.

  Args:
    out: file of the rows, one line of JSON each.
    only: names of rows; none: all.
    minutes: no row begins later, and the last one is stopped then.
    small: tiny networks.
    table_only: print the rows of `out`.
    row: measure this row in this process, without `out`.
  """
  if row:
    return measure(row, small)
  lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
  deadline = time.monotonic() + 60 * minutes
  for name in () if table_only else only or ROWS:
    if any(line['row'] == name for line in lines):
      continue
    left = deadline - time.monotonic()
    if left < 5:
      print(json.dumps({'row': name, 'left_out': 'no time left'}), flush=True)
      continue
    lines += _in_process(name, small, left, out)
  print(table(lines))


def _in_process(name: str, small: bool, seconds: float, out: Path) -> list[Row]:
  """Measure a row in a process of its own."""
  command = [sys.executable, __file__, '--row', name, *(['--small'] if small else [])]
  environment = os.environ | {'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.94', 'PYTHONPATH': os.pathsep.join(sys.path[1:])}
  lines = []
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
    try:
      output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
      process.kill()
      output, errors = process.communicate()
  for line in output.splitlines():
    print(line, flush=True)
    lines.append(json.loads(line))
    with out.open('a') as file:
      file.write(line + '\n')
  if process.returncode:
    print(json.dumps({'row': name, 'failed': process.returncode, 'error': errors[-1500:]}), flush=True)
  return lines


if __name__ == '__main__':
  tyro.cli(main)
