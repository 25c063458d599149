"""RT-2's claim in the embedded simulator, on one GPU: four policies, trained out of the device's memory.

  python bench/rt2_claim.py --out /tmp/claim            data, stage 1, then all arms; a checkpoint of each
  python eval.py /tmp/claim/both-0 --env tabletop ...   judged where there are cores to simulate with

    rt1       rt1_tabletop, robots alone
    scratch   rt2_tabletop, robots alone
    robots    rt2_tabletop from stage 1, robots alone
    both      rt2_tabletop from stage 1, robots and texts

Network, loss, optimizer, augmentation and train step are those of train.py with the presets; batches are larger, and
drawn with replacement on the device. Runs of one network go side by side through one `vmap`: so small a network
leaves most of a GPU idle. One line of JSON for each report; `--only` repeats a part.
"""
import dataclasses
import functools
import json
import pathlib
import tarfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tabletop_arrays as arrays
import tyro
from flax import nnx
from machine import describe

from rtjax import configs, models
from rtjax.data.augment import augment
from rtjax.language.instructions import HASHED_NGRAMS
from rtjax.language.prompts import KINDS
from rtjax.language.tokenizer import Tokenizer
from rtjax.models import vocabulary
from rtjax.runtime import compiler
from rtjax.training import checkpoint, cotrain, initialize
from rtjax.training import optimizer as optimizers
from rtjax.training.config import TrainConfig
from rtjax.training.state import TrainState, create, split
from rtjax.training.step import eval_step, train_step

Tree = Any
_VALIDATE = 512  # rows of a batch of validation


@dataclasses.dataclass(frozen=True)
class Options:
  """Trains the arms of the comparison."""
  out: pathlib.Path
  """Folder of the data and of the checkpoints."""
  pictures: int = 12000
  """Pictures with questions to train on; a tenth as many more are held out."""
  episodes: int = 4000
  """Demonstrations of picking; the same."""
  pretraining: int = 40000
  """Steps of stage 1."""
  steps: int = 20000
  """Steps of each policy."""
  batch_size: int = 96
  """Windows of a step, of RT-1 too."""
  pairs: int = 48
  """Pairs of a picture and a text beside them; of stage 1 as many as `batch_size`."""
  seeds: int = 2
  """Runs of each arm."""
  only: tuple[str, ...] = ('stage1', 'rt2', 'rt1')
  """What to train; 'rt2' needs what 'stage1' left in OUT."""
  report: int = 10
  """Reports of a training."""
  seconds: float = 0.0
  """Longest time of a training, compilation included, after which it ends at its next report as it is; 0 = none."""
  workers: int = 0
  """Processes that make the data; 0 means one per core."""


def main(options: Options) -> None:
  data, log = Data(options), functools.partial(_say, time.perf_counter())
  log('data', windows=len(data.robots['train']['actions']), pairs=len(data.texts['train']['kinds']), **describe())
  if 'stage1' in options.only:
    stage1(options, data, log)
  if 'rt2' in options.only:
    rt2(options, data, log)
  if 'rt1' in options.only:
    rt1(options, data, log)


class Data:
  """All of it on the device, and what a checkpoint is to remember of it."""

  def __init__(self, options: Options):
    self.tokenizer = Tokenizer()
    preset = configs.get('rt2_tabletop')
    self.rt2 = dataclasses.replace(preset, model=vocabulary.fitted(preset.model, self.tokenizer))
    model: Any = self.rt2.model
    pictures = arrays.questions(options.out, options.pictures, options.workers)
    episodes = arrays.robots(options.out, options.episodes, options.workers)
    self.statistics = arrays.statistics(episodes['train'])
    self.robots = {name: jax.device_put(arrays.windows(part, self.tokenizer, model.prompt_length))
                   for name, part in episodes.items()}
    self.texts = {name: jax.device_put(arrays.texts(part, self.tokenizer, model.prompt_length, model.answer_length))
                  for name, part in pictures.items()}


def stage1(options: Options, data: Data, log: Callable[..., None]) -> None:
  """Texts alone; one run for each seed."""
  config = dataclasses.replace(data.rt2, image_text=('tabletop_qa',), steps=options.pretraining,
                               batch_size=options.batch_size)
  def draw(pool: Tree, key: jax.Array) -> Tree:
    return draw_texts(pool['texts'], key, options.batch_size, config)
  starts = [_trees(models.build(config.model, rngs=nnx.Rngs(seed))) for seed in range(options.seeds)]
  pools = {split: {'texts': data.texts[split]} for split in ('train', 'val')}
  states = train(config, starts, pools, draw, options, functools.partial(log, 'stage1'))
  for seed, (state, row) in enumerate(states):
    save(options, f'stage1-{seed}', state, config, row, vocabulary=vocabulary.stored(data.tokenizer), origin={})


