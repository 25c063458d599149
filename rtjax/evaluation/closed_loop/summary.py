"""Logged episodes to the numbers of a closed-loop report."""
import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rtjax.evaluation import statistics
from rtjax.evaluation.closed_loop import failures

Record = Mapping[str, Any]
SEEN = 'seen'


def summarize(records: Sequence[Record]) -> dict[str, Any]:
  """JSON-able figures of one policy's episodes.

  Returns:
    'success': a share, that is 'successes', 'episodes', 'rate' and 'interval' (95 %, Wilson).
    'by_split', 'by_skill': {name: share}; 'by_split_and_skill': {split: {skill: share}}.
    'gaps': {split: gap}, and 'all unseen' for all splits whose names begin with unseen; see `gap`.
    'steps': quantiles 'p10', 'p50', 'p90' of the length of successful episodes; None if there are none.
    'latency_ms': 'p50', 'p95', 'p99' of a policy call; None where nothing was timed.
    'jerk': 'p50' and 'p95' over episodes, m/s^3, or None.
    'failures': {label: episodes}; 'deeds': {skill: {deed: episodes}}, what was done.
    'wrong_objects': {'same kind', 'same colour', 'neither': episodes}, what they share with the right one.
    'confidence': mean over episodes, or None; 'interventions': 'steps' and 'episodes' with at least one.
    'clipped': actions beyond the environment's bounds.
  """
  splits, skills = _names(records, 'split'), _names(records, 'skill')
  milliseconds = [ms for record in records for ms in record.get('milliseconds', ())]
  held = [record['interventions'] for record in records]
  confident = [record['confidence'] for record in records if record['confidence'] is not None]
  jerks = [record['jerk'] for record in records if record['jerk'] is not None]
  return {
      'success': share(records),
      'by_split': {split: share(_of(records, split=split)) for split in splits},
      'by_skill': {skill: share(_of(records, skill=skill)) for skill in skills},
      'by_split_and_skill': {split: {skill: share(_of(records, split=split, skill=skill))
                                     for skill in _names(_of(records, split=split), 'skill')} for split in splits},
      'gaps': _gaps(records, splits),
      'steps': quantiles([record['steps'] for record in records if record['success']], (10, 50, 90)),
      'latency_ms': quantiles(milliseconds, (50, 95, 99)),
      'jerk': quantiles(jerks, (50, 95)),
      'failures': _counts(records, lambda record: record['failure'], failures.LABELS),
      'deeds': {skill: _counts(_of(records, skill=skill), lambda record: record['deed'], failures.DEEDS)
                for skill in skills},
      'wrong_objects': _counts(records, _likeness, ('same kind', 'same colour', 'neither')),
      'confidence': float(np.mean(confident)) if confident else None,
      'interventions': {'steps': sum(held), 'episodes': sum(count > 0 for count in held)},
      'clipped': sum(record['clipped'] for record in records)}


def share(records: Sequence[Record]) -> dict[str, Any]:
  """How many of some episodes succeeded; at least one is needed."""
  successes = sum(record['success'] for record in records)
  return {'successes': successes, 'episodes': len(records), 'rate': successes / len(records),
          'interval': statistics.wilson(successes, len(records))}


def gap(records: Sequence[Record], splits: Sequence[str]) -> dict[str, Any] | None:
  """How much better the policy is on seen tasks than on `splits`, over the skills that all of them have.

  Returns:
    'skills', the 'seen' and the 'unseen' share, 'difference' of their rates and its 'interval' (95 %, Newcombe); None
    where there is nothing to compare.
  """
  common = set.intersection(*({r['skill'] for r in _of(records, split=split)} for split in (SEEN, *splits)))
  seen = [record for record in records if record['split'] == SEEN and record['skill'] in common]
  unseen = [record for record in records if record['split'] in splits and record['skill'] in common]
  if not seen or not unseen:
    return None
  first, second = share(seen), share(unseen)
  interval = statistics.newcombe(*((s['successes'], s['episodes']) for s in (first, second)))
  return {'skills': [skill for skill in _names(records, 'skill') if skill in common], 'seen': first, 'unseen': second,
          'difference': first['rate'] - second['rate'], 'interval': interval}


def compare(first: Sequence[Record], second: Sequence[Record]) -> dict[str, Any]:
  """McNemar's exact test over the episodes that two policies share, and where only one of them succeeded.

  Raises:
    ValueError: they share none.
  """
  theirs = {_key(record): record for record in second}
  pairs = [(record, theirs[_key(record)]) for record in first if _key(record) in theirs]
  if not pairs:
    raise ValueError('the reports share no episode: none has the same split, skill and seed. Evaluate both under the '
                     'same protocol.')
  return statistics.mcnemar([one['success'] for one, _ in pairs], [other['success'] for _, other in pairs])


def side_by_side(policies: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """What several policies of a report have to say together.

  Returns:
    'comparisons': of the first with each other one, see `compare`, and their names; 'curve', see `curve`.

  Raises:
    ValueError: two share no episode.
  """
  first, *others = policies
  return {'comparisons': [{'first': first['name'], 'second': other['name'],
                           **compare(first['episodes'], other['episodes'])} for other in others],
          'curve': curve(policies)}


def curve(policies: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
  """Success over demonstrations, or over training steps where all had equally many, if several policies tell.

  Returns:
    'over': 'demonstrations' or 'step', what is `at` in the 'points', each a share and its policy's 'name', in order.
  """
  known = [p for p in policies if p['identity'].get('step') is not None]
  over = 'demonstrations' if len({p['identity'].get('demonstrations') for p in known} - {None}) > 1 else 'step'
  points = sorted(({'at': p['identity'][over], 'name': p['name'], **p['summary']['success']} for p in known
                   if p['identity'].get(over) is not None), key=lambda point: point['at'])
  return {'over': over, 'points': points} if len({point['at'] for point in points}) > 1 else None


def quantiles(values: Sequence[float], percents: Sequence[int]) -> dict[str, float] | None:
  if not values:
    return None
  return {f'p{percent}': float(found) for percent, found in zip(percents, np.percentile(values, percents), strict=True)}


def _gaps(records: Sequence[Record], splits: Sequence[str]) -> dict[str, Any]:
  if SEEN not in splits:
    return {}
  others = {split: [split] for split in splits if split != SEEN}
  unseen = [split for split in splits if split.startswith('unseen')]
  if len(unseen) > 1:
    others['all unseen'] = unseen
  found = {name: gap(records, those) for name, those in others.items()}
  return {name: value for name, value in found.items() if value}


def _likeness(record: Record) -> str | None:
  if record['failure'] != 'wrong object' or not record['wrong_object']:
    return None
  target = failures.named(dict(record))[0]
  return failures.likeness(record['wrong_object'], target)


def _counts(records: Sequence[Record], of: Callable[[Record], str | None], order: Sequence[str]) -> dict[str, int]:
  counted = collections.Counter(of(record) for record in records)
  return {name: counted[name] for name in order if counted[name]}


def _of(records: Sequence[Record], **wanted: str) -> list[Record]:
  return [record for record in records if all(record[name] == value for name, value in wanted.items())]


def _names(records: Sequence[Record], name: str) -> list[str]:
  return list(dict.fromkeys(record[name] for record in records))


def _key(record: Record) -> tuple[str, str, int]:
  return record['split'], record['skill'], record['seed']
