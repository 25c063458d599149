"""Generator of the `tabletop_qa` dataset, which resumes after an interruption.

    python data/tabletop_qa/generate.py --out data/built --images 5000
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

import examples
import scenes
import tyro

from rtjax.data import generation
from rtjax.data.item_store import ItemStore, SplitRanges, split_ranges
from rtjax.evaluation.language import vqa
from rtjax.runtime import cli, interrupt


@dataclasses.dataclass(frozen=True)
class Config:
  """Generate images of the tabletop simulator with questions and answers."""
  out: pathlib.Path
  """Output folder; the dataset becomes OUT/tabletop_qa/1.0.0."""
  images: int = 5000
  """Training images; a tenth as many more, of other scenes, are held out as the split val."""
  generation: tyro.conf.OmitArgPrefixes[scenes.GenerationConfig] = dataclasses.field(
      default_factory=scenes.GenerationConfig)
  workers: int = 0
  """Number of processes; 0 is one per core."""

  def recipe(self) -> dict[str, Any]:
    """Return the parameters that determine the dataset, as JSON keeps them."""
    return generation.as_json(dataclasses.asdict(self.generation) | {'images': self.images, 'texts': examples.TEXTS})


def main(config: Config) -> None:
  if config.images < 1:
    raise SystemExit(f'--images is {config.images}, expected at least 1.')
  target = config.out / 'tabletop_qa' / '1.0.0'
  if target.exists():
    _require_same_recipe(target, config)
    print(f'{target} is complete already.')
    return
  raw = ItemStore(config.out / 'tabletop_qa.raw', examples.EXAMPLES_PER_FILE)
  splits = split_ranges(config.images)
  try:
    raw.create(config.recipe())
  except ValueError as error:
    raise SystemExit(str(error)) from error
  interrupt.keep(f'The finished parts are kept in {raw.folder}; the same command goes on.')
  raw.fill(functools.partial(examples.examples, config.generation), splits, config.workers, 'images')
  _report(raw, splits)
  import tabletop_qa_dataset_builder  # imports TensorFlow, which is slow and which the workers do not need
  builder = tabletop_qa_dataset_builder.Builder(
      raw=raw, generation=config.generation, splits=splits, recipe=config.recipe(), data_dir=config.out)
  generation.write(builder)
  shutil.rmtree(raw.folder)
  print(f'Train on it with: {target}')


def _require_same_recipe(target: pathlib.Path, config: Config) -> None:
  """Exit unless the complete dataset at `target` has the requested recipe."""
  existing = json.loads((target / 'metadata.json').read_text()).get('recipe')
  if existing != config.recipe():
    raise SystemExit(f'{target} exists already with another recipe, {existing}: remove it, or choose another folder '
                     'with --out.')


def _report(raw: ItemStore, splits: SplitRanges) -> None:
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
  cli.run(lambda: main(tyro.cli(Config)))
