"""Meta-World on a GPU, without TensorFlow: record, train, evaluate.

    MUJOCO_GL=egl python bench/metaworld_gpu.py --out /tmp/mw --tasks mt10
    MUJOCO_GL=egl python bench/metaworld_gpu.py --out /tmp/mw --tasks mt50 --only record train --seconds 400
    MUJOCO_GL=egl python bench/metaworld_gpu.py --out /tmp/mw --tasks mt50 --only evaluate

Demonstrations are those of data/metaworld/generate.py, the preset is `rt1_metaworld`, trained by array_training.py.
Recording and evaluation continue where they were interrupted. Each report is a line of JSON. `--tiny` tries all parts
within minutes on a CPU.
"""
import dataclasses
import functools
import os
import pathlib
import sys
from typing import Any, Literal

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # NumPy's threads; the workers are parallel already
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'data' / 'metaworld'))

import array_training
import demonstrations
import numpy as np
import tyro
from machine import describe

from rtjax import configs
from rtjax.actions import METAWORLD
from rtjax.data.generation.item_store import ItemStore
from rtjax.envs.metaworld_tasks import DIFFICULTY
from rtjax.evaluation.closed_loop import agents, environment, evaluator


@dataclasses.dataclass(frozen=True)
class Options:
  """Record, train and evaluate."""
  out: pathlib.Path
  """Folder of the episodes, of the run and of its report."""
  tasks: str = 'mt10'
  """Suite or task to learn."""
  episodes: int = 50
  """Training demonstrations of each task."""
  steps: int = 40_000
  """Training steps; the learning rate decays over them."""
  batch_size: int = 256
  """Windows of a step."""
  seed: int = 0
  """Of the initial weights and the batches."""
  seconds: float = 0.0
  """Longest time of training, compilation included; it then ends at its next report. 0 = none."""
  reports: int = 20
  """Reports of the training."""
  evaluations: int = 10
  """Evaluated episodes of each task."""
  only: tuple[Literal['record', 'train', 'evaluate'], ...] = ('record', 'train', 'evaluate')
  """Parts to run."""
  workers: int = 0
  """Processes that record and simulate; 0 means one per core."""
  tiny: bool = False
  """Try all parts with one task, two demonstrations and twenty steps."""

  def recording(self) -> demonstrations.RecordingConfig:
    return demonstrations.RecordingConfig(self.tasks, self.episodes)

  def store(self) -> ItemStore:
    return ItemStore(self.out / f'{self.tasks}-{self.episodes}', demonstrations.EPISODES_PER_FILE)

  def run(self) -> pathlib.Path:
    return self.out / f'{self.tasks}-{self.seed}-run'


def main(options: Options) -> None:
  log = array_training.logger()
  if options.tiny:
    options = dataclasses.replace(options, tasks='reach-v3', episodes=2, steps=20, batch_size=8, reports=2,
                                  evaluations=2)
  log('start', **describe())
  for part in (record, train, evaluate):
    if part.__name__ in options.only:
      part(options, functools.partial(log, part.__name__))


def record(options: Options, log: array_training.Log) -> None:
  """Record the missing episodes."""
  config, store = options.recording(), options.store()
  store.create(dataclasses.asdict(config) | {'image_size': list(config.image_size)})
  store.fill(functools.partial(_record, config), config.splits(), options.workers, 'episodes')
  episodes = [episode for span in config.splits().values() for episode in store.read(*span)]
  failed: dict[str, int] = {}
  for episode in episodes:
    failed[episode['task']] = failed.get(episode['task'], 0) + episode['failed_attempts']
  log(episodes=len(episodes), steps=sum(len(episode['actions']) for episode in episodes),
      failed_attempts={task: count for task, count in failed.items() if count})


def _record(config: demonstrations.RecordingConfig, first: int, end: int) -> list[dict[str, Any]]:
  return [array_training.episode_arrays(found, METAWORLD) | {
      name: found['episode_metadata'][name] for name in ('task', 'failed_attempts')}
      for found in demonstrations.record(config, first, end)]


def train(options: Options, log: array_training.Log) -> None:
  """Train on the recorded episodes, and save a run."""
  config = dataclasses.replace(configs.get('rt1_metaworld'), data=('metaworld',), steps=options.steps,
                               batch_size=options.batch_size)
  episodes = {name: list(options.store().read(*span)) for name, span in options.recording().splits().items()}
  array_training.train_preset(config, episodes, options.run(), renderer='gl', reports=options.reports,
                              seconds=options.seconds, log=log, seed=options.seed)


def evaluate(options: Options, log: array_training.Log) -> None:
  """Evaluate the run in closed loop, and write its report."""
  name = f'metaworld/{options.tasks}'
  splits = environment.choose_splits(name, (), ())
  settings = agents.AgentSettings(options.workers or evaluator.num_cores())
  agent = agents.load(str(options.run()), settings)
  env = environment.open_environment(name, splits, {'image_size': agents.camera_size(agent), 'renderer': 'gl'})
  count = options.evaluations * len(splits['seen'])
  folder = options.run().with_name(f'{options.run().name}-report')
  report = evaluator.evaluate(evaluator.Evaluation(env, count, settings), agent, [], [], folder, 16)
  summary = report['policies'][0]['summary']
  by_task = {task: rate['rate'] for task, rate in summary['by_skill'].items()}
  groups = {group: [by_task[task] for task in tasks if task in by_task] for group, tasks in DIFFICULTY.items()}
  means = {group: round(float(np.mean(rates)), 4) for group, rates in groups.items() if rates}
  log(**summary['success'], groups=means, mean_of_groups=round(float(np.mean(list(means.values()))), 4),
      by_task=by_task, latency_ms=summary['latency_ms'], failures=summary['failures'], report=str(folder))


if __name__ == '__main__':
  main(tyro.cli(Options))
