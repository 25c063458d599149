"""Command to evaluate a policy: python eval.py CHECKPOINT --env tabletop, or --dataset FOLDER_OR_NAME."""
import contextlib
import dataclasses
import pathlib
import re
from typing import Annotated, Any, Literal

import tyro

from rtjax import packaged
from rtjax.runtime import cli, interrupt


@dataclasses.dataclass(frozen=True)
class Config:
  """Evaluate a policy and write a report (report.html and report.json).

  With --env the policy acts in a simulator, and its success rate is measured; report.md repeats the tables. The same
  command continues an interrupted evaluation.

  With --dataset recorded episodes are replayed, and the accuracy of single actions is measured.
  """
  checkpoint: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar='CHECKPOINT')]]
  """Run folder of train.py (its newest checkpoint is taken), folder of one step, released RT-1 weights, or a packaged
  policy, such as rt1_tabletop. With --env also 'expert', the scripted expert of the environment, or 'random'. Or a log
  (.jsonl) of episodes of another program."""
  env: str = ''
  """Environment to act in: tabletop; libero/object, spatial, goal or long; metaworld/mt10, metaworld/mt50 or
  metaworld/TASK; or MODULE:NAME, one that a module registers (docs/add_an_environment.md)."""
  dataset: str = ''
  """Dataset to replay: folder of an RLDS dataset, gs:// folder or TFDS name."""
  split: tuple[str, ...] = ()
  """--env: splits to evaluate, none = all. --dataset: a split or a part of one, such as 'train[90%:]'; none = val."""
  episodes: int = 0
  """--env: episodes per split, 0 = 100. --dataset: number of episodes from the start of the split, 0 = all."""
  show: int = 8
  """Episodes with images on the page."""
  videos: int = 0
  """--env: how many of these have a video; each adds up to half a megabyte to the page."""
  live: bool = False
  """--env: show the episodes while they run, at twice the real speed, on a page for this machine's browser."""
  output: str = ''
  """Folder of the report; empty = reports/CHECKPOINT-ENV_OR_DATASET-SPLIT."""
  skills: tuple[str, ...] = ()
  """--env: skills to evaluate, none = all."""
  compare: tuple[str, ...] = ()
  """--env: further checkpoints, evaluated on the same episodes, or earlier reports, to compare with."""
  min_shared: int = 10
  """Fewest episodes (same split, skill and seed) that an earlier report or a log must share to be compared with."""
  baseline: tuple[Literal['untrained', 'blind'], ...] = ()
  """--env: compare with the same network untrained, or with the policy given one instruction in all episodes."""
  threshold: float = 0.0
  """--env: hold the robot in steps with a mean confidence below this; 0 = never."""
  path: str = ''
  """--env language_table: folder of the clone of its public source; empty = found in PYTHONPATH."""
  encoder: str = ''
  """Instruction encoder, a folder or a table; empty = that of the policy's id, with --dataset the recorded vectors."""
  image_text: tuple[str, ...] = ()
  """--env: image-text data (docs/guides/image_text.md), whose held-out questions an RT-2 answers as well."""
  renderer: str = ''
  """--env: renderer of the images: rays or gl, in LIBERO also gl_full; empty = rays in the tabletop, tiny in
  Language-Table, else gl."""
  image_size: tuple[int, int] | None = None
  """--env: height and width of the images; none = those of the policy's training data, 256 320 for
  released weights, or 96 96 without a policy."""
  wrist: bool = False
  """--env tabletop: render the wrist camera as well, for policies that use it; doubles the time."""
  multiview: bool = False
  """--env tabletop: render all six cameras, for policies that use more than the wrist and the main one."""
  verify: bool = True
  """Compare the checksums of a checkpoint's files before it is read."""
  dtype: Literal['float32', 'bfloat16'] | None = None
  """Type of the policies' computation; none = that of their training. float32 is the faster one on a CPU."""
  cameras: Literal['agent', 'wrist', 'both'] = 'agent'
  """--env libero: cameras of the policy's image; 'both' are side by side."""
  execute: int = 1
  """--env: actions of a plan to take before the policy is called again, for policies with an action horizon."""
  environments: int = 0
  """--env: number of parallel environments, each in its own process; 0 = one per core."""

  def check(self) -> None:
    if self.is_log() and (self.env or self.dataset):
      raise ValueError('the report of a log takes no environment and no dataset: leave out --env and --dataset.')
    if bool(self.env) == bool(self.dataset) and not self.is_log():
      raise ValueError('give either --env, to act in a simulator, or --dataset, to replay recorded episodes.')
    for name in ('episodes', 'show', 'videos', 'environments', 'min_shared'):
      if getattr(self, name) < 0:
        raise ValueError(f'--{name.replace("_", "-")} is {getattr(self, name)}, it must be at least 0.')
    if not 0 <= self.threshold <= 1:
      raise ValueError(f'--threshold is {self.threshold}, it must be a probability, from 0 (never) to 1.')
    if self.execute < 1:
      raise ValueError(f'--execute is {self.execute}, it must be at least 1.')
    if self.live and not self.env:
      raise ValueError('--live is for --env: only there episodes run that can be shown.')
    if self.cameras != 'agent' and not self.env.startswith('libero/'):
      raise ValueError(f'--cameras {self.cameras} is for --env libero/SUITE: no other environment joins its cameras.')
    for name in ('wrist', 'multiview'):
      if getattr(self, name) and self.env != 'tabletop':
        raise ValueError(f'--{name} is for --env tabletop: no other environment has that camera.')
    if self.path and self.env != 'language_table':
      raise ValueError('--path is for --env language_table: no other environment is imported from a clone.')
    if self.dataset:
      unused = [name for name in ('skills', 'compare', 'baseline', 'threshold', 'videos', 'image_text')
                if getattr(self, name)]
      if unused or len(self.split) > 1:
        surplus = ', '.join(f'--{name.replace("_", "-")}' for name in unused) or 'second one'
        raise ValueError(f'--dataset replays one split and takes no {surplus}.')

  def is_log(self) -> bool:
    return self.checkpoint.endswith('.jsonl')

  def folder(self) -> pathlib.Path:
    checkpoint, dataset = (pathlib.Path(p).resolve() for p in (self.checkpoint, self.dataset or self.env))
    if re.fullmatch(r'\d+\.\d+\.\d+', dataset.name):
      dataset = dataset.parent  # TFDS's folder of a version
    source = [] if self.is_log() else [self.env or dataset.name]
    name = '-'.join([checkpoint.name, *source, *(self.split or (['val'] if self.dataset else []))])
    return pathlib.Path(self.output or f'reports/{re.sub(r"[^a-zA-Z0-9._-]+", "_", name)}')


