"""Judges a policy on recorded episodes: python eval.py CHECKPOINT --dataset FOLDER_OR_NAME"""
import dataclasses
import pathlib
import re
from typing import Annotated

import tyro

from rtjax import cli


@dataclasses.dataclass(frozen=True)
class Config:
  """Replays recorded episodes through a policy, compares its actions with the recorded ones, and writes a report.

  The report tells how well single actions are predicted: report.html to read (one file, with curves and pictures),
  report.json to compute with.
  """
  checkpoint: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar='CHECKPOINT')]]
  """A folder that train.py wrote (its newest checkpoint counts), one step's folder in it, or released RT-1 weights."""
  dataset: str
  """Folder of an RLDS dataset, gs:// folder or TFDS name."""
  split: str = 'val'
  """Which episodes: a split of the dataset, or a part of one, such as 'train[90%:]'."""
  episodes: int = 0
  """Replay so many, the first ones of the split; 0 = all."""
  show: int = 8
  """How many episodes get curves and pictures on the page: the best, the median and the worst ones."""
  output: str = ''
  """Folder to write the report into; empty = reports/CHECKPOINT-DATASET-SPLIT."""

  def check(self) -> None:
    for name in ('episodes', 'show'):
      if getattr(self, name) < 0:
        raise ValueError(f'--{name} is {getattr(self, name)}, it must be at least 0.')

  def folder(self) -> pathlib.Path:
    checkpoint, dataset = (pathlib.Path(p).resolve() for p in (self.checkpoint, self.dataset))
    if re.fullmatch(r'\d+\.\d+\.\d+', dataset.name):
      dataset = dataset.parent  # the version's folder tells less than the dataset's
    name = f'{checkpoint.name}-{dataset.name}-{self.split}'
    return pathlib.Path(self.output or f'reports/{re.sub(r"[^a-zA-Z0-9._-]+", "_", name)}')


def main() -> None:
  config = tyro.cli(Config)
  config.check()
  # Only now: these bring TensorFlow, and --help should not wait for it.
  from rich.progress import track

  import rtjax
  from rtjax.evaluation import replay, report

  folder = config.folder()
  report.prepare(folder)
  policy = rtjax.load_policy(config.checkpoint)
  dataset = replay.open_dataset(policy, config.dataset, config.split)
  episodes = min(config.episodes or dataset.num_episodes, dataset.num_episodes)
  replays = list(track(replay.replay_all(policy, dataset, episodes), 'Replaying', episodes))
  found = report.build(policy, config.checkpoint, dataset, replays)
  written = report.write(folder, found, replays, policy.config.action_spec, config.show)
  accuracy = found['accuracy']
  print(f'{accuracy["policy"]:.1%} of action tokens right, baseline {accuracy["baseline"]:.1%} '
        f'({found["episodes"]} episodes, {found["steps"]} steps)')
  print(f'Report: {written}')


if __name__ == '__main__':
  cli.run(main)