def rt2(options: Options, data: Data, log: Callable[..., None]) -> None:
  """The three arms of RT-2, each seed from its own stage 1."""
  alone = dataclasses.replace(data.rt2, data=('tabletop',), steps=options.steps, batch_size=options.batch_size)
  beside = dataclasses.replace(alone, image_text=('tabletop_qa',), image_text_batch_size=options.pairs)
  pools = {split: {'robots': data.robots[split], 'texts': data.texts[split]} for split in ('train', 'val')}
  def draw_robots(pool: Tree, key: jax.Array) -> Tree:
    return draw_windows(pool['robots'], key, options.batch_size, 'prompts')
  def draw_both(pool: Tree, key: jax.Array) -> Tree:
    robots, texts = jax.random.split(key)
    return draw_robots(pool, robots) | draw_texts(pool['texts'], texts, options.pairs, beside)
  for names, config, draw in ((('scratch', 'robots'), alone, draw_robots), (('both',), beside, draw_both)):
    arms = [(arm, seed) for arm in names for seed in range(options.seeds)]
    starts = [_trees(_started(config, seed, None if arm == 'scratch' else options.out / f'stage1-{seed}',
                              data.statistics)) for arm, seed in arms]
    report = functools.partial(log, 'rt2', arms=[f'{arm}-{seed}' for arm, seed in arms])
    ends = train(config, starts, pools, draw, options, report)
    for (arm, seed), (state, row) in zip(arms, ends, strict=True):
      origin = {} if arm == 'scratch' else {'init_from': f'stage1-{seed}', 'image_text': ['tabletop_qa'],
                                            'steps': options.pretraining, 'batch_size': options.batch_size}
      save(options, f'{arm}-{seed}', state, config, row, vocabulary=vocabulary.stored(data.tokenizer), origin=origin,
           statistics=data.statistics, embedding_id=data.tokenizer.id)


def rt1(options: Options, data: Data, log: Callable[..., None]) -> None:
  """RT-1, one run after the other: convolutions gain nothing from `vmap`."""
  config = dataclasses.replace(configs.get('rt1_tabletop'), data=('tabletop',), steps=options.steps,
                               batch_size=options.batch_size)
  def draw(pool: Tree, key: jax.Array) -> Tree:
    return draw_windows(pool['robots'], key, options.batch_size, 'embeddings')
  pools = {split: {'robots': data.robots[split]} for split in ('train', 'val')}
  for seed in range(options.seeds):
    start = _trees(_started(config, seed, None, data.statistics))
    (state, row), = train(config, [start], pools, draw, options, functools.partial(log, 'rt1', seed=seed))
    save(options, f'rt1-{seed}', state, config, row, statistics=data.statistics, embedding_id=HASHED_NGRAMS)


