"""Generator of demonstrations in Language-Table, which resumes after an interruption.

    python data/language_table/generate.py --out data/built --path CLONE --episodes 1000
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

import demonstrations
import tyro

from rtjax import envs
from rtjax.data import generation
from rtjax.data.item_store import ItemStore, SplitRanges, split_ranges
from rtjax.envs import language_table_source as source
from rtjax.envs.language_table import FULL_SIZE
from rtjax.runtime import cli, interrupt

NAME = 'language_table_demonstrations'


@dataclasses.dataclass(frozen=True)
class Config:
  """Record the pushing oracle in Language-Table."""
  out: pathlib.Path
  """Output folder; the dataset becomes OUT/language_table_demonstrations/1.0.0."""
  path: str = ''
  """Folder of the clone of Language-Table; empty finds it in PYTHONPATH."""
  episodes: int = 1000
  """Training episodes; a tenth as many more are held out as the split val. Those in which the oracle fails are left
  out."""
  recording: tyro.conf.OmitArgPrefixes[demonstrations.RecordingConfig] = dataclasses.field(
      default_factory=demonstrations.RecordingConfig)
  workers: int = 0
  """Number of processes; 0 is one per core."""

  def recipe(self, version: str) -> dict[str, Any]:
    """Return the parameters that determine the episodes, as JSON keeps them."""
    return generation.as_json(dataclasses.asdict(self.recording) | {
        'episodes': self.episodes, 'simulator': f'language-table {version}'})

  def check(self) -> None:
    if self.episodes < 1:
      raise ValueError(f'--episodes is {self.episodes}, expected at least 1.')
    if not 0 <= self.recording.disturbance < float('inf'):
      raise ValueError(f'--disturbance is {self.recording.disturbance}, expected a finite number of at least 0.')
    for skill in self.recording.skills:
      envs.require_known('skill', skill, source.FAMILIES)
    if any(not 0 < size <= full for size, full in zip(self.recording.image_size, FULL_SIZE, strict=True)):
      raise ValueError(f'--image-size is {self.recording.image_size}, expected height and width of at most '
                       f'{FULL_SIZE}.')


def main(config: Config) -> None:
  config.check()
  recipe = config.recipe(source.load(config.path).version)
  target = config.out / NAME / '1.0.0'
  if target.exists():
    existing = json.loads((target / 'metadata.json').read_text()).get('recipe')
    if existing != recipe:
      raise ValueError(f'{target} exists already with another recipe, {existing}: remove it, or choose another folder '
                       'with --out.')
    print(f'{target} is complete already.')
    return
  raw, splits = ItemStore(config.out / f'{NAME}.raw', demonstrations.EPISODES_PER_FILE), split_ranges(config.episodes)
  raw.create(recipe)
  interrupt.keep(f'The finished parts are kept in {raw.folder}; the same command goes on.')
  make = functools.partial(demonstrations.record, config.recording, config.path)
  raw.fill(make, splits, config.workers, 'episodes')
  counts = _write(config, raw, splits, recipe)
  shutil.rmtree(raw.folder)
  total = sum(end - first for first, end in splits.values())
  print(f'{counts.get("train", 0)} episodes in train, {counts.get("val", 0)} in val; the oracle failed in '
        f'{total - sum(counts.values())} others, which are left out.')
  print(f'Train on it with: --data {target}')


def _write(config: Config, raw: ItemStore, splits: SplitRanges, recipe: dict[str, Any]) -> dict[str, int]:
  """Write the dataset, without splits in which no episode succeeded."""
  import language_table_dataset_builder as builders  # imports TensorFlow, which is slow and which workers do not need
  nonempty = {name: span for name, span in splits.items()
              if any(episode['episode_metadata']['success'] for episode in raw.read(*span))}
  if not nonempty:
    raise ValueError('the oracle succeeded in no episode: set a lower --disturbance.')
  builder = builders.Builder(raw=raw, recording=config.recording, splits=nonempty, recipe=recipe, data_dir=config.out)
  return generation.write(builder)


if __name__ == '__main__':
  cli.run(lambda: main(tyro.cli(Config)))
