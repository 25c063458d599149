"""Generator of the `tabletop_qa` dataset, which resumes after an interruption.

    python data/tabletop_qa/generate.py --out data/built --images 5000
"""
import dataclasses
import functools
import os
import pathlib
import sys

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # NumPy's threads; the workers are parallel already
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import examples
import scenes
import tyro
from etils import epath

from rtjax.data.beam import Flag
from rtjax.data.generation import command
from rtjax.data.generation.item_store import ItemStore, SplitRanges, split_ranges
from rtjax.evaluation.language import vqa


@dataclasses.dataclass(frozen=True)
class Config:
  """Generate images of the tabletop simulator with questions and answers."""
  out: epath.Path
  """Output folder; the dataset becomes OUT/tabletop_qa/1.0.0."""
  images: int = 5000
  """Training images; a tenth as many more, of other scenes, are held out as the split val."""
  generation: tyro.conf.OmitArgPrefixes[scenes.GenerationConfig] = dataclasses.field(
      default_factory=scenes.GenerationConfig)
  workers: int = 0
  """Number of processes; 0 is one per core."""
  beam: Flag = ''


def main(config: Config) -> None:
  splits = split_ranges(config.images, 'images')
  command.generate(
      'tabletop_qa', config.out, recording=config.generation,
      recipe={'images': config.images, 'texts': examples.TEXTS},
      make=functools.partial(examples.examples, config.generation), splits=splits, per_file=examples.EXAMPLES_PER_FILE,
      workers=config.workers, beam=config.beam, builders=('tabletop_qa_dataset_builder', 'Builder'),
      unit='images', flag='--text.data',
      report=functools.partial(_report, splits))


def _report(splits: SplitRanges, raw: ItemStore) -> None:
  """Print the numbers of pairs, and the accuracy of blind answers."""
  pairs = {name: [(pair['kind'], pair['question'], pair['answer'])
                  for example in raw.read(*span) for pair in example['pairs']] for name, span in splits.items()}
  blind = vqa.blind_accuracy(pairs['train'], pairs['val'])
  for task in examples.TASKS:
    counts = {name: sum(t == task for t, *_ in items) for name, items in pairs.items()}
    line = f'{task}: {counts["train"]} pairs in train, {counts["val"]} in val'
    if task != 'caption' and counts['val']:
      by_task, by_question = (blind[level][task]['accuracy'] for level in ('task', 'question'))
      line += (f'; blind accuracy in val: {by_task:.1%} with the most frequent answer of the task, {by_question:.1%} '
               'with that of each question')
    print(line)


if __name__ == '__main__':
  command.run(main, Config)
