"""Language-Table on one GPU machine without TensorFlow: recording, then training of `rt1_language_table`.

    python bench/language_table_gpu.py --out /tmp/table --path CLONE --only record --episodes 4000   # repeat to go on
    python bench/language_table_gpu.py --out /tmp/table --path CLONE --episodes 4000 --steps 40000
    python eval.py /tmp/table/run --env language_table --path CLONE --episodes 250

Demonstrations are those of data/language_table/generate.py, trained by array_training.py. `--seconds` ends the
recording (finished files are kept) and the training early. Each report is a line of JSON; `--tiny` checks that the
parts run.
"""
import dataclasses
import functools
import os
import pathlib
import sys
import time
from typing import Any, Literal

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # the recording processes are parallel already

import array_training
import numpy as np
import tyro

_DATA = pathlib.Path(__file__).resolve().parents[1] / 'data'
sys.path[:0] = [str(_DATA / 'language_table')]

import demonstrations  # noqa: E402  (on the path since above)

from rtjax import configs  # noqa: E402
from rtjax.data.generation.item_store import ItemStore, split_ranges  # noqa: E402


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
  log = array_training.logger()
  if options.tiny:
    options = dataclasses.replace(options, episodes=10, steps=20, batch_size=4)
  store, splits = ItemStore(options.out / 'demonstrations', demonstrations.EPISODES_PER_FILE), split_ranges(
      options.episodes)
  if 'record' in options.only:
    record(options, store, splits, functools.partial(log, 'record'))
  if 'train' in options.only:
    config = dataclasses.replace(configs.get('rt1_language_table'), data=('language_table_demonstrations',),
                                 steps=options.steps, batch_size=options.batch_size)
    array_training.train_preset(config, {name: load(store, *span) for name, span in splits.items()},
                                options.out / 'run', renderer='tiny', reports=20, seconds=options.seconds,
                                log=functools.partial(log, 'train'))


def record(options: Options, store: ItemStore, splits: dict[str, tuple[int, int]], log: array_training.Log) -> None:
  """Record the missing episodes, until the time is over."""
  store.create({'episodes': options.episodes})
  limit = time.monotonic() + options.seconds if options.seconds else 0.0
  try:
    store.fill(functools.partial(_record_until, limit, options.path), splits, options.workers, 'episodes')
  except TimeoutError as error:
    print(error, file=sys.stderr)
  log(files=len(list(store.folder.glob('*.msgpack'))))


def _record_until(limit: float, path: str, first: int, end: int) -> list[dict[str, Any]]:
  """Record a file of episodes, unless the time is over.

  The monotonic clock is the machine's, the same in all processes.
  """
  if limit and time.monotonic() > limit:
    raise TimeoutError('the time for recording is over; the same command goes on.')
  return demonstrations.record(demonstrations.RecordingConfig(), path, first, end)


def load(store: ItemStore, first: int, end: int) -> list[dict[str, Any]]:
  """Return the arrays of the successful episodes that are there."""
  found = [_arrays(episode['steps']) for start in range(first, end, store.size) if store.path(start).exists()
           for episode in store.read(start, min(start + store.size, end)) if episode['steps']]
  if not found:
    raise ValueError(f'{store.folder} holds no successful demonstration of the numbers {first} to {end}: record first.')
  return found


def _arrays(steps: list[dict[str, Any]]) -> dict[str, Any]:
  """Return an episode's arrays, as `array_training.window_arrays` takes them."""
  instruction = steps[0]['observation']['instruction']
  waypoints = np.stack([step['waypoint'] for step in steps])
  return {'images': np.stack([array_training.pixels(step['observation']['rgb']) for step in steps]),
          'actions': np.stack([step['action'] for step in steps]),
          'proprioception': np.stack([step['observation']['effector_translation'] for step in steps]),
          'waypoints': np.pad(waypoints, ((0, 0), (0, 1))),  # z
          'instruction': bytes(instruction[instruction != 0].tolist()).decode()}


if __name__ == '__main__':
  main(tyro.cli(Options))
