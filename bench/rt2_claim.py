"""RT-2 against RT-1 in the embedded simulator, trained on one GPU.

    python bench/rt2_claim.py --out /tmp/claim            # data, stage 1, then all arms; a checkpoint of each
    python eval.py /tmp/claim/both-0 --env tabletop ...   # where there are cores to simulate with

    rt1       rt1_tabletop on robot episodes
    scratch   rt2_tabletop on robot episodes
    robots    rt2_tabletop from stage 1, on robot episodes
    both      rt2_tabletop from stage 1, on robot episodes and image-text pairs

The presets are trained by array_training.py. Each report is a line of JSON; `--only` repeats a part.
"""
import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tabletop_arrays as arrays
import tyro
from array_training import Log, held_out_rows, logger, on_device, save, statistics, train, windows
from machine import describe

from rtjax import checkpoints, configs, models
from rtjax.actions import ARM_7D
from rtjax.language.instructions import HASHED_NGRAMS
from rtjax.language.prompts import TASKS
from rtjax.language.tokenizer import Tokenizer
from rtjax.models import PolicyModel
from rtjax.observation import Batch, TextBatch
from rtjax.training import initialize
from rtjax.training.config import TextConfig, TrainConfig
from rtjax.training.meter import Row
from rtjax.training.state import TrainState, Tree, split

Pool = dict[str, dict[str, jax.Array]]  # 'windows' and 'pairs' of a split, see tabletop_arrays.py


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
  data, log = Data(options), logger()
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
    rows = {name: arrays.prompted_windows(found, self.tokenizer, model.prompt_length)
            for name, found in episodes.items()}
    self.statistics = statistics('tabletop', rows['train'], len(episodes['train']), ARM_7D, 'rays')
    self.train, self.val = ({
        'windows': on_device(rows[name]),
        'pairs': on_device(arrays.pair_arrays(items[name], self.tokenizer, model.prompt_length, model.answer_length))}
        for name in ('train', 'val'))


def stage1(options: Options, data: Data, log: Log) -> None:
  """Train on image-text pairs alone, one run for each seed."""
  config = dataclasses.replace(data.preset, steps=options.pretraining, batch_size=options.batch_size,
                               text=_with_pairs(data.preset, options.batch_size))
  starts = [_trees(models.build(config.model, seed=seed)) for seed in range(options.seeds)]
  ends = _train(config, starts, data, options, functools.partial(log, 'stage1'))
  for seed, (state, metrics) in enumerate(ends):
    save(options.out / f'stage1-{seed}', state, config, metrics, tokenizer=data.tokenizer.to_json(), lineage={})


def rt2(options: Options, data: Data, log: Log) -> None:
  """Train the three arms of RT-2, each seed from its own stage 1."""
  robots = dataclasses.replace(data.preset, data=('tabletop',), steps=options.steps, batch_size=options.batch_size)
  both = dataclasses.replace(robots, text=_with_pairs(robots, options.pairs))
  for names, config in ((('scratch', 'robots'), robots), (('both',), both)):
    arms = [(name, seed) for name in names for seed in range(options.seeds)]
    weights = ['' if name == 'scratch' else str(options.out / f'stage1-{seed}') for name, seed in arms]
    starts = [_trees(_initial_model(config, seed, path, data)) for (_, seed), path in zip(arms, weights, strict=True)]
    report = functools.partial(log, 'rt2', arms=[f'{name}-{seed}' for name, seed in arms])
    ends = _train(config, starts, data, options, report)
    for (name, seed), path, (state, metrics) in zip(arms, weights, ends, strict=True):
      save(options.out / f'{name}-{seed}', state, config, metrics, tokenizer=data.tokenizer.to_json(),
           lineage={'weights': path} if path else {}, statistics=data.statistics, embedding_id=data.tokenizer.id)


def rt1(options: Options, data: Data, log: Log) -> None:
  """Train RT-1, one run after another: convolutions gain nothing from `vmap`."""
  config = dataclasses.replace(configs.get('rt1_tabletop'), data=('tabletop',), steps=options.steps,
                               batch_size=options.batch_size)
  for seed in range(options.seeds):
    start = _trees(_initial_model(config, seed, '', data))
    (state, metrics), = _train(config, [start], data, options, functools.partial(log, 'rt1', seed=seed))
    save(options.out / f'rt1-{seed}', state, config, metrics, statistics=data.statistics, embedding_id=HASHED_NGRAMS)


def _train(config: TrainConfig, starts: Sequence[Tree], data: Data, options: Options, log: Log
           ) -> list[tuple[TrainState, Row]]:
  held_out: list[Batch] = []
  if config.data:
    pool = data.val['windows']
    held_out += [windows(pool, rows, config.model) for rows in held_out_rows(len(pool['actions']))]
  if config.text_data:
    pairs = data.val['pairs']
    held_out += [Batch(text=_pairs(pairs, rows)) for rows in held_out_rows(len(pairs['tasks']))]
  return train(config, starts, data.train, functools.partial(draw, config=config), held_out, reports=options.reports,
               seconds=options.seconds, log=log)


def draw(pool: Pool, key: jax.Array, config: TrainConfig) -> Batch:
  """Draw a batch, with replacement."""
  for_windows, for_pairs = jax.random.split(key)
  batch = Batch()
  if config.data:
    rows = jax.random.randint(for_windows, (config.batch_size,), 0, len(pool['windows']['actions']))
    batch = windows(pool['windows'], rows, config.model)
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


def _pairs(pool: dict[str, jax.Array], rows: Any) -> TextBatch:
  return TextBatch(images=pool['images'][pool['image'][rows]], **{
      name: pool[name][rows] for name in ('prompts', 'targets', 'tasks', 'points', 'grid')})


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


if __name__ == '__main__':
  main(tyro.cli(Options))
