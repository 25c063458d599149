"""Language-Table on one GPU machine without TensorFlow: recording, then training of `rt1_language_table`.

    python bench/language_table_gpu.py --out /tmp/table --path CLONE --only record --episodes 4000   # repeat to go on
    python bench/language_table_gpu.py --out /tmp/table --path CLONE --episodes 4000 --steps 40000
    python eval.py /tmp/table/run --env language_table --path CLONE --episodes 250

Demonstrations are those of data/language_table/generate.py. All windows are on the device, and batches are drawn there
with replacement; network, loss, optimizer and training step are those of train.py with the preset. `--seconds` ends
the recording (finished files are kept) and the training early. Each report is a line of JSON; `--tiny` checks that the
parts run.
"""
import dataclasses
import functools
import io
import json
import os
import pathlib
import sys
import time
from typing import Any, Literal

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # the recording processes are parallel already

import numpy as np
import tyro
from PIL import Image

_DATA = pathlib.Path(__file__).resolve().parents[1] / 'data'
sys.path[:0] = [str(_DATA / 'language_table')]

import demonstrations  # noqa: E402  (on the path since above)

from rtjax.data.item_store import ItemStore, split_ranges  # noqa: E402

Arrays = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
  """Record demonstrations, and train the preset on them."""
  out: pathlib.Path
  """Folder of the demonstrations and of the run."""
  path: str = ''
  """Folder of the clone of Language-Table."""
  episodes: int = 4000
  """Training demonstrations; a tenth as many more are held out."""
  steps: int = 40000
  """Training steps."""
  batch_size: int = 128
  """Windows of a step."""
  only: tuple[Literal['record', 'train'], ...] = ('record', 'train')
  """Parts to run; 'train' takes the demonstrations that are there."""
  seconds: float = 0.0
  """Longest time of each part; 0 = none."""
  workers: int = 0
  """Recording processes; 0 means one per core."""
  tiny: bool = False
  """Ten demonstrations and 20 steps of 4 windows."""


def main(options: Options) -> None:
  if options.tiny:
    options = dataclasses.replace(options, episodes=10, steps=20, batch_size=4)
  store, splits = ItemStore(options.out / 'demonstrations', demonstrations.EPISODES_PER_FILE), split_ranges(
      options.episodes)
  if 'record' in options.only:
    _record(options, store, splits)
  if 'train' in options.only:
    _train(options, {name: _load(store, *span) for name, span in splits.items()})


def _record(options: Options, store: ItemStore, splits: dict[str, tuple[int, int]]) -> None:
  start = time.monotonic()
  store.create({'episodes': options.episodes})
  limit = start + options.seconds if options.seconds else 0.0
  make = functools.partial(_record_until, limit, options.path)
  try:
    store.fill(make, splits, options.workers, 'episodes')
  except TimeoutError as error:
    print(error, file=sys.stderr)
  _log('record', files=len(list(store.folder.glob('*.msgpack'))), seconds=round(time.monotonic() - start, 1))


def _record_until(limit: float, path: str, first: int, end: int) -> list[Arrays]:
  """Record a file of episodes, unless the time is over.

  The monotonic clock is the machine's, the same in all processes.
  """
  if limit and time.monotonic() > limit:
    raise TimeoutError('the time for recording is over; the same command goes on.')
  return demonstrations.record(demonstrations.RecordingConfig(), path, first, end)


def _load(store: ItemStore, first: int, end: int) -> Arrays:
  """Return one row per step of the successful episodes that are there."""
  found = [episode for start in range(first, end, store.size) if store.path(start).exists()
           for episode in store.read(start, min(start + store.size, end)) if episode['steps']]
  if not found:
    raise ValueError(f'{store.folder} holds no successful demonstration of the numbers {first} to {end}: record first.')
  steps = [step for episode in found for step in episode['steps']]
  texts = [_text(episode['steps'][0]['observation']['instruction']) for episode in found]
  sentences = sorted(set(texts))
  waypoints = np.stack([step['waypoint'] for step in steps])
  return {'images': np.stack([_pixels(step['observation']['rgb']) for step in steps]),
          'actions': np.stack([step['action'] for step in steps]),
          'proprioception': np.stack([step['observation']['effector_translation'] for step in steps]),
          'waypoints': np.pad(waypoints, ((0, 0), (0, 1))),  # z
          'sentence': np.repeat([sentences.index(text) for text in texts], [len(e['steps']) for e in found]),
          'sentences': sentences, 'episodes': len(found)}


