"""Meta-World on a GPU, without TensorFlow: record, train, evaluate.

    MUJOCO_GL=egl python bench/metaworld_gpu.py --out /tmp/mw --tasks mt10
    MUJOCO_GL=egl python bench/metaworld_gpu.py --out /tmp/mw --tasks mt50 --only record train --seconds 400
    MUJOCO_GL=egl python bench/metaworld_gpu.py --out /tmp/mw --tasks mt50 --only evaluate

Demonstrations, network, loss, optimizer and training step are those of data/metaworld/generate.py and train.py with the
preset `rt1_metaworld`. All data is on the device, and batches are drawn there with replacement, since a GPU takes small
images faster than a CPU decodes JPEG files. Recording and evaluation continue where they were interrupted. Each report
is a line of JSON. `--tiny` tries all parts within minutes on a CPU.
"""
import dataclasses
import functools
import io
import json
import os
import pathlib
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # NumPy's threads; the workers are parallel already
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / 'data' / 'metaworld'))

import demonstrations
import jax
import numpy as np
import tyro
from machine import describe
from PIL import Image

from rtjax import configs, models
from rtjax.actions import METAWORLD
from rtjax.data.augment import augment
from rtjax.data.item_store import ItemStore
from rtjax.data.windows import next_changes
from rtjax.envs.metaworld_tasks import DIFFICULTY
from rtjax.evaluation.closed_loop import agents, environment, evaluator
from rtjax.language.instructions import HASHED_NGRAMS, hashed_ngrams
from rtjax.observation import Batch, Observation
from rtjax.runtime import compiler, serialization
from rtjax.training import initialize, meter
from rtjax.training import optimizer as optimizers
from rtjax.training.checkpoint import RunCheckpoints
from rtjax.training.config import TrainConfig
from rtjax.training.state import TrainState, create, split
from rtjax.training.step import eval_step, train_step

Arrays = dict[str, Any]
Log = Callable[..., None]

_VALIDATION_BATCH = 512
_REPORTED = ('action_loss', 'l1', 'waypoint_distance')


