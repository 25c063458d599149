"""Training from arrays on one device, for machines without TensorFlow.

All data is on the device, and batches are drawn there with replacement, since a GPU takes small images faster than a
CPU decodes JPEG files. Network, loss, optimizer, augmentation and training step are those of train.py. Runs of one
network go side by side through one `vmap`, since so small a network leaves most of a GPU idle.
"""
import dataclasses
import functools
import io
import json
import pathlib
import tarfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from machine import describe
from PIL import Image

from rtjax import models
from rtjax.actions import ActionSpec
from rtjax.data.augment import augment
from rtjax.data.windows import next_changes
from rtjax.language.instructions import HASHED_NGRAMS, hashed_ngrams
from rtjax.language.prompts import TASKS
from rtjax.models import PolicyConfig
from rtjax.observation import Batch, Observation
from rtjax.runtime import compiler, serialization
from rtjax.training import initialize, meter
from rtjax.training import optimizer as optimizers
from rtjax.training.checkpoint import RunCheckpoints
from rtjax.training.config import TrainConfig
from rtjax.training.state import TrainState, Tree, create, split
from rtjax.training.step import eval_step, train_step

Arrays = dict[str, Any]
Draw = Callable[[Any, jax.Array], Batch]
Log = Callable[..., None]

_VALIDATION_BATCH = 512
_REPORTED = ('action_loss', 'l1', 'waypoint_distance', 'text_loss', 'pointing', 'answers')


def pixels(jpeg: bytes) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(jpeg)))


def episode_arrays(recorded: Arrays, spec: ActionSpec) -> Arrays:
  """Return the arrays of a recorded episode.

  'images' uint8 [L, H, W, 3], 'actions' and 'proprioception' float32 [L, ...], 'waypoints' [L, 3]: the position at the
  gripper's next change, and 'instruction'.
  """
  steps = recorded['steps']
  actions, states = (np.stack(values).astype(np.float32) for values in (
      [step['action'] for step in steps], [step['observation']['state'] for step in steps]))
  return {'images': np.stack([pixels(step['observation']['image']) for step in steps]), 'actions': actions,
          'proprioception': states, 'waypoints': states[next_changes(spec.gripper_commands(actions)), :3],
          'instruction': steps[0]['language_instruction']}


def window_arrays(episodes: Sequence[Arrays]) -> Arrays:
  """Return one row per step, and one row per sentence.

  'sentence' is each step's row in 'instruction', float32 [n, 512], and in 'sentences'.
  """
  sentences = sorted({episode['instruction'] for episode in episodes})
  return {name: np.concatenate([episode[name] for episode in episodes])
          for name in ('images', 'actions', 'proprioception', 'waypoints')} | {
      'sentence': np.repeat([sentences.index(episode['instruction']) for episode in episodes],
                            [len(episode['actions']) for episode in episodes]),
      'sentences': sentences, 'instruction': np.stack([hashed_ngrams(text) for text in sentences])}


def on_device(arrays: Arrays) -> Arrays:
  return jax.device_put({name: value for name, value in arrays.items() if isinstance(value, np.ndarray)})


def statistics(name: str, rows: Arrays, episodes: int, spec: ActionSpec, renderer: str) -> dict[str, Any]:
  """Return the part of `rtjax.data.statistics` that models and evaluation use."""
  return {name: {
      'name': name, 'split': 'train', 'embedding_id': HASHED_NGRAMS, 'renderer': renderer,
      'image_size': list(rows['images'].shape[1:3]), 'episodes': episodes, 'steps': len(rows['actions']),
      'instruction': _moments(rows['instruction'][rows['sentence']]),
      'action': {'names': list(spec.dimension_names), **_moments(rows['actions'])},
      'proprioception': _moments(rows['proprioception'])}}


def _moments(values: np.ndarray) -> dict[str, list[float]]:
  return {'mean': values.mean(0, np.float64).tolist(), 'std': values.std(0, np.float64).tolist()}


def windows(pool: Arrays, rows: Any, model: PolicyConfig) -> Batch:
  """Return a batch of one-frame windows."""
  sentence, one = pool['sentence'][rows], jnp.ones((len(rows), 1), bool)
  language = {'prompt': pool['prompt'][sentence]} if model.reads_prompts else {
      'instruction': pool['instruction'][sentence]}
  observation = Observation(pool['images'][rows][:, None], one, proprioception=pool['proprioception'][rows][:, None],
                            **language)
  return Batch(observation, pool['actions'][rows][:, None, None], one[..., None], pool['waypoints'][rows][:, None])


