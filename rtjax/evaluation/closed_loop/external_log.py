"""Reports on episodes that ran elsewhere: a simulator in its own Python asks the policy server, and logs JSON lines.

    {"env": "simpler", "policy": "my run", "control_hz": 3, "max_steps": 80}
    {"split": "seen", "skill": "pick", "seed": 0, "success": true, "steps": 31}
    {"split": "seen", "skill": "pick", "seed": 1, "success": false, "steps": 80, "failure": "dropped"}

The first line may also have `settings`, `versions`, `step` and `demonstrations`; the others whatever a record of
`rollout.Runner` has, or `facts`, the tabletop's `info` at the end of the episode, for labels to be read off.
"""
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from rtjax.evaluation.closed_loop import failures, summary
from rtjax.evaluation.closed_loop.protocol import FORMAT
from rtjax.evaluation.provenance import provenance

_HEADER = {'env': str, 'policy': str, 'control_hz': (int, float), 'max_steps': int}
_RECORD = {'split': str, 'skill': str, 'seed': int, 'success': bool, 'steps': int}
_OPTIONAL: dict[str, Any] = {
    'task': '', 'instruction': '', 'message': '', 'wrong_object': None, 'jerk': None, 'clipped': 0, 'confidence': None,
    'interventions': 0, 'milliseconds': (), 'film': ()}


def report(logs: Sequence[str]) -> dict[str, Any]:
  """The content of report.json, as `simulate.judge` makes it; the first log is the one that it is about.

  Raises:
    FileNotFoundError: there is no such log.
    ValueError: a log lacks something, or they are of different environments.
  """
  read = [_read(pathlib.Path(log)) for log in logs]
  header = read[0][0]
  for log, (other, _) in zip(logs, read, strict=True):
    for key in ('env', 'control_hz', 'max_steps'):
      if other[key] != header[key]:
        raise ValueError(f'{log}: {key} is {other[key]!r}, in {logs[0]} it is {header[key]!r}.')
  policies = [_policy(*found) for found in read]
  return {
      'format': FORMAT, **provenance(), 'protocol': _protocol(header, policies[0]['episodes']), 'policies': policies,
      **summary.side_by_side(policies)}


def _read(path: pathlib.Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
  lines = []
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    try:
      lines.append(json.loads(line))
    except ValueError as error:
      raise ValueError(f'{path}, line {number}: no JSON ({error}).') from error
    _check(f'{path}, line {number}', lines[-1], _HEADER if number == 1 else _RECORD)
  if len(lines) < 2:
    raise ValueError(f'{path} has {len(lines)} lines, expected a first one that tells of the evaluation, and one for '
                     'each episode.')
  return lines[0], [_whole(record) for record in lines[1:]]


def _check(where: str, line: Any, wanted: dict[str, Any]) -> None:
  for name, kind in wanted.items():
    if not isinstance(line, dict) or not isinstance(line.get(name), kind):
      found = line.get(name) if isinstance(line, dict) else line
      raise ValueError(f'{where}: {name!r} is {found!r}, expected {getattr(kind, "__name__", "a number")}.')


def _whole(record: dict[str, Any]) -> dict[str, Any]:
  """A record with everything that a report asks for."""
  facts = record.get('facts', {}) | {'success': record['success']}
  held = {facts['grasped']} if facts.get('grasped') else set()
  told = {
      'failure': failures.label(facts, held, record.get('closed', False)), 'deed': failures.deed(facts, held),
      'wrong_object': failures.wrong_object(facts, held), 'task': facts.get('task', '')} if 'facts' in record else {
          'failure': None if record['success'] else 'timeout', 'deed': 'as asked' if record['success'] else None}
  return _OPTIONAL | told | {name: value for name, value in record.items() if name != 'facts'}


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
