"""Writes the `tabletop` dataset: python data/tabletop/generate.py --out data/built --episodes 1000

Interrupted and started again, it goes on where it was.
"""
import concurrent.futures
import dataclasses
import json
import multiprocessing
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
import rich.progress
import tyro


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
  raw = _raw_folder(config)
  train = config.episodes
  spans = {'train': (0, train), 'val': (train, train + max(1, train // 10))}
  _record(config, raw, spans)
  counts = _write(config, raw, spans)
  if 'tabletop' not in counts:
    raise SystemExit('no episode succeeded: lower --disturbance.')
  shutil.rmtree(raw)
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


def _raw_folder(config: Config) -> pathlib.Path:
  """Where raw episodes go; those of another recipe are refused."""
  folder = config.out / 'tabletop.raw'
  folder.mkdir(parents=True, exist_ok=True)
  wanted = json.dumps(config.wanted())
  note = folder / 'recipe.json'
  if note.exists() and note.read_text() != wanted:
    raise SystemExit(f'{folder} holds episodes of another recipe, {note.read_text()}: remove it, or write elsewhere '
                     'with --out.')
  note.write_text(wanted)
  return folder


def _record(config: Config, raw: pathlib.Path, spans: dict[str, tuple[int, int]]) -> None:
  """Records what is missing, in parallel."""
  chunks = [(first, min(first + demonstrations.CHUNK, end)) for start, end in spans.values()
            for first in range(start, end, demonstrations.CHUNK)]
  missing = [chunk for chunk in chunks if not demonstrations.chunk_file(raw, chunk[0]).exists()]
  total = sum(end - first for first, end in chunks)
  workers = min(config.workers or _cores(), max(len(missing), 1))
  with rich.progress.Progress() as progress, concurrent.futures.ProcessPoolExecutor(
      workers, multiprocessing.get_context('spawn')) as pool:
    bar = progress.add_task('episodes', total=total, completed=total - sum(end - first for first, end in missing))
    futures = {pool.submit(demonstrations.write_chunk, config.recipe, str(raw), *chunk): chunk for chunk in missing}
    try:
      for future in concurrent.futures.as_completed(futures):
        future.result()
        first, end = futures[future]
        progress.advance(bar, end - first)
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def _write(config: Config, raw: pathlib.Path, spans: dict[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
  """Writes both datasets, failures first: the folder of `tabletop` says that all is done."""
  import tabletop_dataset_builder as builders  # TensorFlow takes seconds, and the workers do without
  counts = {}
  for cls in (builders.Failures, builders.Builder):
    found = {name: span for name, span in spans.items() if cls.success in _outcomes(raw, span)}
    if not found:
      continue
    builder = cls(raw=raw, recipe=config.recipe, wanted=config.wanted(), spans=found,
                  outcome_in_words=config.outcome_in_words, data_dir=config.out)
    shutil.rmtree(builder.data_dir, ignore_errors=True)  # left by an interrupted run
    with tempfile.TemporaryDirectory() as nothing:  # TFDS leaves a folder for downloads, of which there are none
      builder.download_and_prepare(download_dir=nothing)
    counts[builder.name] = {name: split.num_examples for name, split in builder.info.splits.items()}
  return counts


def _outcomes(raw: pathlib.Path, span: tuple[int, int]) -> set[bool]:
  """Whether there are successes, and failures, among some episodes: TFDS refuses to write an empty split."""
  return {bool(episode['episode_metadata']['success']) for first in range(*span, demonstrations.CHUNK)
          for episode in demonstrations.read_chunk(raw, first)}


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


if __name__ == '__main__':
  main(tyro.cli(Config))
