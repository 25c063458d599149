"""Generator of the `metaworld` dataset, which resumes after an interruption.

    MUJOCO_GL=egl python data/metaworld/generate.py --out data/built/mt10 --tasks mt10
"""
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import shutil
import sys
from typing import Any

os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')  # NumPy's threads; the workers are parallel already
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import demonstrations
import tyro

from rtjax.data import generation
from rtjax.data.item_store import ItemStore
from rtjax.runtime import cli, interrupt


@dataclasses.dataclass(frozen=True)
class Config:
  """Record Meta-World's scripted experts."""
  out: pathlib.Path
  """Output folder; the dataset becomes OUT/metaworld/1.0.0."""
  recording: tyro.conf.OmitArgPrefixes[demonstrations.RecordingConfig] = dataclasses.field(
      default_factory=demonstrations.RecordingConfig)
  workers: int = 0
  """Number of processes; 0 is one per core."""

  def recipe(self) -> dict[str, Any]:
    """Return the parameters that determine the episodes, as JSON keeps them."""
    return generation.as_json(dataclasses.asdict(self.recording))


def main(config: Config) -> None:
  try:
    _generate(config)
  except (ImportError, RuntimeError) as error:  # of the simulator, OpenGL, or an expert that always fails
    raise cli.UserError(str(error)) from error


def _generate(config: Config) -> None:
  target = config.out / 'metaworld' / '1.0.0'
  if target.exists():
    _require_same_recipe(target, config)
    print(f'{target} is complete already.')
    return
  if importlib.util.find_spec('tensorflow_datasets') is None:  # needed at the end, hours later
    raise cli.UserError("the dataset's writer needs TensorFlow Datasets: pip install -e '.[metaworld,data]'.")
  recording = config.recording
  raw = ItemStore(config.out / 'metaworld.raw', demonstrations.EPISODES_PER_FILE)
  raw.create(config.recipe())
  interrupt.keep(f'The finished parts are kept in {raw.folder}; the same command goes on.')
  # The simulator stays out of this process: Mesa's OpenGL and TensorFlow, which writes the dataset, crash in one.
  raw.fill(functools.partial(demonstrations.record, recording), recording.splits(), config.workers, 'episodes')
  for name, count in _write(config, raw).items():
    print(f'{count} episodes in {name}')
  _print_failures(raw, recording)
  shutil.rmtree(raw.folder)
  print(f'Train on it with: --data {target}')


def _require_same_recipe(target: pathlib.Path, config: Config) -> None:
  """Raise ValueError unless the dataset at `target` has the requested recipe."""
  existing = json.loads((target / 'metadata.json').read_text()).get('recipe')
  if existing != config.recipe():
    raise ValueError(f'{target} exists already with another recipe, {existing}: remove it, or choose another folder '
                     'with --out.')


def _write(config: Config, raw: ItemStore) -> dict[str, int]:
  """Write the dataset; return the number of episodes in each split."""
  import metaworld_dataset_builder as builders  # imports TensorFlow, which is slow and which the workers do not need
  builder = builders.Builder(raw=raw, recording=config.recording, recipe=config.recipe(), data_dir=config.out)
  return generation.write(builder)


def _print_failures(raw: ItemStore, recording: demonstrations.RecordingConfig) -> None:
  """Print how often each expert failed; these episodes were left out."""
  failed: dict[str, int] = {}
  for span in recording.splits().values():
    for episode in raw.read(*span):
      metadata = episode['episode_metadata']
      failed[metadata['task']] = failed.get(metadata['task'], 0) + metadata['failed_attempts']
  listed = ', '.join(f'{task} {count}' for task, count in failed.items() if count)
  print(f'failed attempts, left out and repeated from another start: {listed or "none"}')


if __name__ == '__main__':
  cli.run(lambda: main(tyro.cli(Config)))