def held_out_rows(count: int) -> list[np.ndarray]:
  """Return the rows of each full validation batch."""
  size = min(_VALIDATION_BATCH, count)
  return list(np.random.default_rng(0).permutation(count)[:count // size * size].reshape(-1, size))


def draw_windows(pool: Arrays, key: jax.Array, config: TrainConfig) -> Batch:
  """Draw windows, with replacement."""
  return windows(pool, jax.random.randint(key, (config.batch_size,), 0, len(pool['actions'])), config.model)


def train_preset(config: TrainConfig, episodes: dict[str, list[Arrays]], run: pathlib.Path, *, renderer: str,
                 reports: int, seconds: float, log: Log, seed: int = 0) -> None:
  """Train on the episodes of 'train', and save a run."""
  rows = {part: window_arrays(found) for part, found in episodes.items()}
  pools = {part: on_device(found) for part, found in rows.items()}
  spec, (name,) = config.model.action_spec, config.data
  found = statistics(name, rows['train'], len(episodes['train']), spec, renderer)
  model = models.build(config.model, seed=seed)
  initialize.set_normalization(model, found)
  held_out = [windows(pools['val'], batch, config.model) for batch in held_out_rows(len(rows['val']['actions']))]
  log(windows=len(rows['train']['actions']), held_out=len(rows['val']['actions']), **describe())
  (state, metrics), = train(config, [split(model)[1:]], pools['train'], functools.partial(draw_windows, config=config),
                            held_out, reports=reports, seconds=seconds, log=log, seed=seed)
  save(run, state, config, metrics, statistics=found, embedding_id=HASHED_NGRAMS)


def train(config: TrainConfig, starts: Sequence[Tree], pool: Any, draw: Draw, held_out: Sequence[Batch], *,
          reports: int, seconds: float, log: Log, seed: int = 0) -> list[tuple[TrainState, meter.Row]]:
  """Train one network from several starts side by side.

  Args:
    starts: parameters, batch statistics and constants of each run.
    pool: arrays on the device, from which `draw` draws a batch.
    held_out: batches of the validation at the end.
    reports: number of reports.
    seconds: longest time, compilation included; training then ends at its next report. 0 = none.
    seed: of the batches.

  Returns:
    State and validation metrics of each run; the moving average has replaced the parameters.
  """
  optimizer = optimizers.build(config.optimizer, config.steps)
  graphdef, *_ = split(models.abstract(config.model))
  vary = functools.partial(augment, config=config.augment, action_spec=config.model.action_spec)
  runs = [create(*trees, jax.random.key(seed + i), optimizer=optimizer, ema=True) for i, trees in enumerate(starts)]
  states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
  count = max(config.steps // reports, 1)

  def step(state: TrainState, key: jax.Array, pool: Any) -> tuple[TrainState, Tree]:
    return train_step(state, draw(pool, key), graphdef=graphdef, optimizer=optimizer,
                      ema_decay=config.optimizer.ema_decay, augment=vary if config.data else None,
                      text_loss_weight=config.text.loss_weight if config.text else 1.0)

  @functools.partial(jax.jit, donate_argnums=0, compiler_options=compiler.options())
  def take_steps(states: TrainState, key: jax.Array, pool: Any) -> tuple[TrainState, Tree]:
    def one(states: TrainState, key: jax.Array) -> tuple[TrainState, Tree]:
      return jax.vmap(step, (0, 0, None))(states, jax.random.split(key, len(starts)), pool)
    states, out = jax.lax.scan(one, states, jax.random.split(key, count))
    return states, {'loss': out['loss'].mean(0), 'finite': out['finite'].all(0)}

  key, left, begun = jax.random.key(seed + 1), config.steps, time.perf_counter()
  while left >= count and not 0 < seconds < time.perf_counter() - begun:
    key, part = jax.random.split(key)
    start = time.perf_counter()
    states, out = jax.block_until_ready(take_steps(states, part, pool))
    passed, left = time.perf_counter() - start, left - count
    log(left=left, seconds=round(passed, 2), step_ms=round(1e3 * passed / count, 2),
        loss=[round(float(loss), 4) for loss in out['loss']],
        **({} if bool(out['finite'].all()) else {'finite': out['finite'].tolist()}))
  rows = _validate(config, graphdef, states, held_out)
  log(validation=[{name: round(value, 4) for name, value in row.items()} for row in rows])
  alone = [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(len(starts))]
  return [(dataclasses.replace(state, params=state.eval_params, ema=None, opt_state=()), row)
          for state, row in zip(alone, rows, strict=True)]


def _validate(config: TrainConfig, graphdef: nnx.GraphDef, states: TrainState, held_out: Sequence[Batch]
              ) -> list[meter.Row]:
  """Return each run's metrics."""
  evaluate = jax.jit(jax.vmap(lambda state, batch: eval_step(state, batch, graphdef=graphdef).metrics, (0, None)))
  sums: list[dict[str, Any]] = [{} for _ in range(len(states.step))]
  for batch in held_out:
    metrics = jax.device_get(evaluate(states, batch))
    for i, found in enumerate(sums):
      sums[i] = meter.add(found, {name: (total[i], number[i]) for name, (total, number) in metrics.items()
                                  if name in _REPORTED})
  labels = {'l1': list(config.model.action_spec.dimension_names), 'answers': list(TASKS)}
  return [meter.averages(found, labels) for found in sums]


def save(run: pathlib.Path, state: TrainState, config: TrainConfig, metrics: meter.Row, **metadata: Any) -> None:
  """Write a checkpoint to evaluate, and a tar of it."""
  train_json = serialization.to_json(config)
  with RunCheckpoints(run) as saves:
    saves.save(state, {'config': models.config_to_json(config.model), 'train': train_json, 'statistics': {},
                       'embedding_id': '', 'data': [], 'metrics': metrics} | metadata)
  (run / 'config.json').write_text(json.dumps(train_json))
  with tarfile.open(run.with_suffix('.tar'), 'w') as tar:
    tar.add(run, run.name)


def logger() -> Log:
  """Return a function that prints lines of JSON, with the time."""
  start = time.perf_counter()

  def log(part: str, **values: Any) -> None:
    print(json.dumps({'part': part, 'at': round(time.perf_counter() - start, 1), **values}), flush=True)
  return log