def main() -> None:
  config = tyro.cli(Config, prog=cli.prog('eval.py'))
  config.check()
  _require_paths(config)
  from rtjax.evaluation.provenance import make_output_folder
  folder = config.folder()
  make_output_folder(folder)
  if config.env:
    interrupt.keep(f'The finished episodes are kept in {folder}; the same command runs the missing ones.')
  (_replay if config.dataset else _simulate if config.env else _report_log)(config, folder)


def _require_paths(config: Config) -> None:
  """Require that paths exist, before TensorFlow and the network load."""
  from rtjax.data import names
  from rtjax.language import instructions
  scripted = ('expert', 'random') if config.env else ()
  for checkpoint in (config.checkpoint, *config.compare):
    if checkpoint not in scripted:
      packaged.require(checkpoint)
  if config.dataset:
    names.require(config.dataset)
  for source in config.image_text:
    names.require_image_text(source)
  if config.encoder:
    instructions.require(config.encoder)


def _simulate(config: Config, folder: pathlib.Path) -> None:
  from rtjax.evaluation.closed_loop import agents, environment, evaluator, live
  from rtjax.language.instructions import open_encoder
  from rtjax.runtime import lock

  splits = environment.choose_splits(config.env, config.split, config.skills)
  encoder = open_encoder(config.encoder) if config.encoder else None
  settings = agents.AgentSettings(config.environments or evaluator.num_cores(), config.threshold, encoder,
                                  config.verify, config.execute, config.dtype)
  with cli.noted_if_slow(f'Loading {config.checkpoint}'):
    agent = agents.load(config.checkpoint, settings)
  size = config.image_size or agents.camera_size(agent)
  options: dict[str, Any] = {'image_size': size} | ({'renderer': config.renderer} if config.renderer else {})
  if config.path:
    options['path'] = config.path
  if config.env == 'tabletop':
    options |= {'wrist': config.wrist, 'multiview': config.multiview}
  elif config.env.startswith('libero/'):
    options['cameras'] = config.cameras
  env = environment.open_environment(config.env, splits, options)
  title = f'{config.checkpoint} in {config.env}'
  with (lock.locked(folder, 'Wait for its end, stop it (the same command continues), or give another --output.'),
        live.opened(title, env.control_hz) if config.live else contextlib.nullcontext() as viewer):
    evaluation = evaluator.Evaluation(env, config.episodes or 100, settings, config.videos, config.image_text,
                                      config.min_shared, viewer)
    _print(evaluator.evaluate(evaluation, agent, config.baseline, config.compare, folder, config.show), folder)


