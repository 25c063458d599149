"""RT-2 against RT-1 in the embedded simulator, trained on one GPU.

    python bench/rt2_claim.py --out /tmp/claim            # data, stage 1, then all arms; a checkpoint of each
    python eval.py /tmp/claim/both-0 --env tabletop ...   # where there are cores to simulate with

    rt1       rt1_tabletop on robot episodes
    scratch   rt2_tabletop on robot episodes
    robots    rt2_tabletop from stage 1, on robot episodes
    both      rt2_tabletop from stage 1, on robot episodes and image-text pairs

All data is on the device, and batches are drawn there with replacement. Network, loss, optimizer, augmentation and
training step are those of train.py with the presets. Runs of one network go side by side through one `vmap`, since so
small a network leaves most of a GPU idle. Each report is a line of JSON; `--only` repeats a part.
"""
import dataclasses
import functools
import json
import pathlib
import tarfile
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tabletop_arrays as arrays
import tyro
from flax import nnx
from machine import describe

from rtjax import checkpoints, configs, models
from rtjax.data.augment import augment
from rtjax.language.instructions import HASHED_NGRAMS
from rtjax.language.prompts import TASKS
from rtjax.language.tokenizer import Tokenizer
from rtjax.models import PolicyConfig, PolicyModel
from rtjax.observation import Batch, Observation, TextBatch
from rtjax.runtime import compiler, serialization
from rtjax.training import initialize, meter
from rtjax.training import optimizer as optimizers
from rtjax.training.checkpoint import RunCheckpoints
from rtjax.training.config import TextConfig, TrainConfig
from rtjax.training.state import TrainState, Tree, create, split
from rtjax.training.step import eval_step, train_step

Pool = dict[str, dict[str, jax.Array]]  # 'windows' and 'pairs' of a split, see tabletop_arrays.py
Draw = Callable[[Pool, jax.Array], Batch]
Log = Callable[..., None]

_VALIDATION_BATCH = 512
_REPORTED = ('action_loss', 'l1', 'waypoint_distance', 'text_loss', 'pointing', 'answers')


@dataclasses.dataclass(frozen=True)
class Options:
  """Train the arms of the comparison."""
  out: pathlib.Path
  """Folder of the data and of the checkpoints."""
  images: int = 12000
  """Training images with questions; a tenth as many more are held out."""
  episodes: int = 4000
  """Training demonstrations of picking; a tenth as many more are held out."""
  pretraining: int = 40000
  """Steps of stage 1."""
  steps: int = 20000
  """Steps of each policy."""
  batch_size: int = 96
  """Windows of a step; in stage 1 pairs."""
  pairs: int = 48
  """Image-text pairs of a step beside the windows."""
  seeds: int = 2
  """Runs of each arm."""
  only: tuple[Literal['stage1', 'rt2', 'rt1'], ...] = ('stage1', 'rt2', 'rt1')
  """Parts to train; 'rt2' starts from the checkpoints of 'stage1'."""
  reports: int = 10
  """Reports of a training."""
  seconds: float = 0.0
  """Longest time of a training, compilation included; it then ends at its next report. 0 = none."""
  workers: int = 0
  """Processes that make the data; 0 means one per core."""


def main(options: Options) -> None:
  data, log = Data(options), functools.partial(_log, time.perf_counter())
  log('data', windows=len(data.train['windows']['actions']), pairs=len(data.train['pairs']['tasks']), **describe())
  parts = {'stage1': stage1, 'rt2': rt2, 'rt1': rt1}
  for name, part in parts.items():
    if name in options.only:
      part(options, data, log)


class Data:
  """Arrays of both splits on the device, statistics and tokenizer."""

  def __init__(self, options: Options):
    self.tokenizer = Tokenizer()
    preset = configs.get('rt2_tabletop')
    model = preset.model.with_tokenizer(self.tokenizer)
    self.preset = dataclasses.replace(preset, model=model)
    items = arrays.load_questions(options.out, options.images, options.workers)
    episodes = arrays.load_episodes(options.out, options.episodes, options.workers)
    self.statistics = arrays.statistics(episodes['train'])
    self.train, self.val = (jax.device_put({
        'windows': arrays.window_arrays(episodes[name], self.tokenizer, model.prompt_length),
        'pairs': arrays.pair_arrays(items[name], self.tokenizer, model.prompt_length, model.answer_length)})
        for name in ('train', 'val'))


def stage1(options: Options, data: Data, log: Log) -> None:
  """Train on image-text pairs alone, one run for each seed."""
  config = dataclasses.replace(data.preset, steps=options.pretraining, batch_size=options.batch_size,
                               text=_with_pairs(data.preset, options.batch_size))
  starts = [_trees(models.build(config.model, seed=seed)) for seed in range(options.seeds)]
  ends = train(config, starts, data, options, functools.partial(log, 'stage1'))
  for seed, (state, metrics) in enumerate(ends):
    save(options, f'stage1-{seed}', state, config, metrics, tokenizer=data.tokenizer.to_json(), lineage={})


