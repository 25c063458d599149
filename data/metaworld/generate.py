"""Generator of the `metaworld` dataset, which resumes after an interruption.

    MUJOCO_GL=egl python data/metaworld/generate.py --out data/built/mt10 --tasks mt10
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
from rtjax.data.generation.item_store import ItemStore


@dataclasses.dataclass(frozen=True)
class Config:
  """Record Meta-World's scripted experts."""
  out: epath.Path
  """Output folder; the dataset becomes OUT/metaworld/1.0.0."""
  recording: tyro.conf.OmitArgPrefixes[demonstrations.RecordingConfig] = dataclasses.field(
      default_factory=demonstrations.RecordingConfig)
  workers: int = 0
  """Number of processes; 0 is one per core."""
  beam: Flag = ''


def main(config: Config) -> None:
  recording = config.recording
  # The simulator stays out of this process: Mesa's OpenGL and TensorFlow, which writes the dataset, crash in one.
  command.generate(
      'metaworld', config.out, recording=recording, recipe={}, splits=recording.splits(),
      make=functools.partial(demonstrations.record, recording), per_file=demonstrations.EPISODES_PER_FILE,
      workers=config.workers, beam=config.beam, builders=('metaworld_dataset_builder', 'Builder'),
      report=functools.partial(_print_failures, recording))


def _print_failures(recording: demonstrations.RecordingConfig, raw: ItemStore) -> None:
  """Print how often each expert failed; these episodes were left out."""
  failed: dict[str, int] = {}
  for span in recording.splits().values():
    for episode in raw.read(*span):
      metadata = episode['episode_metadata']
      failed[metadata['task']] = failed.get(metadata['task'], 0) + metadata['failed_attempts']
  listed = ', '.join(f'{task} {count}' for task, count in failed.items() if count)
  print(f'failed attempts, left out and repeated from another start: {listed or "none"}')


if __name__ == '__main__':
  command.run(main, Config)
