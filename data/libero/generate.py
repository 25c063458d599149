"""Generator of demonstrations of LIBERO, which resumes after an interruption.

    MUJOCO_GL=egl python data/libero/generate.py --out data/built/object --suite object --episodes 500
"""
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import sys
from typing import Any

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # NumPy's threads; the workers are parallel already
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import libero_demonstrations as demonstrations
import tyro

from rtjax import envs
from rtjax.data import generation
from rtjax.data.item_store import ItemStore, SplitRanges, split_ranges
from rtjax.runtime import cli, interrupt


@dataclasses.dataclass(frozen=True)
class Config:
  """Record scripted experts in LIBERO, from starts that are not evaluated."""
  out: pathlib.Path
  """Output folder; the dataset becomes OUT/libero_scripted/1.0.0."""
  episodes: int = 500
  """Training episodes, tasks in turn; a tenth as many more are held out as the split val."""
  recording: tyro.conf.OmitArgPrefixes[demonstrations.RecordingConfig] = dataclasses.field(
      default_factory=demonstrations.RecordingConfig)
  workers: int = 0
  """Number of processes, of 1.5 GB each; 0 is one per core."""

  def recipe(self) -> dict[str, Any]:
    """Return the parameters that determine the episodes, as JSON keeps them."""
    return generation.as_json(dataclasses.asdict(self.recording) | {'episodes': self.episodes})


def main(config: Config) -> None:
  if config.episodes < 1:
    raise ValueError(f'--episodes is {config.episodes}, expected at least 1.')
  if not 0 <= config.recording.disturbance < float('inf'):
    raise ValueError(f'--disturbance is {config.recording.disturbance}, expected a finite number of at least 0.')
  target = config.out / 'libero_scripted' / '1.0.0'
  if target.exists():
    recipe = json.loads((target / 'metadata.json').read_text()).get('recipe')
    if recipe != config.recipe():
      raise ValueError(f'{target} exists already with another recipe, {recipe}: remove it, or choose another folder '
                       'with --out.')
    print(f'{target} is complete already.')
    return
  raw, splits = ItemStore(config.out / 'libero.raw', demonstrations.EPISODES_PER_FILE), split_ranges(config.episodes)
  try:
    known = envs.splits(f'libero/{config.recording.suite}')['seen']  # fails here rather than in a worker
    for skill in config.recording.skills:
      envs.require_known('skill', skill, known)
    raw.create(config.recipe())
  except ImportError as error:
    raise ValueError(str(error)) from error
  interrupt.keep(f'The finished parts are kept in {raw.folder}; the same command goes on.')
  raw.fill(functools.partial(demonstrations.record, config.recording), splits, config.workers, 'episodes')
  counts = _write(config, raw, splits)
  shutil.rmtree(raw.folder)
  print(f'{counts.get("train", 0)} of {config.episodes} episodes succeeded and are in train, {counts.get("val", 0)} in '
        'val.')
  print(f'Train on it with: --data {target}')


def _write(config: Config, raw: ItemStore, splits: SplitRanges) -> dict[str, int]:
  import libero_dataset_builder  # imports TensorFlow, which is slow and which the workers do not need
  nonempty = {name: span for name, span in splits.items()
              if any(episode['episode_metadata']['success'] for episode in raw.read(*span))}
  if 'train' not in nonempty:
    raise ValueError('no episode succeeded: set a lower --disturbance.')
  builder = libero_dataset_builder.Builder(raw=raw, recording=config.recording, recipe=config.recipe(), splits=nonempty,
                                           data_dir=config.out)
  return generation.write(builder)


if __name__ == '__main__':
  cli.run(lambda: main(tyro.cli(Config)))
