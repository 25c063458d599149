"""Judges a policy: python eval.py CHECKPOINT --env tabletop, or --dataset FOLDER_OR_NAME for recorded episodes"""
import dataclasses
import pathlib
import re
from typing import Annotated, Any, Literal

import tyro

from rtjax.runtime import cli


@dataclasses.dataclass(frozen=True)
class Config:
  """Judges a policy, and writes a report: report.html to read (one file), report.json to compute with.

  With --env it acts in a simulator, and what counts is how often it succeeds; report.md has the tables once more. The
  same command again goes on with the episodes that are missing.

  With --dataset it replays recorded episodes, which tells how well single actions are predicted.
  """
  checkpoint: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar='CHECKPOINT')]]
  """A folder that train.py wrote (its newest checkpoint counts), one step's folder in it, or released RT-1 weights.
  With --env also 'expert', the environment's script, and 'random'. Or a log, .jsonl, of episodes that ran elsewhere."""
  env: str = ''
  """Environment to act in: tabletop, or metaworld/TASK, such as metaworld/reach-v3."""
  dataset: str = ''
  """Folder of an RLDS dataset, gs:// folder or TFDS name to replay."""
  split: tuple[str, ...] = ()
  """--env: the splits to judge, none = all. --dataset: which episodes, a split or a part of one, such as 'train[90%:]';
  none = val."""
  episodes: int = 0
  """--env: so many of each split, 0 = 100. --dataset: the first ones of the split, 0 = all."""
  show: int = 8
  """How many episodes get pictures on the page."""
  videos: int = 0
  """--env: how many of these move as well; each makes the page up to half a megabyte heavier."""
  output: str = ''
  """Folder to write the report into; empty = reports/CHECKPOINT-ENV_OR_DATASET-SPLIT."""
  skills: tuple[str, ...] = ()
  """--env: the skills to judge, none = all."""
  compare: tuple[str, ...] = ()
  """--env: other checkpoints, which run the same episodes, or reports of such, to put beside."""
  baseline: tuple[Literal['untrained', 'blind'], ...] = ()
  """--env: put beside the same network untrained, or the policy told the same in every episode."""
  threshold: float = 0.0
  """--env: hold the robot for a step where the policy's mean confidence is below; 0 = never."""
  encoder: str = ''
  """--env: instruction encoder, a folder or a table; empty = the built-in one."""
  image_text: tuple[str, ...] = ()
  """--env: pictures with texts (docs/image_text.md): an RT-2 answers their held-out questions too."""
  renderer: str = ''
  """--env: what makes the pictures: rays or gl; empty = rays in the tabletop, gl in Meta-World."""
  image_size: tuple[int, int] | None = None
  """--env: height and width of the pictures; none = those of the data that the policy was trained on, or 96 96."""
  wrist: bool = False
  """--env tabletop: show the wrist's camera as well, for policies that look through it; doubles the time."""
  multiview: bool = False
  """--env tabletop: show all six cameras, for policies that look through more than the wrist's and the main one."""
  environments: int = 0
  """--env: how many run at a time, a process each; 0 = one per core."""

  def check(self) -> None:
    if self.is_log() and (self.env or self.dataset):
      raise ValueError('a log of episodes is reported as it is: leave out --env and --dataset.')
    if bool(self.env) == bool(self.dataset) and not self.is_log():
      raise ValueError('give either --env, to act in a simulator, or --dataset, to replay recorded episodes.')
    for name in ('episodes', 'show', 'videos', 'environments'):
      if getattr(self, name) < 0:
        raise ValueError(f'--{name} is {getattr(self, name)}, it must be at least 0.')
    if not 0 <= self.threshold <= 1:
      raise ValueError(f'--threshold is {self.threshold}, it must be a probability, from 0 (never) to 1.')
    for name in ('wrist', 'multiview'):
      if getattr(self, name) and self.env != 'tabletop':
        raise ValueError(f'--{name} is for --env tabletop: no other environment has that camera.')
    if self.dataset:
      unused = [n for n in ('skills', 'compare', 'baseline', 'threshold', 'encoder', 'videos', 'image_text')
                if getattr(self, n)]
      if unused or len(self.split) > 1:
        surplus = ', '.join(f'--{name.replace("_", "-")}' for name in unused) or 'second one'
        raise ValueError(f'--dataset replays one split and takes no {surplus}.')

  def is_log(self) -> bool:
    return self.checkpoint.endswith('.jsonl')

  def folder(self) -> pathlib.Path:
    checkpoint, dataset = (pathlib.Path(p).resolve() for p in (self.checkpoint, self.dataset or self.env))
    if re.fullmatch(r'\d+\.\d+\.\d+', dataset.name):
      dataset = dataset.parent  # the version's folder tells less than the dataset's
    what = [] if self.is_log() else [self.env or dataset.name]
    name = '-'.join([checkpoint.name, *what, *(self.split or (['val'] if self.dataset else []))])
    return pathlib.Path(self.output or f'reports/{re.sub(r"[^a-zA-Z0-9._-]+", "_", name)}')


def main() -> None:
  config = tyro.cli(Config)
  config.check()
  from rtjax.evaluation.provenance import prepare
  folder = config.folder()
  prepare(folder)
  (_replay if config.dataset else _simulate if config.env else _report)(config, folder)


def _simulate(config: Config, folder: pathlib.Path) -> None:
  from rtjax.evaluation.closed_loop import evaluator

  size = config.image_size or evaluator.picture_size(config.checkpoint) or (96, 96)
  settings: dict[str, Any] = {'image_size': size} | ({'renderer': config.renderer} if config.renderer else {})
  if config.env == 'tabletop':
    settings |= {'wrist': config.wrist, 'multiview': config.multiview}
  world = evaluator.open_world(config.env, config.split, config.skills, settings)
  evaluation = evaluator.Evaluation(world, config.episodes or 100, config.environments or evaluator.cores(),
                                   config.threshold, config.encoder, config.videos, config.image_text)
  _print(evaluator.judge(evaluation, config.checkpoint, config.baseline, config.compare, folder, config.show), folder)


def _report(config: Config, folder: pathlib.Path) -> None:
  from rtjax.evaluation.closed_loop import evaluator, external_log

  report = external_log.report([config.checkpoint, *config.compare])
  evaluator.write(folder, report, config.show)
  _print(report, folder)


def _print(report: dict[str, Any], folder: pathlib.Path) -> None:
  from rtjax.evaluation.html.formatting import percent

  for policy in report['policies']:
    share = policy['summary']['success']
    low, high = map(percent, share['interval'])
    print(f'{policy["name"]}: {share["successes"]} of {share["episodes"]} episodes, {percent(share["rate"])} '
          f'({low} to {high})')
  print(f'Report: {folder / "report.html"}')


def _replay(config: Config, folder: pathlib.Path) -> None:
  # Only now: these bring TensorFlow, and --help should not wait for it.
  from rich.progress import track

  import rtjax
  from rtjax.evaluation.replay import replay, report

  policy = rtjax.load_policy(config.checkpoint)
  dataset = replay.open_dataset(policy, config.dataset, config.split[0] if config.split else 'val')
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
