"""Judges policies in an environment, from names to written reports."""
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import rich.progress

from rtjax import envs
from rtjax.actions import ActionSpec
from rtjax.evaluation.closed_loop import agents, rollout, summary
from rtjax.evaluation.closed_loop.agents import Actor
from rtjax.evaluation.closed_loop.page import page
from rtjax.evaluation.closed_loop.protocol import FIRST_SEED, FORMAT, Entry, Log, entries
from rtjax.evaluation.closed_loop.tables import seeds, tables
from rtjax.evaluation.html.formatting import count, percent
from rtjax.evaluation.language import answers
from rtjax.evaluation.provenance import provenance
from rtjax.language import instructions
from rtjax.training import checkpoint as checkpoints


@dataclasses.dataclass(frozen=True)
class World:
  """An environment to judge in.

  Attributes:
    name, settings: what the report says of it.
    make: makes it, given `split`; picklable.
    splits: those to judge in, with the skills of each.
    spec, control_hz, max_steps: its own.
  """
  name: str
  settings: Mapping[str, Any]
  make: rollout.MakeEnv
  splits: Mapping[str, Sequence[str]]
  spec: ActionSpec
  control_hz: float
  max_steps: int


def open_world(name: str, splits: Sequence[str], skills: Sequence[str], settings: Mapping[str, Any]) -> World:
  """The environment called `name`, tried once, so that what does not work here is known before the long part.

  Args:
    splits, skills: those to judge; none = all.
    settings: of `rtjax.envs.make`, such as image_size and renderer; without one, the environment's own is recorded.

  Raises:
    ValueError: there is no such environment, split, skill or renderer, or it does not run here.
  """
  try:
    chosen = _chosen(envs.splits(name), splits, skills)
    make = functools.partial(envs.make, name, **settings)
    env: Any = make(split=next(iter(chosen)))
    try:
      env.reset(seed=0)
    finally:
      env.close()
    settings = {**settings, 'renderer': env.renderer_name}
  except (ImportError, RuntimeError) as error:
    raise ValueError(str(error)) from error
  return World(name, settings, make, chosen, env.action_spec, env.control_hz, env.max_steps)


