"""Writes the `tabletop` dataset: python data/tabletop/generate.py --out data/built --episodes 1000

Interrupted and started again, it goes on where it was.
"""
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import sys
import tempfile
from typing import Any

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # NumPy's: the work is parallel already
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import demonstrations
import tyro

from rtjax.data.chunks import Chunks, Spans, spans


@dataclasses.dataclass(frozen=True)
class Config:
  """Records experts at the embedded simulator's tasks."""
  out: pathlib.Path
  """Folder to write into; the dataset becomes OUT/tabletop/1.0.0, failed episodes OUT/tabletop_failures/1.0.0."""
  episodes: int = 1000
  """Episodes to record for training; a tenth as many more are held out as the split val."""
  recipe: tyro.conf.OmitArgPrefixes[demonstrations.Recipe] = dataclasses.field(default_factory=demonstrations.Recipe)
  outcome_in_words: bool = False
  """End the instructions with ' and succeed' or ' and fail', to train on failures as well and then ask for success."""
  workers: int = 0
  """Processes; 0 means one per core."""

  def wanted(self) -> dict[str, Any]:
    """What decides which episodes there are, as JSON keeps it."""
    return json.loads(json.dumps(dataclasses.asdict(self.recipe) | {'episodes': self.episodes}))


def main(config: Config) -> None:
  if config.episodes < 1:
    raise SystemExit(f'--episodes is {config.episodes}, expected at least 1.')
  target = config.out / 'tabletop' / '1.0.0'
  if not 0 <= config.recipe.disturbance < float('inf'):
    raise SystemExit(f'--disturbance is {config.recipe.disturbance}, expected 0 or more.')
  if target.exists():
    _require_same(target, config)
    print(f'{target} is complete already.')
    return
  raw, splits = Chunks(config.out / 'tabletop.raw', demonstrations.CHUNK), spans(config.episodes)
  try:
    raw.claim(config.wanted())
  except ValueError as error:
    raise SystemExit(str(error)) from error
  raw.fill(functools.partial(demonstrations.record, config.recipe), splits, config.workers, 'episodes')
  counts = _write(config, raw, splits)
  if 'tabletop' not in counts:
    raise SystemExit('no episode succeeded: lower --disturbance.')
  shutil.rmtree(raw.folder)
  good, bad = counts['tabletop'], counts.get('tabletop_failures', {})
  print(f'{good.get("train", 0)} episodes in train, {good.get("val", 0)} in val; failed and kept apart: '
        f'{sum(bad.values())}')
  print(f'Train on it with: --data {target}')


def _require_same(target: pathlib.Path, config: Config) -> None:
  """Exits unless a complete dataset is the one that is asked for."""
  metadata = json.loads((target / 'metadata.json').read_text())
  there = metadata.get('recipe'), metadata.get('outcome_in_words')
  if there != (config.wanted(), config.outcome_in_words):
    raise SystemExit(f'{target} exists already and was made otherwise, {there[0]}: remove it, or write elsewhere with '
                     '--out.')


def _write(config: Config, raw: Chunks, splits: Spans) -> dict[str, dict[str, int]]:
  """Writes both datasets, failures first: the folder of `tabletop` says that all is done."""
  import tabletop_dataset_builder as builders  # TensorFlow takes seconds, and the workers do without
  counts = {}
  for cls in (builders.Failures, builders.Builder):
    found = {name: span for name, span in splits.items() if cls.success in _outcomes(raw, *span)}
    if not found:
      continue
    builder = cls(raw=raw, recipe=config.recipe, wanted=config.wanted(), spans=found,
                  outcome_in_words=config.outcome_in_words, data_dir=config.out)
    shutil.rmtree(builder.data_dir, ignore_errors=True)  # left by an interrupted run
    with tempfile.TemporaryDirectory() as nothing:  # TFDS leaves a folder for downloads, of which there are none
      builder.download_and_prepare(download_dir=nothing)
    counts[builder.name] = {name: split.num_examples for name, split in builder.info.splits.items()}
  return counts


def _outcomes(raw: Chunks, first: int, end: int) -> set[bool]:
  """Whether there are successes, and failures, among some episodes: TFDS refuses to write an empty split."""
  return {bool(episode['episode_metadata']['success']) for episode in raw.read(first, end)}


if __name__ == '__main__':
  main(tyro.cli(Config))
