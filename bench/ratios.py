"""Ratios of CPU times beside recorded ones: make bench.

    python bench/ratios.py [--only rt1_policy ...] [--record]

Each row runs two pieces of work in turn, so that the speed of the machine and its other work cancel out of the ratio of
their CPU times. Prints median and quartiles of the ratios beside those in ratios.json, and the rows that moved: their
quartiles do not overlap and their medians differ by a tenth. The exit status is 0, since speed is no test; `--record`
writes ratios.json.
"""
import dataclasses
import functools
import itertools
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import steps
import tyro
from machine import describe

from rtjax import configs, models
from rtjax.runtime import malloc

RECORDED = pathlib.Path(__file__).with_name('ratios.json')

Pair = tuple[float, float]
Quartiles = tuple[float, float, float]

_LEAST_CHANGE = 0.1  # of the median


def cpu_seconds(work: Callable[[], object]) -> float:
  start = time.process_time()
  jax.block_until_ready(work())
  return time.process_time() - start


def against_product(work: Callable[[], object]) -> Iterator[Pair]:
  """Yield CPU seconds of some work, and of a product of 2048 x 2048."""
  malloc.keep_freed_memory()  # as train.py, eval.py and the server do
  x = jnp.ones((2048, 2048))
  product = functools.partial(jax.jit(lambda a: a @ a), x)
  for function in (work, product, work, product):  # compiled, and memory touched
    cpu_seconds(function)
  while True:
    yield cpu_seconds(work), cpu_seconds(product)


def policy_step(preset: str) -> Iterator[Pair]:
  config = dataclasses.replace(configs.get(preset).model, dtype='float32')  # type: ignore[type-var]  # dataclasses all
  return against_product(steps.policy_step(models.build(config, seed=0)))


def training_step(preset: str) -> Iterator[Pair]:
  config = configs.get(preset)
  return against_product(steps.TrainingStep(config, models.build(config.model, seed=0)))


def input_pipeline() -> Iterator[Pair]:
  """Yield CPU seconds per frame, of the stream and of bare decoding."""
  import input_pipeline as pipeline

  from rtjax import actions, data
  from rtjax.data import images
  from rtjax.data.rlds.episodes import Dataset
  spec = actions.get('arm7d')
  with tempfile.TemporaryDirectory() as folder:
    name = pipeline.generate_episodes(folder)
    dataset = Dataset(name, 'train', spec)
    stored = [image for e in itertools.islice(dataset.read(dataset.chunks(64)), 8) for image in e.images]
    config = data.DataConfig(stride=6, shuffle_episodes=dataset.num_records // 2 + 1)
    with data.TrainingStream([name], config, spec, window=6, horizon=1, batch_size=32, seed=0) as stream:
      while True:
        yield (pipeline.streaming(stream, 1)['cpu'],
               pipeline.decoding(images.decode_image, stored, config.num_threads(), 1)['cpu'])


def command(*words: str) -> Iterator[Pair]:
  """Yield CPU seconds of a Python process, and of importing NumPy."""
  def seconds(*words: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, cwd=RECORDED.parent.parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  while True:
    yield seconds(*words), seconds('-c', 'import numpy')


# Name -> pairs, and their number.
ROWS: dict[str, tuple[Callable[[], Iterator[Pair]], int]] = {
    'import': (functools.partial(command, '-c', 'import rtjax'), 9),
    'help': (functools.partial(command, 'train.py', 'rt1', '--help'), 9),
    'rt1_policy': (functools.partial(policy_step, 'rt1'), 15),
    'rt1_tabletop_training': (functools.partial(training_step, 'rt1_tabletop'), 11),
    'rt2_tabletop_policy': (functools.partial(policy_step, 'rt2_tabletop'), 25),
    'input_pipeline': (input_pipeline, 9)}


def measure(row: str) -> Quartiles:
  pairs, count = ROWS[row]
  ratios = [first / second for first, second in itertools.islice(pairs(), count)]
  return tuple(float(f'{q:.3g}') for q in np.quantile(ratios, [0.25, 0.5, 0.75]))


def verdict(now: Quartiles, recorded: Quartiles | None) -> str:
  """Describe a change beyond the noise; empty without one."""
  if recorded is None:
    return 'not recorded'
  change = now[1] / recorded[1] - 1
  if abs(change) < _LEAST_CHANGE or (now[0] <= recorded[2] and recorded[0] <= now[2]):
    return ''
  return f'{abs(change):.0%} {"more" if change > 0 else "less"}'


def main(only: tuple[str, ...] = (), record: bool = False) -> None:
  rows = json.loads(RECORDED.read_text())['rows'] if RECORDED.exists() else {}
  moved = {}
  print(f'{"row":<24}{"ratio now":>24}{"recorded":>24}')
  for name in only or ROWS:
    try:
      now = measure(name)
    except Exception as error:  # speed is no test, and the other rows still count
      print(f'{name:<24}  not measured: {type(error).__name__}: {error}')
      continue
    moved[name] = verdict(now, rows.get(name))
    print(f'{name:<24}{_text(now):>24}{_text(rows.get(name)):>24}  {moved[name]}', flush=True)
    if record:
      rows[name] = now
      RECORDED.write_text(json.dumps({'rows': rows, 'machine': describe()}, indent=1) + '\n')
  print('Moved: ' + (', '.join(f'{name} ({text})' for name, text in moved.items() if text) or 'nothing'))


def _text(quartiles: Quartiles | None) -> str:
  return '' if quartiles is None else '{1:g} ({0:g} to {2:g})'.format(*quartiles)


if __name__ == '__main__':
  tyro.cli(main)
