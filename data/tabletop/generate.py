"""Generator of the `tabletop` dataset, which resumes after an interruption.

    python data/tabletop/generate.py --out data/built --episodes 1000
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

from rtjax.data import generation
from rtjax.data.item_store import ItemStore, SplitRanges, split_ranges
from rtjax.runtime import cli, interrupt


@dataclasses.dataclass(frozen=True)
class Config:
  """Record scripted experts in the tabletop simulator."""
  out: pathlib.Path
  """Output folder; the dataset becomes OUT/tabletop/1.0.0, failed episodes OUT/tabletop_failures/1.0.0."""
  episodes: int = 1000
  """Training episodes; a tenth as many more are held out as the split val."""
  recording: tyro.conf.OmitArgPrefixes[demonstrations.RecordingConfig] = dataclasses.field(
      default_factory=demonstrations.RecordingConfig)
  outcome_in_words: bool = False
  """End each instruction with ' and succeed' or ' and fail', to train on failures too and then ask for success."""
  workers: int = 0
  """Number of processes; 0 is one per core."""

  def recipe(self) -> dict[str, Any]:
    """Return the parameters that determine the episodes, as JSON keeps them."""
    return generation.as_json(dataclasses.asdict(self.recording) | {'episodes': self.episodes})


def main(config: Config) -> None:
  if config.episodes < 1:
    raise SystemExit(f'--episodes is {config.episodes}, expected at least 1.')
  if not 0 <= config.recording.disturbance < float('inf'):
    raise SystemExit(f'--disturbance is {config.recording.disturbance}, expected a finite number of at least 0.')
  target = config.out / 'tabletop' / '1.0.0'
  if target.exists():
    _require_same_recipe(target, config)
    print(f'{target} is complete already.')
    return
  raw = ItemStore(config.out / 'tabletop.raw', demonstrations.EPISODES_PER_FILE)
  splits = split_ranges(config.episodes)
  try:
    raw.create(config.recipe())
  except ValueError as error:
    raise SystemExit(str(error)) from error
  interrupt.keep(f'The finished parts are kept in {raw.folder}; the same command goes on.')
  raw.fill(functools.partial(demonstrations.record, config.recording), splits, config.workers, 'episodes')
  counts = _write(config, raw, splits)
  if 'tabletop' not in counts:
    raise SystemExit('no episode succeeded: set a lower --disturbance.')
  shutil.rmtree(raw.folder)
  successes, failures = counts['tabletop'], counts.get('tabletop_failures', {})
  print(f'{successes.get("train", 0)} episodes in train, {successes.get("val", 0)} in val; failed episodes, in a '
        f'separate dataset: {sum(failures.values())}')
  print(f'Train on it with: --data {target}')


def _require_same_recipe(target: pathlib.Path, config: Config) -> None:
  """Exit unless the complete dataset at `target` has the requested recipe."""
  metadata = json.loads((target / 'metadata.json').read_text())
  existing = metadata.get('recipe'), metadata.get('outcome_in_words')
  if existing != (config.recipe(), config.outcome_in_words):
    raise SystemExit(f'{target} exists already with another recipe, {existing[0]}: remove it, or choose another folder '
                     'with --out.')


def _write(config: Config, raw: ItemStore, splits: SplitRanges) -> dict[str, dict[str, int]]:
  """Write both datasets, failures first, because the folder `tabletop` marks completion."""
  import tabletop_dataset_builder as builders  # imports TensorFlow, which is slow and which the workers do not need
  counts = {}
  for cls in (builders.Failures, builders.Builder):
    nonempty = {name: span for name, span in splits.items() if cls.success in _outcomes(raw, *span)}
    if not nonempty:
      continue
    builder = cls(raw=raw, recording=config.recording, recipe=config.recipe(), splits=nonempty,
                  outcome_in_words=config.outcome_in_words, data_dir=config.out)
    counts[builder.name] = generation.write(builder)
  return counts


def _outcomes(raw: ItemStore, first: int, end: int) -> set[bool]:
  """Return the outcomes among episodes [first, end), because TFDS rejects empty splits."""
  return {bool(episode['episode_metadata']['success']) for episode in raw.read(first, end)}


if __name__ == '__main__':
  cli.run(lambda: main(tyro.cli(Config)))