@dataclasses.dataclass(frozen=True)
class Options:
  """Record, train and evaluate."""
  out: pathlib.Path
  """Folder of the episodes, of the run and of its report."""
  tasks: str = 'mt10'
  """Suite or task to learn."""
  recorded: str = ''
  """Suite that was recorded, if `tasks` is a part of it, such as mt50 for mt10; empty: `tasks`."""
  episodes: int = 50
  """Training demonstrations of each task."""
  steps: int = 40_000
  """Training steps; the learning rate decays over them."""
  batch_size: int = 256
  """Windows of a step."""
  learning_rate: float = 1e-3
  """Peak of the learning rate."""
  image_size: int = 96
  """Height and width of the images."""
  width: int = 0
  """Width of the transformer and twice that of its tokens; 0: as in the preset."""
  seed: int = 0
  """Of the initial weights and the batches."""
  seconds: float = 0.0
  """Longest time of training, compilation included; it then ends at its next report. 0 = none."""
  reports: int = 20
  """Reports of the training."""
  name: str = ''
  """Name of the run; empty: `tasks` and `seed`."""
  evaluations: int = 10
  """Evaluated episodes of each task."""
  only: tuple[Literal['record', 'train', 'evaluate'], ...] = ('record', 'train', 'evaluate')
  """Parts to run."""
  workers: int = 0
  """Processes that record and simulate; 0 means one per core."""
  tiny: bool = False
  """Try all parts with one task, two demonstrations and twenty steps."""

  def recording(self) -> demonstrations.RecordingConfig:
    return demonstrations.RecordingConfig(self.recorded or self.tasks, self.episodes,
                                          image_size=(self.image_size, self.image_size))

  def store(self) -> ItemStore:
    recording = self.recording()
    folder = f'{recording.tasks}-{self.episodes}x{self.image_size}'
    return ItemStore(self.out / folder, demonstrations.EPISODES_PER_FILE)

  def run(self) -> pathlib.Path:
    return self.out / (self.name or f'{self.tasks}-{self.seed}')

  def config(self) -> TrainConfig:
    """Return the preset with these options."""
    preset = configs.get('rt1_metaworld')
    size = {'width': self.width, 'token_width': self.width // 2} if self.width else {}
    model = dataclasses.replace(preset.model, image_size=(self.image_size, self.image_size), **size)
    return dataclasses.replace(
        preset, data=('metaworld',), steps=self.steps, batch_size=self.batch_size, model=model,
        optimizer=dataclasses.replace(preset.optimizer, learning_rate=self.learning_rate))


def main(options: Options) -> None:
  log = functools.partial(_log, time.perf_counter())
  if options.tiny:
    options = dataclasses.replace(options, tasks='reach-v3', recorded='', episodes=2, steps=20, batch_size=8, reports=2,
                                  evaluations=2)
  log('start', **describe())
  for part in (record, train, evaluate):
    if part.__name__ in options.only:
      part(options, functools.partial(log, part.__name__))


def record(options: Options, log: Log) -> None:
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


def _record(config: demonstrations.RecordingConfig, first: int, end: int) -> list[Arrays]:
  return [_episode(found) for found in demonstrations.record(config, first, end)]


def _episode(found: Arrays) -> Arrays:
  """Return an episode's arrays: images uint8 [L, H, W, 3], actions and proprioception float32 [L, 4], waypoints."""
  steps = found['steps']
  actions, states = (np.stack(values).astype(np.float32) for values in (
      [step['action'] for step in steps], [step['observation']['state'] for step in steps]))
  changes = next_changes(METAWORLD.gripper_commands(actions))
  metadata = found['episode_metadata']
  return {'images': np.stack([np.asarray(Image.open(io.BytesIO(step['observation']['image']))) for step in steps]),
          'actions': actions, 'proprioception': states, 'waypoints': states[changes, :3],
          'instruction': steps[0]['language_instruction'],
          'task': metadata['task'], 'failed_attempts': metadata['failed_attempts']}


def load(options: Options, name: str) -> Arrays:
  """Return one row per step, and one row per sentence.

  'sentence' is each step's row in 'instruction', float32 [n, 512].
  """
  tasks = dataclasses.replace(options.recording(), tasks=options.tasks).task_names
  span = options.recording().splits()[name]
  episodes = [episode for episode in options.store().read(*span) if episode['task'] in tasks]
  if not episodes:
    raise ValueError(f'{options.store().folder} holds no episodes of {options.tasks}: record them, or set --recorded.')
  sentences = sorted({episode['instruction'] for episode in episodes})
  lengths = [len(episode['actions']) for episode in episodes]
  return {field: np.concatenate([episode[field] for episode in episodes])
          for field in ('images', 'actions', 'proprioception', 'waypoints')} | {
      'sentence': np.repeat([sentences.index(episode['instruction']) for episode in episodes], lengths),
      'instruction': np.stack([hashed_ngrams(text) for text in sentences]), 'episodes': len(episodes)}


def train(options: Options, log: Log) -> None:
  """Train on the recorded episodes, and save a run."""
  config, arrays = options.config(), load(options, 'train')
  statistics = _statistics(arrays, options)
  pool, held_out = (jax.device_put({k: v for k, v in a.items() if k != 'episodes'})
                    for a in (arrays, load(options, 'val')))
  model = models.build(config.model, seed=options.seed)
  initialize.set_normalization(model, statistics)
  optimizer = optimizers.build(config.optimizer, config.steps)
  graphdef, *trees = split(model)
  state = create(*trees, jax.random.key(options.seed), optimizer=optimizer, ema=True)
  vary = functools.partial(augment, config=config.augment, action_spec=config.model.action_spec)
  count = max(config.steps // options.reports, 1)

  @functools.partial(jax.jit, donate_argnums=0, compiler_options=compiler.options())
  def take_steps(state: TrainState, key: jax.Array, pool: Arrays) -> tuple[TrainState, Any]:
    def one(state: TrainState, key: jax.Array) -> tuple[TrainState, Any]:
      rows = jax.random.randint(key, (config.batch_size,), 0, len(pool['actions']))
      state, out = train_step(state, _batch(pool, rows), graphdef=graphdef, optimizer=optimizer,
                              ema_decay=config.optimizer.ema_decay, augment=vary)
      return state, {name: out[name] for name in ('loss', 'finite')}
    return jax.lax.scan(one, state, jax.random.split(key, count))

  log(windows=len(arrays['actions']), held_out=len(held_out['actions']))
  key, left, begun = jax.random.key(options.seed + 1), config.steps, time.perf_counter()
  while left >= count and not 0 < options.seconds < time.perf_counter() - begun:
    key, part = jax.random.split(key)
    start = time.perf_counter()
    state, out = jax.block_until_ready(take_steps(state, part, pool))
    seconds, left = time.perf_counter() - start, left - count
    log(left=left, seconds=round(seconds, 2), step_ms=round(1e3 * seconds / count, 2),
        loss=round(float(out['loss'].mean()), 4), **({} if bool(out['finite'].all()) else {'finite': False}))
  row = _validate(config, graphdef, state, held_out)
  log(validation={name: round(value, 4) for name, value in row.items()})
  _save(options, dataclasses.replace(state, params=state.eval_params, ema=None, opt_state=()), config, row, statistics)


def _batch(pool: Arrays, rows: Any) -> Batch:
  one = np.ones((len(rows), 1), bool)
  observation = Observation(pool['images'][rows][:, None], one, pool['instruction'][pool['sentence'][rows]],
                            proprioception=pool['proprioception'][rows][:, None])
  return Batch(observation, pool['actions'][rows][:, None, None], one[..., None], pool['waypoints'][rows][:, None])


def _validate(config: TrainConfig, graphdef: Any, state: TrainState, pool: Arrays) -> meter.Row:
  """Return metrics over held-out steps.

  A rest that fills no batch is left out.
  """
  evaluate = jax.jit(lambda state, rows, pool: eval_step(state, _batch(pool, rows), graphdef=graphdef).metrics)
  sums: dict[str, Any] = {}
  for rows in _rows(len(pool['actions'])):
    metrics = jax.device_get(evaluate(state, rows, pool))
    sums = meter.add(sums, {name: metrics[name] for name in _REPORTED if name in metrics})
  return meter.averages(sums, {'l1': list(config.model.action_spec.dimension_names)})


def _rows(count: int) -> Iterator[np.ndarray]:
  size = min(_VALIDATION_BATCH, count)
  yield from np.random.default_rng(0).permutation(count)[:count // size * size].reshape(-1, size)


def _statistics(arrays: Arrays, options: Options) -> dict[str, Any]:
  """Return the part of `rtjax.data.statistics` that models and evaluation use."""
  return {'metaworld': {
      'name': 'metaworld', 'split': 'train', 'embedding_id': HASHED_NGRAMS, 'renderer': 'gl',
      'image_size': [options.image_size] * 2, 'episodes': arrays['episodes'], 'steps': len(arrays['actions']),
      'instruction': _moments(arrays['instruction'][arrays['sentence']]),
      'action': {'names': list(METAWORLD.dimension_names), **_moments(arrays['actions'])},
      'proprioception': _moments(arrays['proprioception'])}}


def _moments(values: np.ndarray) -> dict[str, list[float]]:
  return {'mean': values.mean(0, np.float64).tolist(), 'std': values.std(0, dtype=np.float64).tolist()}


def _save(options: Options, state: TrainState, config: TrainConfig, metrics: meter.Row,
          statistics: dict[str, Any]) -> None:
  """Write a checkpoint to evaluate, and a tar of it."""
  run, train_json = options.run(), serialization.to_json(config)
  with RunCheckpoints(run) as saves:
    saves.save(state, {'config': models.config_to_json(config.model), 'train': train_json, 'statistics': statistics,
                       'embedding_id': HASHED_NGRAMS, 'data': [], 'metrics': metrics})
  (run / 'config.json').write_text(json.dumps(train_json))
  with tarfile.open(run.with_suffix('.tar'), 'w') as tar:
    tar.add(run, run.name)


def evaluate(options: Options, log: Log) -> None:
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


def _log(start: float, part: str, **values: Any) -> None:
  print(json.dumps({'part': part, 'at': round(time.perf_counter() - start, 1), **values}), flush=True)


if __name__ == '__main__':
  main(tyro.cli(Options))
