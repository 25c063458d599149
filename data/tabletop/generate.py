"""Generator of the `tabletop` dataset, which resumes after an interruption.

    python data/tabletop/generate.py --out data/built --episodes 1000
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


@dataclasses.dataclass(frozen=True)
class Config:
  """Record scripted experts in the tabletop simulator."""
  out: epath.Path
  """Output folder; the dataset becomes OUT/tabletop/1.0.0, failed episodes OUT/tabletop_failures/1.0.0."""
  episodes: int = 1000
  """Training episodes; a tenth as many more are held out as the split val."""
  recording: tyro.conf.OmitArgPrefixes[demonstrations.RecordingConfig] = dataclasses.field(
      default_factory=demonstrations.RecordingConfig)
  outcome_in_words: bool = False
  """End each instruction with ' and succeed' or ' and fail', to train on failures too and then ask for success."""
  workers: int = 0
  """Number of processes; 0 is one per core."""
  beam: Flag = ''


def main(config: Config) -> None:
  recording = config.recording
  command.generate(
      'tabletop', config.out, recording=recording, recipe={'episodes': config.episodes},
      make=functools.partial(demonstrations.record, recording), splits=split_ranges(config.episodes),
      per_file=demonstrations.EPISODES_PER_FILE, workers=config.workers, beam=config.beam,
      builders=('tabletop_dataset_builder', 'Failures', 'Builder'), outcome_in_words=config.outcome_in_words)


if __name__ == '__main__':
  command.run(main, Config)
