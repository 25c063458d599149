"""Writes the `tabletop_qa` dataset: python data/tabletop_qa/generate.py --out data/built --pictures 5000

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

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # NumPy's: the work is parallel already
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import examples
import rich.progress
import scenes
import tyro

from rtjax.evaluation import vqa


@dataclasses.dataclass(frozen=True)
class Config:
  """Takes pictures of the embedded simulator and asks about them."""
  out: pathlib.Path
  """Folder to write into; the dataset becomes OUT/tabletop_qa/1.0.0."""
  pictures: int = 5000
  """Pictures to train on; a tenth as many more, of other scenes, are held out as the split val."""
  recipe: tyro.conf.OmitArgPrefixes[scenes.Recipe] = dataclasses.field(default_factory=scenes.Recipe)
  workers: int = 0
  """Processes; 0 means one per core."""


def main(config: Config) -> None:
  if config.pictures < 1:
    raise SystemExit(f'--pictures is {config.pictures}, expected at least 1.')
  target = config.out / 'tabletop_qa' / '1.0.0'
  if target.exists():
    raise SystemExit(f'{target} exists already: remove it, or write elsewhere with --out.')
  raw = _raw_folder(config)
  train = config.pictures
  spans = {'train': (0, train), 'val': (train, train + max(1, train // 10))}
  _take(config, raw, spans)
  _report(raw, spans)
  import tabletop_qa_dataset_builder  # TensorFlow takes seconds, and the workers do without
  builder = tabletop_qa_dataset_builder.Builder(raw=raw, recipe=config.recipe, spans=spans, data_dir=config.out)
  with tempfile.TemporaryDirectory() as nothing:  # TFDS leaves a folder for downloads, of which there are none
    builder.download_and_prepare(download_dir=nothing)
  shutil.rmtree(raw)
  print(f'Train on it with: {target}')


def _raw_folder(config: Config) -> pathlib.Path:
  """Where raw pictures go; those of another recipe are refused."""
  folder = config.out / 'tabletop_qa.raw'
  folder.mkdir(parents=True, exist_ok=True)
  wanted = json.dumps(dataclasses.asdict(config.recipe) | {'pictures': config.pictures})
  note = folder / 'recipe.json'
  if note.exists() and note.read_text() != wanted:
    raise SystemExit(f'{folder} holds pictures of another recipe, {note.read_text()}: remove it, or write elsewhere '
                     'with --out.')
  note.write_text(wanted)
  return folder


def _take(config: Config, raw: pathlib.Path, spans: dict[str, tuple[int, int]]) -> None:
  """Takes what is missing, in parallel."""
  chunks = [(first, min(first + examples.CHUNK, end)) for start, end in spans.values()
            for first in range(start, end, examples.CHUNK)]
  missing = [chunk for chunk in chunks if not examples.chunk_file(raw, chunk[0]).exists()]
  total = sum(end - first for first, end in chunks)
  workers = min(config.workers or _cores(), max(len(missing), 1))
  with rich.progress.Progress() as progress, concurrent.futures.ProcessPoolExecutor(
      workers, multiprocessing.get_context('spawn')) as pool:
    bar = progress.add_task('pictures', total=total, completed=total - sum(end - first for first, end in missing))
    futures = {pool.submit(examples.write_chunk, config.recipe, str(raw), *chunk): chunk for chunk in missing}
    try:
      for future in concurrent.futures.as_completed(futures):
        future.result()
        first, end = futures[future]
        progress.advance(bar, end - first)
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise


def _report(raw: pathlib.Path, spans: dict[str, tuple[int, int]]) -> None:
  """Prints how many pairs there are, and how well one does without looking at the picture."""
  asked = {name: [(p['kind'], p['question'], p['answer']) for first in range(*span, examples.CHUNK)
                  for picture in examples.read_chunk(raw, first) for p in picture['pairs']]
           for name, span in spans.items()}
  blind = vqa.blind(asked['train'], asked['val'])
  for kind in ('caption', 'vqa', 'match'):
    count = {name: sum(k == kind for k, *_ in pairs) for name, pairs in asked.items()}
    line = f'{kind}: {count["train"]} pairs in train, {count["val"]} in val'
    if kind != 'caption' and count['val']:
      right = [blind[way][kind]['accuracy'] for way in ('kind', 'question')]
      line += (f'; blind: always the most frequent answer is right in {right[0]:.1%} of val, that of each question in '
               f'{right[1]:.1%}')
    print(line)


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


if __name__ == '__main__':
  main(tyro.cli(Config))