def picture_size(checkpoint: str) -> tuple[int, int] | None:
  """(height, width) of the pictures that a policy was trained on; None where its checkpoint does not tell.

  Raises:
    ValueError: its datasets differ.
  """
  if not checkpoints.is_checkpoint(checkpoint):
    return None
  statistics = checkpoints.read_metadata(checkpoint).get('statistics', {})
  sizes = {tuple(found['picture']) for found in statistics.values() if found.get('picture')}
  if len(sizes) > 1:
    raise ValueError(f'{checkpoint} was trained on pictures of several sizes, {sorted(sizes)} (height, width): choose '
                     'one with --image-size.')
  return sizes.pop() if sizes else None


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What to run.

  Attributes:
    world: where.
    episodes: of each split.
    environments: at a time.
    threshold: below this mean confidence the robot is held; 0 = never.
    encoder: for instructions; see `rtjax.language.instructions.open_encoder`; empty = the built-in one.
    videos: how many episodes move on the page; if any, all are filmed, since only their ends tell which to show.
    image_text: pictures with texts, whose held-out questions are put to networks that can answer them.
  """
  world: World
  episodes: int
  environments: int
  threshold: float = 0.0
  encoder: str = ''
  videos: int = 0
  image_text: tuple[str, ...] = ()

  @property
  def entries(self) -> list[Entry]:
    return entries(self.world.splits, self.episodes)

  def protocol(self) -> dict[str, Any]:
    world = self.world
    return {'env': world.name, 'settings': dict(world.settings),
            'splits': {split: list(skills) for split, skills in world.splits.items()},
            'episodes_per_split': self.episodes, 'first_seed': FIRST_SEED, 'control_hz': world.control_hz,
            'max_steps': world.max_steps, 'threshold': self.threshold, 'environments': self.environments,
            'versions': versions()}

  def header(self, actor: Actor) -> dict[str, Any]:
    """What has to be the same for two episodes to belong together."""
    names = ('env', 'settings', 'control_hz', 'max_steps', 'versions')
    return {name: value for name, value in self.protocol().items() if name in names} | {'policy': actor.identity}


def judge(evaluation: Evaluation, checkpoint: str, baselines: Sequence[str], others: Sequence[str],
          folder: pathlib.Path, show: int) -> dict[str, Any]:
  """Runs a checkpoint, baselines of it and other checkpoints, and writes report.json, report.md and report.html.

  Args:
    checkpoint: a checkpoint, or one of `agents.SCRIPTED`.
    baselines: of 'untrained' and 'blind', see `agents.baseline`.
    others: further checkpoints, or report.json files (or their folders), whose first policy is put beside.

  Raises:
    ValueError: a policy does not fit the environment, `folder` holds another evaluation, or a report another protocol.
  """
  earlier = {name: _read_report(name, evaluation) for name in others if _report_file(name)}
  loaded = [_actor(evaluation, checkpoint), *(_baseline(evaluation, kind, checkpoint) for kind in baselines),
            *(_actor(evaluation, name) for name in others if name not in earlier)]
  answered = _answers(evaluation, [name for name in (checkpoint, *others) if name not in earlier])
  policies = list(_run_all(evaluation, loaded, folder))
  policies += [found | {'name': name} for name, found in earlier.items()]
  policies = [policy | ({'answers': answered[policy['name']]} if answered.get(policy['name']) else {})
              for policy in policies]
  report = {
      'format': FORMAT, **provenance(), 'protocol': evaluation.protocol(), 'policies': policies,
      **summary.side_by_side(policies)}
  if answered:
    report['blind_answers'] = answers.blind(evaluation.image_text)
  write(folder, report, show, evaluation.videos)
  return report


def write(folder: pathlib.Path, report: dict[str, Any], show: int, videos: int = 0) -> None:
  """Writes the report as JSON for programs, Markdown, and one HTML file that needs nothing else."""
  (folder / 'report.json').write_text(json.dumps(report, indent=1) + '\n')
  (folder / 'report.md').write_text(markdown(report), encoding='utf-8')
  (folder / 'report.html').write_text(page(report, folder / 'films', show, videos), encoding='utf-8')


def markdown(report: dict[str, Any]) -> str:
  success = report['policies'][0]['summary']['success']
  head = (f'# Closed-loop success in {report["protocol"]["env"]}: {report["policies"][0]["name"]}\n\n'
          f'{percent(success["rate"])} of {count(success["episodes"], "episode")}, {report["created"]}, '
          f'{report["machine"]}.\n')
  protocol = f'## Protocol\n\n```json\n{json.dumps(report["protocol"], indent=1)}\n```\n'
  protocol += '\nEvery seed, by split; failures in brackets:\n\n' + ''.join(
      f'- {split}: {seeds(report, split)}\n' for split in report['protocol']['splits'])
  return '\n'.join([head, *(table.markdown() for table in tables(report)), protocol])


def versions() -> dict[str, str]:
  """Of what decides the outcome of an episode."""
  names = ('rtjax', 'mujoco', 'metaworld', 'gymnasium', 'jax', 'flax', 'numpy')
  found = {}
  for name in names:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def _chosen(known: Mapping[str, Sequence[str]], splits: Sequence[str], skills: Sequence[str]
            ) -> dict[str, tuple[str, ...]]:
  every = list(dict.fromkeys(skill for names in known.values() for skill in names))
  for what, given, there in (('split', splits, list(known)), ('skill', skills, every)):
    for name in given:
      envs.require_known(what, name, there)
  found = {split: tuple(skill for skill in known[split] if not skills or skill in skills) for split in splits or known}
  found = {split: names for split, names in found.items() if names or not known[split]}
  if not found:
    raise ValueError(f'the splits {list(splits)} have none of the skills {list(skills)}.')
  return found


def _actor(evaluation: Evaluation, name: str) -> Actor:
  if name == 'expert':
    return agents.Expert()
  if name == 'random':
    return agents.Random()
  actor = agents.load(name, evaluation.environments, evaluation.threshold, _encoder(evaluation))
  _check(evaluation, actor, name)
  return actor


def _baseline(evaluation: Evaluation, kind: str, checkpoint: str) -> Actor:
  if checkpoint in agents.SCRIPTED:
    raise ValueError(f'--baseline {kind} needs a checkpoint, {checkpoint!r} has no network.')
  actor = agents.baseline(kind, checkpoint, evaluation.environments, _encoder(evaluation),
                          _first_words(evaluation.world))
  _check(evaluation, actor, checkpoint)
  return actor


def _check(evaluation: Evaluation, actor: agents.PolicyActor, checkpoint: str) -> None:
  agents.require_fit(actor.spec, evaluation.world.spec, evaluation.world.name)
  if checkpoints.is_checkpoint(checkpoint) and 'renderer' in evaluation.world.settings:
    statistics = checkpoints.read_metadata(checkpoint).get('statistics', {})
    envs.warn_of_other_renderer(statistics, evaluation.world.settings['renderer'])


def _encoder(evaluation: Evaluation) -> instructions.InstructionEncoder | None:
  return instructions.open_encoder(evaluation.encoder) if evaluation.encoder else None


def _first_words(world: World) -> str:
  """The instruction of one fixed episode of the first skill: what a blind policy is always told."""
  split, skills = next(iter(world.splits.items()))
  env: Any = world.make(split=split)
  try:
    return env.reset(seed=FIRST_SEED - 1, options={'skill': skills[0]} if skills else None)[0]['instruction']
  finally:
    env.close()


def _run_all(evaluation: Evaluation, loaded: Sequence[Actor], folder: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The first policy's episodes are logged in `folder`, those of others in folders inside."""
  wanted, world = evaluation.entries, evaluation.world
  places = [folder, *(folder / _folder_name(actor) for actor in loaded[1:])]
  # All logs are opened first: a folder of another evaluation is refused before anything runs.
  logs = [Log(place, evaluation.header(actor)) for place, actor in zip(places, loaded, strict=True)]
  with rollout.arena(world.make, next(iter(world.splits)), evaluation.environments) as vector:
    for place, actor, log in zip(places, loaded, logs, strict=True):
      runner = rollout.Runner(actor, vector, log, world.spec, world.control_hz, place / 'films',
                              evaluation.videos > 0)
      _run(runner, log, wanted, actor.name)
      records = log.records(wanted)
      yield {'name': actor.name, 'identity': actor.identity, 'summary': summary.summarize(records),
             'episodes': [_without(record, 'milliseconds') for record in records]}