def rt2(options: Options, data: Data, log: Log) -> None:
  """Train the three arms of RT-2, each seed from its own stage 1."""
  robots = dataclasses.replace(data.preset, data=('tabletop',), steps=options.steps, batch_size=options.batch_size)
  both = dataclasses.replace(robots, text=_with_pairs(robots, options.pairs))
  for names, config in ((('scratch', 'robots'), robots), (('both',), both)):
    arms = [(name, seed) for name in names for seed in range(options.seeds)]
    weights = ['' if name == 'scratch' else str(options.out / f'stage1-{seed}') for name, seed in arms]
    starts = [_trees(_initial_model(config, seed, path, data)) for (_, seed), path in zip(arms, weights, strict=True)]
    report = functools.partial(log, 'rt2', arms=[f'{name}-{seed}' for name, seed in arms])
    ends = train(config, starts, data, options, report)
    for (name, seed), path, (state, metrics) in zip(arms, weights, ends, strict=True):
      save(options, f'{name}-{seed}', state, config, metrics, tokenizer=data.tokenizer.to_json(),
           lineage={'weights': path} if path else {}, statistics=data.statistics, embedding_id=data.tokenizer.id)


def rt1(options: Options, data: Data, log: Log) -> None:
  """Train RT-1, one run after another: convolutions gain nothing from `vmap`."""
  config = dataclasses.replace(configs.get('rt1_tabletop'), data=('tabletop',), steps=options.steps,
                               batch_size=options.batch_size)
  for seed in range(options.seeds):
    start = _trees(_initial_model(config, seed, '', data))
    (state, metrics), = train(config, [start], data, options, functools.partial(log, 'rt1', seed=seed))
    save(options, f'rt1-{seed}', state, config, metrics, statistics=data.statistics, embedding_id=HASHED_NGRAMS)


