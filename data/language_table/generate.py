"""Generator of demonstrations in Language-Table, which resumes after an interruption.

    python data/language_table/generate.py --out data/built --path CLONE --episodes 1000
"""
import dataclasses
import functools
import os
import pathlib
import sys

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # NumPy's threads; the workers are parallel already
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import demonstrations
import tyro
from etils import epath

from rtjax.data.beam import Flag
from rtjax.data.generation import command
from rtjax.data.generation.item_store import split_ranges
from rtjax.envs import language_table_source as source


@dataclasses.dataclass(frozen=True)
class Config:
  """Record the pushing oracle in Language-Table."""
  out: epath.Path
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
  beam: Flag = ''


def main(config: Config) -> None:
  recording = config.recording
  simulator = f'language-table {source.load(config.path).version}'
  command.generate(
      'language_table_demonstrations', config.out, recording=recording,
      recipe={'episodes': config.episodes, 'simulator': simulator},
      make=functools.partial(demonstrations.record, recording, config.path), splits=split_ranges(config.episodes),
      per_file=demonstrations.EPISODES_PER_FILE, workers=config.workers, beam=config.beam,
      builders=('language_table_dataset_builder', 'Builder'))


if __name__ == '__main__':
  command.run(main, Config)
