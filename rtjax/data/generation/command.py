"""Command line of generators, which resume after an interruption."""
import dataclasses
import importlib
import importlib.util
import json
from collections.abc import Callable
from typing import Any

import tyro
from etils import epath

from rtjax.data.beam import runner
from rtjax.data.generation.item_store import ItemStore, SplitRanges
from rtjax.runtime import cli, interrupt


def generate(name: str, out: epath.Path, *, recording: Any, recipe: dict[str, Any],
             make: Callable[[int, int], list[Any]], splits: SplitRanges, per_file: int, workers: int,
             builders: tuple[str, ...], unit: str = 'episodes', flag: str = '--data', beam: str = '',
             report: Callable[[ItemStore], None] | None = None, **settings: Any) -> None:
  """Generate a dataset, or keep a complete one.

  An interrupted run goes on.

  Args:
    name: the dataset becomes `out`/`name`/1.0.0.
    recording: configuration of the recorder, a dataclass, for the builders.
    recipe: parameters besides `recording` that determine the items, JSON-able.
    make: returns the raw items [first, end); must be picklable.
    splits: item numbers of each split.
    per_file: items per file, the unit of resuming.
    workers: processes; 0 is one per core.
    builders: module of the builders, then their classes; the last writes the dataset, and thereby marks completion.
    unit: plural of the items.
    flag: option of train.py that takes the dataset.
    beam: an Apache Beam runner and its flags, in place of processes; all workers must reach `out`.
    report: prints a report on the raw items.
    settings: further arguments of the builders, which they store in the metadata.

  Raises:
    ValueError: there is a dataset, or an interrupted run, of another recipe; or no training episode succeeded.
    UserError: TensorFlow Datasets is missing.
  """
  recipe, target = json.loads(json.dumps(dataclasses.asdict(recording) | recipe)), out / name / '1.0.0'
  if target.exists():
    _require_same_recipe(target, {'recipe': recipe, **settings})
    print(f'{target} is complete already.')
    return
  if importlib.util.find_spec('tensorflow_datasets') is None:  # needed at the end, hours later
    raise cli.UserError("the dataset's writer needs TensorFlow Datasets: pip install 'rtjax[data]'.")
  if beam:
    runner.options(beam)
  raw = ItemStore(out / f'{name}.raw', per_file)
  raw.create(recipe)
  interrupt.keep(f'The finished parts are kept in {raw.folder}; the same command goes on.')
  raw.fill(make, splits, workers, unit, beam)
  if report:
    report(raw)
  counts = _write(builders, raw, splits, recording=recording, recipe=recipe, data_dir=out, beam=beam, **settings)
  epath.Path(raw.folder).rmtree()
  print(', '.join(f'{counts.get(split, 0)} of {end - first} {unit} in {split}'
                  for split, (first, end) in splits.items()))
  print(f'Train on it with: {flag} {target}')


def run(main: Callable[[Any], None], config: type) -> None:
  """Run a generator's command line.

  A simulator that does not start is an error of one line.
  """
  def guarded() -> None:
    try:
      main(tyro.cli(config))
    except (ImportError, RuntimeError) as error:  # of the simulator, OpenGL, or an expert that always fails
      raise cli.UserError(str(error)) from error
  cli.run(guarded)


def _require_same_recipe(target: epath.Path, expected: dict[str, Any]) -> None:
  stored = json.loads((target / 'metadata.json').read_text())
  existing = {key: stored.get(key) for key in expected}
  if existing != expected:
    raise ValueError(f'{target} exists already with another recipe, {existing}: remove it, or choose another folder '
                     'with --out.')


def _write(builders: tuple[str, ...], raw: ItemStore, splits: SplitRanges, **settings: Any) -> dict[str, int]:
  """Write the datasets; return the counts of the last."""
  module, *classes = builders
  source = importlib.import_module(module)  # imports TensorFlow, which is slow and which the workers do not need
  from rtjax.data.generation.builder import write_items
  counts = [write_items(getattr(source, name), raw, splits, **settings) for name in classes][-1]
  if 'train' not in counts:
    raise ValueError('no training episode succeeded: set a lower --disturbance.')
  return counts
