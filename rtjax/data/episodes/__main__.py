"""Compute the statistics of datasets before training.

    python -m rtjax.data.episodes data/built/my_robot
"""
import dataclasses

import tyro
from rich.console import Console
from rich.table import Table

from rtjax import actions
from rtjax.data.beam import Flag
from rtjax.data.config import DataConfig
from rtjax.runtime import cli


@dataclasses.dataclass(frozen=True)
class Options:
  """Compute the statistics of datasets, which train.py then reads from the cache.

  With the flags of the run: its --pipeline, and the ActionSpec of its model. RT-2 reads no vectors: --pipeline.encoder
  none.
  """
  datasets: tyro.conf.Positional[tuple[str, ...]]
  """Folders, gs:// folders or TFDS names."""
  action_spec: str = ''
  """ActionSpec: a name, or a JSON file. Empty takes the one that the datasets carry."""
  pipeline: DataConfig = dataclasses.field(default_factory=DataConfig)
  beam: Flag = ''


def main() -> None:
  options = tyro.cli(Options, prog=cli.prog('python -m rtjax.data.episodes'))
  if not options.datasets:
    raise ValueError('no dataset: give folders, gs:// folders or TFDS names.')
  from rtjax import data  # its functions import TensorFlow, for which --help need not wait
  spec = actions.get(options.action_spec) if options.action_spec else data.recorded_spec(options.datasets)
  if spec is None:
    raise ValueError('the datasets carry no ActionSpec: give that of the model, such as --action-spec arm7d.')
  for name, entry in data.statistics(options.datasets, options.pipeline, spec, options.beam).items():
    print(f'{name}: {entry["episodes"]} episodes, {entry["steps"]} steps of {entry["split"]!r}')
    Console().print(_table(entry['action']))


def _table(action: dict[str, list]) -> Table:
  columns = ('mean', 'std', 'min', 'q01', 'q99', 'max')
  table = Table('action', *columns, 'clipped')
  for i, name in enumerate(action['names']):
    table.add_row(name.replace('[', r'\['), *(f'{action[column][i]:.4g}' for column in columns),
                  f'{action["clipped"][i]:.2%}')
  return table


if __name__ == '__main__':
  cli.run(main)
