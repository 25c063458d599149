"""Figures of a closed-loop report, computed from episode records."""
import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rtjax.evaluation import statistics
from rtjax.evaluation.closed_loop import failures
from rtjax.evaluation.closed_loop.protocol import EpisodeId

Record = Mapping[str, Any]
SEEN = 'seen'
MIN_SHARED = 10
"""Fewest episodes that a paired test takes unless asked; below 6, its p cannot be less than 0.05."""


def summarize(records: Sequence[Record]) -> dict[str, Any]:
  """Summarize the episodes of one policy, as JSON-able figures.

  Returns:
    'success': a rate, that is 'successes', 'episodes', 'rate' and 'interval' (95 %, Wilson).
    'by_split', 'by_skill': {name: rate}; 'by_split_and_skill': {split: {skill: rate}}.
    'gaps': {split: gap}, and 'all unseen' for all splits whose names start with unseen; see `generalization_gap`.
    'steps': percentiles 'p10', 'p50', 'p90' of the length of successful episodes, or None.
    'latency_ms': 'p50', 'p95', 'p99' of a policy call, or None.
    'jerk': 'p50' and 'p95' over episodes, in m/s^3, or None.
    'failures': {reason: episodes}; 'outcomes': {skill: {outcome: episodes}}.
    'wrong_objects': {'same kind', 'same colour', 'neither': episodes}, compared with the target.
    'confidence': mean over episodes, or None; 'interventions': 'steps', and 'episodes' with at least one.
    'clipped': number of actions beyond the environment's bounds.
  """
  splits, skills = _values(records, 'split'), _values(records, 'skill')
  latency = [milliseconds for record in records for milliseconds in record.get('latency_ms', ())]
  interventions = [record['interventions'] for record in records]
  confidence = [record['confidence'] for record in records if record['confidence'] is not None]
  jerk = [record['jerk'] for record in records if record['jerk'] is not None]
  return {
      'success': success_rate(records),
      'by_split': {split: success_rate(_select(records, split=split)) for split in splits},
      'by_skill': {skill: success_rate(_select(records, skill=skill)) for skill in skills},
      'by_split_and_skill': {split: {skill: success_rate(_select(records, split=split, skill=skill))
                                     for skill in _values(_select(records, split=split), 'skill')} for split in splits},
      'gaps': _gaps(records, splits),
      'steps': percentiles([record['steps'] for record in records if record['success']], (10, 50, 90)),
      'latency_ms': percentiles(latency, (50, 95, 99)),
      'jerk': percentiles(jerk, (50, 95)),
      'failures': _counts(records, lambda record: record['failure'], failures.REASONS),
      'outcomes': {skill: _counts(_select(records, skill=skill), lambda record: record['outcome'], failures.OUTCOMES)
                   for skill in skills},
      'wrong_objects': _counts(records, _shared_property, ('same kind', 'same colour', 'neither')),
      'confidence': float(np.mean(confidence)) if confidence else None,
      'interventions': {'steps': sum(interventions), 'episodes': sum(steps > 0 for steps in interventions)},
      'clipped': sum(record['clipped'] for record in records)}


def success_rate(records: Sequence[Record]) -> dict[str, Any]:
  """Return the success rate of at least one episode, with its interval."""
  successes = sum(record['success'] for record in records)
  return {'successes': successes, 'episodes': len(records), 'rate': successes / len(records),
          'interval': statistics.wilson_interval(successes, len(records))}


def generalization_gap(records: Sequence[Record], splits: Sequence[str]) -> dict[str, Any] | None:
  """Compare success on seen tasks and on `splits`, over common skills.

  Returns:
    'skills'; 'seen' and 'unseen', rates as in `success_rate`; 'difference' of the rates and its 'interval' (95 %,
    Newcombe). None if there are no episodes to compare.
  """
  common = set.intersection(*({r['skill'] for r in _select(records, split=split)} for split in (SEEN, *splits)))
  seen = [record for record in records if record['split'] == SEEN and record['skill'] in common]
  unseen = [record for record in records if record['split'] in splits and record['skill'] in common]
  if not seen or not unseen:
    return None
  first, second = success_rate(seen), success_rate(unseen)
  interval = statistics.newcombe_interval(*((rate['successes'], rate['episodes']) for rate in (first, second)))
  return {'skills': [skill for skill in _values(records, 'skill') if skill in common], 'seen': first, 'unseen': second,
          'difference': first['rate'] - second['rate'], 'interval': interval}