def train(config: TrainConfig, starts: Sequence[Tree], data: Data, options: Options, log: Log
          ) -> list[tuple[TrainState, meter.Row]]:
  """Train one network from several starts side by side.

  Args:
    starts: parameters, batch statistics and constants of each run.

  Returns:
    State and validation metrics of each run; the moving average has replaced the parameters.
  """
  optimizer = optimizers.build(config.optimizer, config.steps)
  graphdef, *_ = split(models.abstract(config.model))
  vary = functools.partial(augment, config=config.augment, action_spec=config.model.action_spec)
  runs = [create(*trees, jax.random.key(seed), optimizer=optimizer, ema=True) for seed, trees in enumerate(starts)]
  states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
  count = max(config.steps // options.reports, 1)

  def step(state: TrainState, key: jax.Array, pool: Pool) -> tuple[TrainState, Tree]:
    return train_step(state, draw(pool, key, config), graphdef=graphdef, optimizer=optimizer,
                      ema_decay=config.optimizer.ema_decay, augment=vary if config.data else None,
                      text_loss_weight=config.text.loss_weight if config.text else 1.0)

  @functools.partial(jax.jit, donate_argnums=0, compiler_options=compiler.options())
  def take_steps(states: TrainState, key: jax.Array, pool: Pool) -> tuple[TrainState, Tree]:
    def one(states: TrainState, key: jax.Array) -> tuple[TrainState, Tree]:
      return jax.vmap(step, (0, 0, None))(states, jax.random.split(key, len(starts)), pool)
    states, out = jax.lax.scan(one, states, jax.random.split(key, count))
    return states, {'loss': out['loss'].mean(0), 'finite': out['finite'].all(0)}

  key, left, begun = jax.random.key(1), config.steps, time.perf_counter()
  while left >= count and not 0 < options.seconds < time.perf_counter() - begun:
    key, part = jax.random.split(key)
    start = time.perf_counter()
    states, out = jax.block_until_ready(take_steps(states, part, data.train))
    seconds, left = time.perf_counter() - start, left - count
    log(left=left, seconds=round(seconds, 2), step_ms=round(1e3 * seconds / count, 2),
        loss=[round(float(loss), 4) for loss in out['loss']],
        **({} if bool(out['finite'].all()) else {'finite': out['finite'].tolist()}))
  rows = validate(config, graphdef, states, data.val)
  log(validation=[{name: round(value, 4) for name, value in row.items()} for row in rows])
  alone = [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(len(starts))]
  return [(dataclasses.replace(state, params=state.eval_params, ema=None, opt_state=()), row)
          for state, row in zip(alone, rows, strict=True)]


def validate(config: TrainConfig, graphdef: nnx.GraphDef, states: TrainState, pool: Pool) -> list[meter.Row]:
  """Return each run's metrics over held-out windows and pairs.

  A rest that fills no batch is left out.
  """
  evaluate = jax.jit(jax.vmap(lambda state, batch: eval_step(state, batch, graphdef=graphdef).metrics, (0, None)))
  batches: list[Batch] = []
  if config.data:
    batches += [_windows(pool['windows'], rows, config.model) for rows in _batches(len(pool['windows']['actions']))]
  if config.text_data:
    batches += [Batch(text=_pairs(pool['pairs'], rows)) for rows in _batches(len(pool['pairs']['tasks']))]
  runs = len(states.step)
  sums: list[dict[str, Any]] = [{} for _ in range(runs)]
  for batch in batches:
    metrics = jax.device_get(evaluate(states, batch))
    for i in range(runs):
      sums[i] = meter.add(sums[i], {name: (total[i], number[i]) for name, (total, number) in metrics.items()
                                    if name in _REPORTED})
  labels = {'l1': list(config.model.action_spec.dimension_names), 'answers': list(TASKS)}
  return [meter.averages(found, labels) for found in sums]


def draw(pool: Pool, key: jax.Array, config: TrainConfig) -> Batch:
  """Draw a batch, with replacement."""
  for_windows, for_pairs = jax.random.split(key)
  batch = Batch()
  if config.data:
    rows = jax.random.randint(for_windows, (config.batch_size,), 0, len(pool['windows']['actions']))
    batch = _windows(pool['windows'], rows, config.model)
  if config.text and config.text_data:
    batch = dataclasses.replace(batch, text=_draw_pairs(pool['pairs'], for_pairs, config.text))
  return batch


def _draw_pairs(pool: dict[str, jax.Array], key: jax.Array, config: TextConfig) -> TextBatch:
  """Draw tasks by their weights, and of each any pair."""
  weights = dataclasses.asdict(config.pipeline.tasks)
  for_tasks, for_rows = jax.random.split(key)
  logits = jnp.log(jnp.array([weights.get(task, 0.0) for task in TASKS]))
  tasks = jax.random.categorical(for_tasks, logits, shape=(config.batch_size,))
  first, end = pool['first'][tasks], pool['first'][tasks + 1]
  return _pairs(pool, jax.random.randint(for_rows, tasks.shape, first, end))


def _windows(pool: dict[str, jax.Array], rows: Any, model: PolicyConfig) -> Batch:
  sentence, one = pool['sentence'][rows], jnp.ones((len(rows), 1), bool)
  language = {'prompt': pool['prompt'][sentence]} if model.reads_prompts else {
      'instruction': pool['instruction'][sentence]}
  observation = Observation(pool['images'][rows][:, None], one, proprioception=pool['proprioception'][rows][:, None],
                            **language)
  return Batch(observation, pool['actions'][rows][:, None, None], one[..., None], pool['waypoints'][rows][:, None])


def _pairs(pool: dict[str, jax.Array], rows: Any) -> TextBatch:
  return TextBatch(images=pool['images'][pool['image'][rows]], **{
      name: pool[name][rows] for name in ('prompts', 'targets', 'tasks', 'points', 'grid')})


def _batches(count: int) -> list[np.ndarray]:
  size = min(_VALIDATION_BATCH, count)
  return list(np.random.default_rng(0).permutation(count)[:count // size * size].reshape(-1, size))


def _with_pairs(config: TrainConfig, batch_size: int) -> TextConfig:
  assert config.text is not None
  return dataclasses.replace(config.text, data=('tabletop_qa',), batch_size=batch_size)


def _initial_model(config: TrainConfig, seed: int, weights: str, data: Data) -> PolicyModel:
  """Return a new network or that of a checkpoint, with new statistics."""
  model = checkpoints.load(weights)[0] if weights else models.build(config.model, seed=seed)
  model.tokenizer = None
  initialize.set_normalization(model, data.statistics)
  return model


def _trees(model: PolicyModel) -> Tree:
  return split(model)[1:]


def save(options: Options, name: str, state: TrainState, config: TrainConfig, metrics: meter.Row,
         **metadata: Any) -> None:
  """Write a checkpoint to evaluate, and a tar of it."""
  run, train_json = options.out / name, serialization.to_json(config)
  with RunCheckpoints(run) as saves:
    saves.save(state, {'config': models.config_to_json(config.model), 'train': train_json, 'statistics': {},
                       'embedding_id': '', 'data': [], 'metrics': metrics} | metadata)
  (run / 'config.json').write_text(json.dumps(train_json))
  with tarfile.open(run.with_suffix('.tar'), 'w') as tar:
    tar.add(run, name)


def _log(start: float, part: str, **values: Any) -> None:
  print(json.dumps({'part': part, 'at': round(time.perf_counter() - start, 1), **values}), flush=True)


if __name__ == '__main__':
  main(tyro.cli(Options))
