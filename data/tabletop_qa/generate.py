"""Writes the `tabletop_qa` dataset: python data/tabletop_qa/generate.py --out data/built --pictures 5000

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

import examples
import scenes
import tyro

from rtjax.data.chunks import Chunks, Spans, spans
from rtjax.evaluation.language import vqa


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

  def wanted(self) -> dict[str, Any]:
    """What decides which pictures there are, as JSON keeps it."""
    return json.loads(json.dumps(dataclasses.asdict(self.recipe) | {'pictures': self.pictures}))


def main(config: Config) -> None:
  if config.pictures < 1:
    raise SystemExit(f'--pictures is {config.pictures}, expected at least 1.')
  target = config.out / 'tabletop_qa' / '1.0.0'
  if target.exists():
    _require_same(target, config)
    print(f'{target} is complete already.')
    return
  raw, splits = Chunks(config.out / 'tabletop_qa.raw', examples.CHUNK), spans(config.pictures)
  try:
    raw.claim(config.wanted())
  except ValueError as error:
    raise SystemExit(str(error)) from error
  raw.fill(functools.partial(examples.examples, config.recipe), splits, config.workers, 'pictures')
  _report(raw, splits)
  import tabletop_qa_dataset_builder  # TensorFlow takes seconds, and the workers do without
  builder = tabletop_qa_dataset_builder.Builder(raw=raw, recipe=config.recipe, spans=splits, wanted=config.wanted(),
                                                data_dir=config.out)
  with tempfile.TemporaryDirectory() as nothing:  # TFDS leaves a folder for downloads, of which there are none
    builder.download_and_prepare(download_dir=nothing)
  shutil.rmtree(raw.folder)
  print(f'Train on it with: {target}')


def _require_same(target: pathlib.Path, config: Config) -> None:
  """Exits unless a complete dataset is the one that is asked for."""
  there = json.loads((target / 'metadata.json').read_text()).get('recipe')
  if there != config.wanted():
    raise SystemExit(f'{target} exists already and was made otherwise, {there}: remove it, or write elsewhere with '
                     '--out.')


def _report(raw: Chunks, splits: Spans) -> None:
  """Prints how many pairs there are, and how well one does without looking at the picture."""
  asked = {name: [(p['kind'], p['question'], p['answer']) for picture in raw.read(*span) for p in picture['pairs']]
           for name, span in splits.items()}
  blind = vqa.blind(asked['train'], asked['val'])
  for kind in ('caption', 'vqa', 'match', 'point'):
    count = {name: sum(k == kind for k, *_ in pairs) for name, pairs in asked.items()}
    line = f'{kind}: {count["train"]} pairs in train, {count["val"]} in val'
    if kind != 'caption' and count['val']:
      right = [blind[way][kind]['accuracy'] for way in ('kind', 'question')]
      line += (f'; blind: always the most frequent answer is right in {right[0]:.1%} of val, that of each question in '
               f'{right[1]:.1%}')
    print(line)


if __name__ == '__main__':
  main(tyro.cli(Config))