def require_single_episodes(records: Sequence[Record], source: str) -> None:
  """Raise ValueError if an episode (split, skill and seed) occurs twice.

  Args:
    source: named in the error.
  """
  counts = collections.Counter(map(EpisodeId.of, records))
  repeated = [f'{episode.name} ({count} times)' for episode, count in counts.items() if count > 1]
  if repeated:
    raise ValueError(f'{source}: {len(repeated)} of its {len(counts)} episodes occur more than once: '
                     f'{", ".join(repeated[:3])}{", ..." if len(repeated) > 3 else ""}. Split, skill and seed are the '
                     'start of an episode: repetitions are no further evidence, and would narrow the intervals. Keep '
                     'one of each, or give every start its own seed.')


def require_shared(first: Iterable[EpisodeId], second: Iterable[EpisodeId], names: tuple[str, str],
                   least: int = MIN_SHARED) -> None:
  """Raise ValueError if fewer than `least` episodes were run by both policies."""
  first, second = set(first), set(second)
  shared = len(first & second)
  if shared < max(least, 1):
    remedy = f', or accept as few with --min-shared {shared}' if shared else ''
    raise ValueError(f'{names[0]} and {names[1]} share {shared} episodes (same split, skill and seed) of {len(first)} '
                     f'and {len(second)}, a paired test needs at least {max(least, 1)}: evaluate both on the same '
                     f'episodes{remedy}.')


def paired_test(first: Sequence[Record], second: Sequence[Record]) -> dict[str, Any]:
  """Compare two policies on the episodes that both ran; see `statistics.mcnemar_test`.

  Returns:
    The test, and 'first_episodes' and 'second_episodes', the number of episodes of each policy.

  Raises:
    ValueError: there is no such episode.
  """
  one, other = ({EpisodeId.of(record): bool(record['success']) for record in records} for records in (first, second))
  require_shared(one, other, ('the first', 'the second policy'), 1)
  shared = [episode for episode in one if episode in other]
  return statistics.mcnemar_test([one[episode] for episode in shared], [other[episode] for episode in shared]) | {
      'first_episodes': len(one), 'second_episodes': len(other)}


def compare(policies: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Compare the policies of a report.

  Returns:
    'comparisons': the first policy with each other one, see `paired_test`, with the names 'first' and 'second';
    'curve': see `success_curve`.

  Raises:
    ValueError: two policies have no episode in common, or the same name.
  """
  names = [policy['name'] for policy in policies]
  if len(set(names)) < len(names):
    raise ValueError(f'policies are {names}, expected different names: the tables tell them apart by name.')
  first, *others = policies
  return {'comparisons': [{'first': first['name'], 'second': other['name'],
                           **paired_test(first['episodes'], other['episodes'])} for other in others],
          'curve': success_curve(policies)}


def success_curve(policies: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
  """Return success over demonstrations, or over training steps.

  Training steps are used if all policies had the same number of demonstrations.

  Returns:
    'over': 'demonstrations' or 'step'; 'points', sorted by 'x', each a rate with the policy's 'name'. None unless at
    least two policies with different x are known.
  """
  known = [p for p in policies if p['identity'].get('step') is not None]
  over = 'demonstrations' if len({p['identity'].get('demonstrations') for p in known} - {None}) > 1 else 'step'
  points = sorted(({'x': p['identity'][over], 'name': p['name'], **p['summary']['success']} for p in known
                   if p['identity'].get(over) is not None), key=lambda point: point['x'])
  return {'over': over, 'points': points} if len({point['x'] for point in points}) > 1 else None


def percentiles(values: Sequence[float], percents: Sequence[int]) -> dict[str, float] | None:
  if not values:
    return None
  return {f'p{percent}': float(value) for percent, value in zip(percents, np.percentile(values, percents), strict=True)}


def _gaps(records: Sequence[Record], splits: Sequence[str]) -> dict[str, Any]:
  if SEEN not in splits:
    return {}
  groups = {split: [split] for split in splits if split != SEEN}
  unseen = [split for split in splits if split.startswith('unseen')]
  if len(unseen) > 1:
    groups['all unseen'] = unseen
  gaps = {name: generalization_gap(records, group) for name, group in groups.items()}
  return {name: gap for name, gap in gaps.items() if gap}


def _shared_property(record: Record) -> str | None:
  if record['failure'] != 'wrong object' or not record['wrong_object']:
    return None
  return failures.shared_property(record['wrong_object'], failures.task_objects(dict(record))[0])


def _counts(records: Sequence[Record], label: Callable[[Record], str | None], order: Sequence[str]) -> dict[str, int]:
  counted = collections.Counter(label(record) for record in records)
  return {name: counted[name] for name in order if counted[name]}


def _select(records: Sequence[Record], **values: str) -> list[Record]:
  return [record for record in records if all(record[name] == value for name, value in values.items())]


def _values(records: Sequence[Record], name: str) -> list[str]:
  return list(dict.fromkeys(record[name] for record in records))