def train(config: TrainConfig, starts: Sequence[Tree], pools: dict[str, Tree],
          draw: Callable[[Tree, jax.Array], Tree], options: Options, log: Callable[..., None]
          ) -> list[tuple[TrainState, dict[str, float]]]:
  """Trains one network from several starts side by side.

  Args:
    starts: parameters, batch statistics and constants of each run.
    pools: the arrays of 'train' and 'val'.
    draw: a batch of a pool.

  Returns:
    The state and the validation of each run, moving average in place of the parameters.
  """
  optimizer = optimizers.build(config.optimizer, config.steps)
  graphdef, *_ = split(models.abstract(config.model))
  vary = functools.partial(augment, config=config.augment, action_spec=config.model.action_spec)
  runs = [create(*trees, jax.random.key(seed), optimizer=optimizer, ema=True) for seed, trees in enumerate(starts)]
  states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
  count = max(config.steps // options.report, 1)

  def step(state: TrainState, key: jax.Array, pool: Tree) -> tuple[TrainState, Tree]:
    return train_step(
        state, draw(pool, key), graphdef=graphdef, optimizer=optimizer, ema_decay=config.optimizer.ema_decay,
        augment=vary if config.data else None, balance=functools.partial(cotrain.balance, weight=config.vqa_weight))

  @functools.partial(jax.jit, donate_argnums=0, compiler_options=compiler.options())
  def go_on(states: TrainState, key: jax.Array, pool: Tree) -> tuple[TrainState, Tree]:
    def one(states: TrainState, key: jax.Array) -> tuple[TrainState, Tree]:
      keys = jax.random.split(key, len(starts))
      return jax.vmap(step, (0, 0, None))(states, keys, pool)
    states, out = jax.lax.scan(one, states, jax.random.split(key, count))
    return states, {'loss': out['loss'].mean(0), 'finite': out['finite'].all(0)}

  key, left, begun = jax.random.key(1), config.steps, time.perf_counter()
  while left >= count and not 0 < options.seconds < time.perf_counter() - begun:
    key, part = jax.random.split(key)
    start = time.perf_counter()
    states, out = jax.block_until_ready(go_on(states, part, pools['train']))
    seconds, left = time.perf_counter() - start, left - count
    log(left=left, seconds=round(seconds, 2), step_ms=round(1e3 * seconds / count, 2), loss=_rounded(out['loss']),
        **({} if bool(out['finite'].all()) else {'finite': out['finite'].tolist()}))
  rows = validate(config, graphdef, states, pools['val'])
  log(validation=[{name: round(value, 4) for name, value in row.items()} for row in rows])
  alone = [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(len(starts))]
  return [(dataclasses.replace(s, params=s.weights, ema=None, opt_state=()), row)
          for s, row in zip(alone, rows, strict=True)]


def validate(config: TrainConfig, graphdef: nnx.GraphDef, states: TrainState, pool: Tree) -> list[dict[str, float]]:
  """Averages over the held-out windows and texts, but for a rest that fills no batch, of each run."""
  judge = jax.jit(jax.vmap(lambda state, batch: eval_step(state, batch, graphdef=graphdef).metrics, (0, None)))
  sums: dict[str, Any] = {}
  parts = []
  if 'robots' in pool:
    name = 'prompts' if isinstance(config.model, models.RT2Config) else 'embeddings'
    parts += [_windows(pool['robots'], rows, name) for rows in _batches(len(pool['robots']['actions']))]
  if 'texts' in pool:
    parts += [cotrain.balance(_pairs(pool['texts'], rows), 1.0) for rows in _batches(len(pool['texts']['kinds']))]
  for part in parts:
    for name, pair in jax.device_get(judge(states, part)).items():
      sums[name] = [a + b for a, b in zip(sums[name], pair, strict=True)] if name in sums else list(pair)
  reported = ('action_loss', 'l1', 'waypoint_distance', 'text_loss', 'words_loss', 'pointing', 'answers')
  wanted = [name for name in reported if name in sums]
  labels = {'l1': config.model.action_spec.number_names, 'answers': KINDS}
  return [{f'{name}/{labels[name][j]}' if name in labels else name: float(total) / float(number)
           for name in wanted
           for j, (total, number) in enumerate(zip(*(np.atleast_1d(x[i]) for x in sums[name]), strict=True)) if number}
          for i in range(len(jax.tree.leaves(states)[0]))]


def draw_windows(pool: Tree, key: jax.Array, size: int, told: str) -> Tree:
  return _windows(pool, jax.random.randint(key, (size,), 0, len(pool['actions'])), told)


def draw_texts(pool: Tree, key: jax.Array, size: int, config: TrainConfig) -> Tree:
  """Kinds by their weights, of each any pair."""
  weights = dataclasses.asdict(config.image_text_pipeline.kinds)
  which, where = jax.random.split(key)
  kinds = jax.random.categorical(which, jnp.log(jnp.array([weights.get(kind, 0.0) for kind in KINDS])), shape=(size,))
  first, end = pool['first'][kinds], pool['first'][kinds + 1]
  place = jax.random.uniform(where, (size,))
  return _pairs(pool, jnp.minimum(first + (place * (end - first)).astype(first.dtype), end - 1))


def _windows(pool: Tree, rows: jax.Array, told: str) -> Tree:
  one = {name: pool[name][rows][:, None] for name in ('images', 'proprioception', 'waypoints')}
  there = jnp.ones((len(rows), 1), bool)
  return one | {'actions': pool['actions'][rows][:, None, None], 'mask': there[..., None], 'frames': there,
                'embeddings': pool[told][pool['sentence'][rows]][:, None]}


def _pairs(pool: Tree, rows: jax.Array) -> Tree:
  return {'text_images': pool['images'][pool['picture'][rows]]} | {
      f'text_{name}': pool[name][rows] for name in ('prompts', 'targets', 'kinds', 'points')}


def _batches(count: int) -> list[np.ndarray]:
  """Rows of equally large batches; of the last ones what does not fill one is left out."""
  size = min(_VALIDATE, count)
  return list(np.random.default_rng(0).permutation(count)[:count // size * size].reshape(-1, size))


def _started(config: TrainConfig, seed: int, before: pathlib.Path | None, statistics: Any) -> Any:
  """A new network, or that of the checkpoint `before`, with what it keeps of the robots' statistics."""
  model = checkpoint.load_model(before) if before else models.build(config.model, rngs=nnx.Rngs(seed))
  initialize.standardize(model, statistics)
  return model


def _trees(model: Any) -> Tree:
  return split(model)[1:]


def save(options: Options, name: str, state: TrainState, config: TrainConfig, row: dict[str, float],
         **metadata: Any) -> None:
  """Writes a checkpoint to act from, and a tar of it to carry away."""
  run = options.out / name
  with checkpoint.Checkpoints(run) as checkpoints:
    checkpoints.save(state, {'config': config.model.to_dict(), 'train': config.to_dict(), 'statistics': {},
                             'embedding_id': '', 'data': [], 'metrics': row} | metadata)
  (run / 'config.json').write_text(json.dumps(config.to_dict()))
  with tarfile.open(run.with_suffix('.tar'), 'w') as tar:
    tar.add(run, name)


def _rounded(values: jax.Array) -> list[float]:
  return [round(float(value), 4) for value in values]


def _say(since: float, what: str, **found: Any) -> None:
  print(json.dumps({'what': what, 'at': round(time.perf_counter() - since, 1), **found}), flush=True)


if __name__ == '__main__':
  main(tyro.cli(Options))
