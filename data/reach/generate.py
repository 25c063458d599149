"""Generator of the `reach` dataset.

    python data/reach/generate.py --out data/built --episodes 200
"""
import dataclasses
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import tyro

from rtjax.runtime import cli


@dataclasses.dataclass(frozen=True)
class Config:
  """Generate synthetic robot episodes of a gripper that reaches coloured shapes."""
  out: pathlib.Path
  """Output folder; the dataset becomes OUT/reach/1.0.0."""
  episodes: int = 200
  """Training episodes; a tenth as many more are held out as the split val."""
  seed: int = 0
  """Random seed of the episodes."""


def main(config: Config) -> None:
  import reach_dataset_builder  # late: --help need not wait for TensorFlow

  from rtjax.data.generation.builder import write
  builder = reach_dataset_builder.Builder(data_dir=config.out, episodes=config.episodes, seed=config.seed)
  if pathlib.Path(builder.data_dir).exists():
    raise ValueError(f'{builder.data_dir} exists already: remove it, or choose another folder with --out.')
  start = time.time()
  counts = write(builder)
  print(f'{counts["train"]} episodes in train, {counts["val"]} in val, {time.time() - start:.0f} s')
  print(f'Train on it with: --data {builder.data_dir}')


if __name__ == '__main__':
  cli.run(lambda: main(tyro.cli(Config)))
