"""Reports of episodes that another program ran and logged as JSON lines.

    {"env": "simpler", "policy": "my run", "control_hz": 3, "max_steps": 80}
    {"split": "seen", "skill": "pick", "seed": 0, "success": true, "steps": 31}
    {"split": "seen", "skill": "pick", "seed": 1, "success": false, "steps": 80, "failure": "dropped"}

The first line may also hold `settings`, `versions`, `threshold`, `step` and `demonstrations`. The other lines may hold
all keys of a record of `rollout.Runner`; or `info` at the end of the episode, with the keys of the tabletop's info, and
`gripper_closed`, from which failure reason and outcome are derived.
"""
import contextlib
import math
import pathlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rtjax.evaluation.closed_loop import failures, summary
from rtjax.evaluation.closed_loop.protocol import FORMAT, EpisodeId
from rtjax.evaluation.provenance import provenance
from rtjax.runtime import limits

_Kind = tuple[str, Callable[[Any], bool]]  # in words, and whether a JSON value is of it


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and math.isfinite(value)


def _or_null(kind: _Kind) -> _Kind:
  return f'{kind[0]} or null', lambda value: value is None or kind[1](value)


def _list_of(kind: _Kind) -> _Kind:
  return f'a list, each {kind[0]}', lambda value: isinstance(value, list) and all(map(kind[1], value))


def _is_name(value: Any) -> bool:
  with contextlib.suppress(ValueError):
    return bool(limits.check_name(value, 'it') is value)
  return False


_TEXT: _Kind = 'str', lambda value: isinstance(value, str)
_NAME: _Kind = 'str that can name a file, without / and \\', _is_name  # of a filmstrip
_BOOL: _Kind = 'bool', lambda value: isinstance(value, bool)
_NUMBER: _Kind = 'a finite number', _is_number
_POSITIVE: _Kind = 'a number above 0', lambda value: _is_number(value) and value > 0
_COUNT: _Kind = 'a whole number from 0', lambda value: type(value) is int and 0 <= value < 2 ** 64
_OBJECT: _Kind = 'an object {...}', lambda value: isinstance(value, dict)

_HEADER = {'env': _TEXT, 'policy': _TEXT, 'control_hz': _POSITIVE, 'max_steps': _COUNT}
_IDENTITY_OPTIONS = {'step': _or_null(_COUNT), 'demonstrations': _or_null(_COUNT), 'weights': _or_null(_TEXT),
                     'dtype': _or_null(_TEXT)}
_HEADER_OPTIONS = {'settings': _OBJECT, 'versions': _OBJECT, 'threshold': _NUMBER, **_IDENTITY_OPTIONS}
_RECORD = {'split': _NAME, 'skill': _NAME, 'seed': _COUNT, 'success': _BOOL, 'steps': _COUNT}
_RECORD_OPTIONS = {
    'task': _TEXT, 'instruction': _TEXT, 'message': _TEXT, 'failure': _or_null(_TEXT), 'outcome': _or_null(_TEXT),
    'wrong_object': _or_null(_TEXT), 'jerk': _or_null(_NUMBER), 'clipped': _COUNT, 'confidence': _or_null(_NUMBER),
    'interventions': _COUNT, 'latency_ms': _list_of(_NUMBER), 'filmstrip': _list_of(_COUNT), 'seconds': _NUMBER,
    'gripper_closed': _BOOL, 'info': _OBJECT}
_INFO_OPTIONS = {
    'task': _TEXT, 'skill': _TEXT, 'grasped': _or_null(_TEXT), 'failure': _or_null(_TEXT), 'moved': _NUMBER,
    'touched': _list_of(_TEXT),
    'dropped': ('bool, str or null', lambda value: value is None or isinstance(value, (bool, str))),
    'displaced': (
        'an object of numbers', lambda value: isinstance(value, dict) and all(map(_is_number, value.values())))}
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
    ValueError: a log lacks a key, has a value of another type or repeats an episode, two logs are equal, of different
      environments, or share too few episodes.
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
  header: dict[str, Any] = {}
  records: list[dict[str, Any]] = []
  for number, line in limits.lines(path):
    where = f'{path}, line {number}'
    value = limits.parse_json(line, where)
    if number == 1:
      header = _checked(where, value, _HEADER, _HEADER_OPTIONS)
    else:
      records.append(complete(where, value, header['max_steps']))
  if not records:
    raise ValueError(f'{path} has {bool(header):d} lines, expected a header and one line per episode.')
  return header, records


def _checked(where: str, line: Any, required: Mapping[str, _Kind], optional: Mapping[str, _Kind]) -> dict[str, Any]:
  """Return a JSON object whose entries have these types."""
  for name, (expected, is_valid) in {**required, **optional}.items():
    value = line.get(name) if isinstance(line, dict) else line
    if not isinstance(line, dict) or ((name in required or name in line) and not is_valid(value)):
      raise ValueError(f'{where}: {name!r} is {limits.short(value)}, expected {expected}.')
  return line


def checked_identity(where: str, identity: Any) -> dict[str, Any]:
  """Return the identity of a policy; errors as for `complete`."""
  return _checked(where, limits.json_object(identity, where), {}, _IDENTITY_OPTIONS)


def complete(where: str, record: Any, max_steps: int) -> dict[str, Any]:
  """Return a record with all keys that a report reads.

  Raises:
    ValueError: an entry is missing, or of another type; `where` names the line in the message.
  """
  _checked(where, record, _RECORD, _RECORD_OPTIONS)
  if not record['success'] <= record['steps'] <= max_steps:
    raise ValueError(f"{where}: 'steps' is {record['steps']}, expected 1 to {max_steps}, the most steps of an episode; "
                     '0 only for a failure.')
  derived = _from_info(where, record) if 'info' in record else {
      'failure': None if record['success'] else 'timeout', 'outcome': 'success' if record['success'] else None}
  return _DEFAULTS | derived | {name: value for name, value in record.items() if name != 'info'}


def _from_info(where: str, record: dict[str, Any]) -> dict[str, Any]:
  info = _checked(f'{where}, info', record['info'], {}, _INFO_OPTIONS) | {'success': record['success']}
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