def _report_log(config: Config, folder: pathlib.Path) -> None:
  from rtjax.evaluation.closed_loop import external_log, report

  result = external_log.build([config.checkpoint, *config.compare], config.min_shared)
  report.write(folder, result, config.show)
  _print(result, folder)


def _print(report: dict[str, Any], folder: pathlib.Path) -> None:
  from rtjax.runtime.html.formatting import percent, percent_interval, points

  for policy in report['policies']:
    success = policy['summary']['success']
    print(f'{policy["name"]}: {success["successes"]} of {success["episodes"]} episodes, {percent(success["rate"])} '
          f'({percent_interval(success["interval"])})')
  for test in report['comparisons']:
    print(f'{test["first"]} against {test["second"]}: {test["episodes"]} shared episodes (of {test["first_episodes"]} '
          f'and {test["second_episodes"]}), {points(test["difference"])} points, p {test["p"]:.4f}')
  print(f'Report: {folder / "report.html"}')


def _replay(config: Config, folder: pathlib.Path) -> None:
  # Imported here: they import TensorFlow, which would delay --help.
  from rich.progress import track

  import rtjax
  from rtjax.evaluation.replay import replay, report
  from rtjax.language.instructions import open_encoder
  from rtjax.policies.recorded import open_dataset

  with cli.noted_if_slow(f'Loading {config.checkpoint} and {config.dataset}'):
    policy = rtjax.load_policy(config.checkpoint, encoder=open_encoder(config.encoder) if config.encoder else None,
                               verify=config.verify, dtype=config.dtype)
    dataset = open_dataset(policy, config.dataset, config.split[0] if config.split else 'val')
  episodes = min(config.episodes or dataset.num_records, dataset.num_records)
  size = dataset.image_size
  if size:
    cli.note(policy.announcement((size[0], size[1])))
  replays = list(track(replay.replay_dataset(policy, dataset, episodes), 'Replaying', episodes))
  result = report.build(policy, dataset, replays)
  path = report.write(folder, result, replays, policy.config.action_spec, config.show)
  accuracy = result['accuracy']
  print(f'{accuracy["policy"]:.1%} of action tokens correct, baseline {accuracy["baseline"]:.1%} '
        f'({result["episodes"]} episodes, {result["steps"]} steps)')
  print(f'Report: {path}')


if __name__ == '__main__':
  cli.run(main)