def _answers(evaluation: Evaluation, names: Sequence[str]) -> dict[str, Any]:
  """What `answers.judge` finds of each checkpoint among `names` whose network has language.

  Raises:
    ValueError: none has, or the pictures cannot be read.
  """
  if not evaluation.image_text:
    return {}
  found = {name: answers.judge(name, evaluation.image_text) for name in names if checkpoints.is_checkpoint(name)}
  if not any(found.values()):
    raise ValueError(f'--image-text asks about pictures, and {list(names)} have no language: judge an RT-2, or leave '
                     'it out.')
  return found


def _run(runner: rollout.Runner, log: Log, wanted: Sequence[Entry], name: str) -> None:
  done = log.records(wanted)
  columns = ('[progress.description]{task.description}', rich.progress.BarColumn(), rich.progress.MofNCompleteColumn(),
             rich.progress.TimeRemainingColumn(), '{task.fields[success]}')
  with rich.progress.Progress(*columns) as progress:
    successes = sum(record['success'] for record in done)
    bar = progress.add_task(name, total=len(wanted), completed=len(done), success='')
    for finished, record in enumerate(runner.run(wanted), len(done) + 1):
      successes += record['success']
      progress.update(bar, advance=1, success=f'{successes}/{finished} succeed')


def _folder_name(actor: Actor) -> str:
  """The same for the same policy, whatever it is compared with."""
  words = '-'.join(pathlib.Path(actor.name).parts[-2:])
  identity = hashlib.sha256(json.dumps(actor.identity, sort_keys=True).encode()).hexdigest()
  return re.sub(r'[^a-zA-Z0-9._-]+', '_', words) + f'-{identity[:6]}'


def _without(record: Mapping[str, Any], name: str) -> dict[str, Any]:
  return {key: value for key, value in record.items() if key != name}


def _report_file(name: str) -> pathlib.Path | None:
  path = pathlib.Path(name)
  return next((p for p in (path, path / 'report.json') if p.suffix == '.json' and p.is_file()), None)


def _read_report(name: str, evaluation: Evaluation) -> dict[str, Any]:
  path = _report_file(name)
  assert path is not None
  report = json.loads(path.read_text())
  if report.get('format') != FORMAT or 'policies' not in report:
    raise ValueError(f'--compare {name} is no report of a closed-loop evaluation of this version.')
  wanted = json.loads(json.dumps(evaluation.protocol()))
  for key in ('env', 'settings', 'control_hz', 'max_steps'):
    if report['protocol'][key] != wanted[key]:
      raise ValueError(f'--compare {name} was made with another protocol: its {key} is {report["protocol"][key]}, here '
                       f'it is {wanted[key]}. Evaluate both the same way.')
  return report['policies'][0]


def cores() -> int:
  return os.cpu_count() or 1