def _train(options: Options, data: dict[str, Arrays]) -> None:
  import jax
  import jax.numpy as jnp
  from machine import describe

  from rtjax import configs, models
  from rtjax.language.instructions import HASHED_NGRAMS, hashed_ngrams
  from rtjax.observation import Batch, Observation
  from rtjax.runtime import serialization
  from rtjax.training import initialize
  from rtjax.training import optimizer as optimizers
  from rtjax.training.checkpoint import RunCheckpoints
  from rtjax.training.state import create, split
  from rtjax.training.step import eval_step, train_step

  name = 'language_table_demonstrations'
  config = dataclasses.replace(configs.get('rt1_language_table'), data=(name,), steps=options.steps,
                               batch_size=options.batch_size)
  vectors = {part: np.stack([hashed_ngrams(text) for text in rows['sentences']]) for part, rows in data.items()}
  statistics = {name: _statistics(data['train'], vectors['train'], config.model.action_spec, name, HASHED_NGRAMS)}
  pools = {part: jax.device_put({key: value for key, value in rows.items() if isinstance(value, np.ndarray)}
                                | {'vectors': vectors[part]}) for part, rows in data.items()}
  model = models.build(config.model, seed=0)
  initialize.set_normalization(model, statistics)
  graphdef, *trees = split(model)
  optimizer = optimizers.build(config.optimizer, config.steps)
  state = create(*trees, jax.random.key(0), optimizer=optimizer, ema=True)

  def windows(pool: Arrays, rows: Any) -> Batch:
    one = jnp.ones((len(rows), 1), bool)
    observation = Observation(pool['images'][rows][:, None], one, instruction=pool['vectors'][pool['sentence'][rows]],
                              proprioception=pool['proprioception'][rows][:, None])
    return Batch(observation, pool['actions'][rows][:, None, None], one[..., None], pool['waypoints'][rows][:, None])

  count = max(options.steps // 20, 1)

  @functools.partial(jax.jit, donate_argnums=0)
  def take_steps(state: Any, key: Any, pool: Arrays) -> Any:
    def one(state: Any, key: Any) -> Any:
      rows = jax.random.randint(key, (options.batch_size,), 0, len(pool['actions']))
      state, out = train_step(state, windows(pool, rows), graphdef=graphdef, optimizer=optimizer,
                              ema_decay=config.optimizer.ema_decay)
      return state, out['loss']
    state, losses = jax.lax.scan(one, state, jax.random.split(key, count))
    return state, losses.mean()

  evaluate = jax.jit(functools.partial(eval_step, graphdef=graphdef))
  size = min(512, len(data['val']['actions']))
  held_out = np.random.default_rng(0).permutation(len(data['val']['actions']))[:size]
  key, done, begun = jax.random.key(1), 0, time.perf_counter()
  _log('train', windows=len(data['train']['actions']), episodes=data['train']['episodes'], **describe())
  while done < options.steps and not 0 < options.seconds < time.perf_counter() - begun:
    key, part = jax.random.split(key)
    state, loss = take_steps(state, part, pools['train'])
    done += count
    metrics = jax.device_get(evaluate(state, windows(pools['val'], held_out)).metrics)
    found = {key: (np.asarray(total) / np.maximum(number, 1)).round(5).tolist()
             for key, (total, number) in metrics.items() if key in ('action_loss', 'l1', 'waypoint_distance')}
    _log('train', step=done, loss=round(float(loss), 4), seconds=round(time.perf_counter() - begun, 1), **found)
  state = dataclasses.replace(state, params=state.eval_params, ema=None, opt_state=())
  train_json = serialization.to_json(config)
  with RunCheckpoints(options.out / 'run') as saves:
    saves.save(state, {'config': models.config_to_json(config.model), 'train': train_json, 'statistics': statistics,
                       'embedding_id': HASHED_NGRAMS, 'data': [], 'metrics': {}})
  (options.out / 'run' / 'config.json').write_text(json.dumps(train_json))
  _log('saved', run=str(options.out / 'run'))


def _statistics(rows: Arrays, vectors: np.ndarray, spec: Any, name: str, encoder: str) -> dict[str, Any]:
  """Return the part of `rtjax.data.statistics` that models and evaluation use."""
  return {'name': name, 'split': 'train', 'embedding_id': encoder, 'renderer': 'tiny',
          'image_size': list(rows['images'].shape[1:3]), 'episodes': rows['episodes'], 'steps': len(rows['actions']),
          'instruction': _moments(vectors[rows['sentence']]),
          'action': {'names': list(spec.dimension_names), **_moments(rows['actions'])},
          'proprioception': _moments(rows['proprioception'])}


def _moments(values: np.ndarray) -> dict[str, list[float]]:
  return {'mean': values.mean(0, np.float64).tolist(), 'std': values.std(0, np.float64).tolist()}


def _text(numbers: np.ndarray) -> str:
  return bytes(numbers[numbers != 0].tolist()).decode()


def _pixels(jpeg: bytes) -> np.ndarray:
  return np.asarray(Image.open(io.BytesIO(jpeg)))


def _log(part: str, **values: Any) -> None:
  print(json.dumps({'part': part, **values}), flush=True)


if __name__ == '__main__':
  main(tyro.cli(Options))
