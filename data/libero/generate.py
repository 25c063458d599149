"""Generator of demonstrations of LIBERO, which resumes after an interruption.

    MUJOCO_GL=egl python data/libero/generate.py --out data/built/object --suite object --episodes 500
"""
import dataclasses
import functools
import os
import pathlib
import sys

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # NumPy's threads; the workers are parallel already
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import libero_demonstrations as demonstrations
import tyro
from etils import epath

from rtjax import envs
from rtjax.data.beam import Flag
from rtjax.data.generation import command
from rtjax.data.generation.item_store import split_ranges


@dataclasses.dataclass(frozen=True)
class Config:
  """Record scripted experts in LIBERO, from starts that are not evaluated."""
  out: epath.Path
  """Output folder; the dataset becomes OUT/libero_scripted/1.0.0."""
  episodes: int = 500
  """Training episodes, tasks in turn; a tenth as many more are held out as the split val."""
  recording: tyro.conf.OmitArgPrefixes[demonstrations.RecordingConfig] = dataclasses.field(
      default_factory=demonstrations.RecordingConfig)
  workers: int = 0
  """Number of processes, of 1.5 GB each; 0 is one per core."""
  beam: Flag = ''


def main(config: Config) -> None:
  recording = config.recording
  known = envs.splits(f'libero/{recording.suite}')['seen']  # fails here rather than in a worker
  for skill in recording.skills:
    envs.require_known('skill', skill, known)
  command.generate(
      'libero_scripted', config.out, recording=recording, recipe={'episodes': config.episodes},
      make=functools.partial(demonstrations.record, recording), splits=split_ranges(config.episodes),
      per_file=demonstrations.EPISODES_PER_FILE, workers=config.workers, beam=config.beam,
      builders=('libero_dataset_builder', 'Builder'))


if __name__ == '__main__':
  command.run(main, Config)
