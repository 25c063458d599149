"""Reports of episodes that another program ran and logged as JSON lines.

    {"env": "simpler", "policy": "my run", "control_hz": 3, "max_steps": 80}
    {"split": "seen", "skill": "pick", "seed": 0, "success": true, "steps": 31}
    {"split": "seen", "skill": "pick", "seed": 1, "success": false, "steps": 80, "failure": "dropped"}

The first line may also hold `settings`, `versions`, `threshold`, `step` and `demonstrations`. The other lines may hold
all keys of a record of `rollout.Runner`; or `info` at the end of the episode, with the keys of the tabletop's info, and
`gripper_closed`, from which failure reason and outcome are derived.
"""
import json
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rtjax.evaluation.closed_loop import failures, summary
from rtjax.evaluation.closed_loop.protocol import FORMAT, EpisodeId
from rtjax.evaluation.provenance import provenance

_HEADER = {'env': str, 'policy': str, 'control_hz': (int, float), 'max_steps': int}
_RECORD = {'split': str, 'skill': str, 'seed': int, 'success': bool, 'steps': int}
_DEFAULTS: dict[str, Any] = {
    'task': '', 'instruction': '', 'message': '', 'wrong_object': None, 'jerk': None, 'clipped': 0, 'confidence': None,
    'interventions': 0, 'latency_ms': (), 'filmstrip': ()}


def build(logs: Sequence[str], min_shared: int = summary.MIN_SHARED) -> dict[str, Any]:
  """Build the content of report.json.

  Args:
    logs: paths, one per policy; the first one is the policy that the report is about.
    min_shared: fewest episodes that the first policy must share with each other one.

  Raises:
    FileNotFoundError: there is no such log.
    ValueError: a log lacks a key or repeats an episode, two logs are equal, of different environments, or share too
      few episodes.
  """
  contents = [_read(pathlib.Path(log)) for log in logs]
  header = contents[0][0]
  for log, (other, _) in zip(logs, contents, strict=True):
    for key in ('env', 'control_hz', 'max_steps'):
      if other[key] != header[key]:
        raise ValueError(f'{log}: {key} is {other[key]!r}, in {logs[0]} it is {header[key]!r}.')
  for index, content in enumerate(contents):
    summary.require_single_episodes(content[1], logs[index])
    if content in contents[:index]:
      raise ValueError(f'{logs[index]} has the same content as {logs[contents.index(content)]}: a policy is not tested '
                       'against itself. Give the log of another policy.')
    if index:
      summary.require_shared(map(EpisodeId.of, contents[0][1]), map(EpisodeId.of, content[1]),
                             (logs[0], logs[index]), min_shared)
  policies = [_policy(*content) for content in contents]
  names = Counter(policy['name'] for policy in policies)
  for log, policy in zip(logs, policies, strict=True):
    if names[policy['name']] > 1:
      policy['name'] += f' ({log})'
  return {
      'format': FORMAT, **provenance(), 'protocol': _protocol(header, policies[0]['episodes']), 'policies': policies,
      **summary.compare(policies)}


def _read(path: pathlib.Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  lines = []
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    try:
      lines.append(json.loads(line))
    except ValueError as error:
      raise ValueError(f'{path}, line {number}: no JSON ({error}).') from error
    _check(f'{path}, line {number}', lines[-1], _HEADER if number == 1 else _RECORD)
  if len(lines) < 2:
    raise ValueError(f'{path} has {len(lines)} lines, expected a header and one line per episode.')
  return lines[0], [_complete(record) for record in lines[1:]]


def _check(where: str, line: Any, expected: dict[str, Any]) -> None:
  for name, type_ in expected.items():
    if not isinstance(line, dict) or not isinstance(line.get(name), type_):
      value = line.get(name) if isinstance(line, dict) else line
      raise ValueError(f'{where}: {name!r} is {value!r}, expected {getattr(type_, "__name__", "a number")}.')


def _complete(record: dict[str, Any]) -> dict[str, Any]:
  """Return a record with all keys that a report reads."""
  derived = _from_info(record) if 'info' in record else {
      'failure': None if record['success'] else 'timeout', 'outcome': 'success' if record['success'] else None}
  return _DEFAULTS | derived | {name: value for name, value in record.items() if name != 'info'}


def _from_info(record: dict[str, Any]) -> dict[str, Any]:
  info = record['info'] | {'success': record['success']}
  held = {info['grasped']} if info.get('grasped') else set()
  return {'failure': failures.reason(info, held, record.get('gripper_closed', False)),
          'outcome': failures.outcome(info, held), 'wrong_object': failures.wrong_object(info, held),
          'task': info.get('task', '')}


def _policy(header: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
  identity = {name: header[name] for name in ('step', 'demonstrations') if name in header}
  return {'name': header['policy'], 'identity': identity, 'summary': summary.summarize(records),
          'episodes': records}


def _protocol(header: dict[str, Any], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
  splits: dict[str, list[str]] = {}
  for record in records:
    skills = splits.setdefault(record['split'], [])
    if record['skill'] not in skills:
      skills.append(record['skill'])
  return {'env': header['env'], 'settings': header.get('settings', {}), 'splits': splits,
          'control_hz': header['control_hz'], 'max_steps': header['max_steps'],
          'threshold': header.get('threshold', 0.0), 'versions': header.get('versions', {})}
