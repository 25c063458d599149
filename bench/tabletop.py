"""Benchmark of the tabletop simulator: speed, and success rates of its experts.

    python bench/tabletop.py                     # steps per second and image times, in one and in many processes
    python bench/tabletop.py --experts 200       # success rate of each skill's expert over 200 episodes, with noise

The output is one JSON line. Steps are control steps (5 per simulated second) of experts, resets included. Milliseconds
are medians over single images.
"""
import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from typing import Any

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # the processes run in parallel
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import mujoco
import numpy as np

from rtjax import envs
from rtjax.envs.tabletop import splits

# Standard deviation of the noise on executed actions.
_NOISE = np.array([0.004] * 3 + [0.02] * 3 + [0])


def main() -> None:
  parser = argparse.ArgumentParser(description='Benchmark of the tabletop simulator: one JSON line.')
  parser.add_argument('--experts', type=int, default=0, metavar='EPISODES',
                      help='measure success rates instead of speed')
  parser.add_argument('--split', default='seen', choices=sorted(splits.SPLITS))
  parser.add_argument('--renderer', default='rays', choices=('rays', 'gl'))
  parser.add_argument('--processes', type=int, default=os.cpu_count() or 1)
  parser.add_argument('--seconds', type=float, default=5, help='duration of each measurement')
  options = parser.parse_args()
  print(json.dumps(experts(options) if options.experts else speed(options)))


def experts(options: argparse.Namespace) -> dict[str, Any]:
  """Measure each skill's successes and their mean number of steps."""
  skills = splits.get(options.split).skills
  with concurrent.futures.ProcessPoolExecutor(options.processes, multiprocessing.get_context('spawn')) as pool:
    lengths = pool.map(expert, skills, [options.split] * len(skills), [options.experts] * len(skills))
    results = dict(zip(skills, lengths, strict=True))
  return {'benchmark': 'tabletop_experts', 'split': options.split, 'episodes': options.experts,
          'mujoco': mujoco.__version__,
          'success': {skill: sum(n > 0 for n in lengths) for skill, lengths in results.items()},
          'steps': {skill: statistics.mean(n for n in lengths if n) for skill, lengths in results.items()}}


def expert(skill: str, split: str, episodes: int) -> list[int]:
  """Return the steps of each successful episode, 0 for a failure."""
  env: Any = envs.make('tabletop', split=split, image_size=(8, 8), renderer='none')
  results = []
  for number in range(episodes):
    env.reset(seed=number, options={'skill': skill})
    policy, rng = env.expert(), np.random.default_rng(number)
    steps, ended = 0, False
    while not ended:
      *_, terminated, truncated, info = env.step(policy(env.state) + _NOISE * rng.normal(size=7))
      steps, ended = steps + 1, terminated or truncated
    results.append(steps if info['success'] else 0)
  return results


def speed(options: argparse.Namespace) -> dict[str, Any]:
  """Measure steps per second and image times."""
  result: dict[str, Any] = {'benchmark': 'tabletop', 'renderer': options.renderer, 'cores': os.cpu_count(),
                            'mujoco': mujoco.__version__, 'steps_per_second': {}, 'image_ms': {}}
  for name, settings in (('no images', {'image_size': (8, 8), 'renderer': 'none'}),
                         ('96x96', {'image_size': (96, 96), 'renderer': options.renderer, 'wrist': False}),
                         ('256x320', {'image_size': (256, 320), 'renderer': options.renderer, 'wrist': False})):
    result['steps_per_second'][name] = round(steps_per_second(settings, options.seconds), 1)
  for size in ((96, 96), (256, 256), (256, 320)):
    result['image_ms'][f'{size[0]}x{size[1]}'] = round(image_ms(size, options), 1)
  result['processes'] = options.processes
  result['steps_per_second']['96x96, all processes'] = round(vector_steps_per_second(options), 1)
  return result


def steps_per_second(settings: dict[str, Any], seconds: float) -> float:
  """Measure the expert's steps per second in one process."""
  env: Any = envs.make('tabletop', seed=0, **settings)
  env.reset()
  policy, steps, start = env.expert(), 0, time.perf_counter()
  while time.perf_counter() < start + seconds:
    _, _, terminated, truncated, _ = env.step(policy(env.state))
    steps += 1
    if terminated or truncated:
      env.reset()
      policy = env.expert()
  passed = time.perf_counter() - start
  env.close()
  return steps / passed


def image_ms(size: tuple[int, int], options: argparse.Namespace) -> float:
  """Measure the median time of one image of the front camera, ms."""
  env: Any = envs.make('tabletop', image_size=size, renderer=options.renderer, wrist=False)
  times = []
  for seed in range(5):
    env.reset(seed=seed)
    for _ in range(10):
      start = time.perf_counter()
      env.render_camera('front')
      times.append(time.perf_counter() - start)
  env.close()
  return statistics.median(times) * 1e3


def vector_steps_per_second(options: argparse.Namespace) -> float:
  """Measure steps per second of random actions in parallel processes."""
  make = functools.partial(envs.make, 'tabletop', image_size=(96, 96), renderer=options.renderer, wrist=False)
  vector = envs.make_vector(make, options.processes)
  vector.reset(seed=list(range(options.processes)))
  vector.action_space.seed(0)
  steps, start = 0, time.perf_counter()
  while time.perf_counter() < start + options.seconds:
    _, _, terminated, truncated, _ = vector.step(vector.action_space.sample())
    steps += options.processes
    ended = terminated | truncated
    if ended.any():
      vector.reset(options={'reset_mask': ended})
  passed = time.perf_counter() - start
  vector.close()
  return steps / passed


if __name__ == '__main__':
  main()
