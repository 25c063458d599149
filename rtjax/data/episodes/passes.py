"""Three passes over the numbers of episodes, in parts, for statistics.

    totals of a part ──► merged ──► where the wanted ranks lie
                                          │
    numbers close to these ──► merged ──► numbers at the ranks: quantiles, and bounds of what is far
                                                                        │
                                    absurd numbers of a part ──► merged ──► entry

The results do not depend on how the episodes are divided, to the last bit. One machine takes them as one part.
"""
import collections
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data.episode import Episode, EpisodeSource, numbers_of
from rtjax.data.episodes import moments
from rtjax.data.episodes.moments import Counts, Moments
from rtjax.data.numbers import MIDDLE, FarNumber, describe_far, find_far

_SHARES = {'q01': 0.01, 'q99': 0.99}
_T = TypeVar('_T')

Numbers = Mapping[str, Mapping[int, np.ndarray]]
"""Result of `numbers_of`."""
Near = dict[str, list[dict[int, int]]]
"""Result of `moments.near` for each field."""
Ordered = dict[str, dict[int, np.ndarray]]
"""{field: {rank: float32 [n]}}."""
Far = dict[str, dict[int, FarNumber]]
"""Result of `numbers.find_far` for each field."""


@dataclasses.dataclass(frozen=True)
class Totals:
  """First pass.

  Attributes:
    counts: episodes, steps, those without a label, and steps of which a number is clipped.
    moments: of actions, proprioception and instruction vectors.
    bins: result of `moments.coarse` for each field of `numbers_of`.
  """
  counts: 'collections.Counter[Any]' = dataclasses.field(default_factory=collections.Counter)
  moments: dict[str, Moments] = dataclasses.field(default_factory=dict)
  bins: dict[str, Counts] = dataclasses.field(default_factory=dict)

  def __add__(self, other: 'Totals') -> 'Totals':
    counts = collections.Counter(self.counts)
    counts.update(other.counts)
    return Totals(counts, _joined(self.moments, other.moments, lambda a, b: a + b),
                  _joined(self.bins, other.bins, lambda a, b: moments.merge([a, b])))

  def at(self, field: str, size: int) -> np.ndarray:
    """Return the counts of a field's columns."""
    return np.array([self.counts[field, i] for i in range(size)])


def totals(episodes: Sequence[Episode], spec: ActionSpec) -> Totals:
  """Return the first pass over a part."""
  counts: collections.Counter[Any] = collections.Counter({
      'episodes': len(episodes), 'steps': sum(map(len, episodes)),
      'unlabelled_episodes': sum(len(e) > 0 and not e.labelled.any() for e in episodes),
      'unlabelled_steps': sum(int((~e.labelled).sum()) for e in episodes)})
  with_steps = [e for e in episodes if len(e)]
  if not with_steps:
    return Totals(counts)
  actions, limited = (np.concatenate([getattr(e, name) for e in with_steps]) for name in ('actions', 'limited'))
  for field, clipped in {'clipped': spec.clipped(actions) | limited, 'limited': limited}.items():
    counts.update({(field, i): int(count) for i, count in enumerate(clipped.sum(0))})
  states = [e.proprioception for e in with_steps if e.proprioception is not None]
  found = {'action': Moments.of(actions)}
  if states:
    found['proprioception'] = Moments.of(np.concatenate(states))
  if with_steps[0].embeddings.shape[1]:
    vectors, repeats = zip(*map(_vectors, with_steps), strict=True)
    found['instruction'] = Moments.of(np.concatenate(vectors), np.concatenate(repeats))
  bins = {field: moments.coarse(_rows(numbers)) for field, numbers in numbers_of(with_steps).items()}
  return Totals(counts, found, bins)


def near(total: Totals, dataset: EpisodeSource) -> Near:
  """Return where the ranks lie that the quantiles need.

  Raises:
    ValueError: no episode has a step.
  """
  if not total.counts['steps']:
    raise dataset.empty_error()
  return {field: moments.near(bins, _ranks(total)) for field, bins in total.bins.items()}


def close(numbers: Numbers, near: Near) -> dict[str, Counts]:
  """Return the second pass over a part: numbers near the ranks."""
  return {field: moments.fine(_rows(part), near[field]) for field, part in numbers.items()}


def merge_close(parts: Iterable[dict[str, Counts]]) -> dict[str, Counts]:
  return functools.reduce(lambda a, b: _joined(a, b, lambda *both: moments.merge(both)), parts, {})


def ordered(total: Totals, near: Near, close: dict[str, Counts]) -> Ordered:
  """Return the numbers at the ranks."""
  return {field: moments.at_ranks(counts, near[field], _ranks(total)) for field, counts in close.items()}


def far(numbers: Numbers, total: Totals, ordered: Ordered, dataset: EpisodeSource) -> Far:
  """Return the third pass over a part: its absurd numbers."""
  rules = dataset.far_rules()
  return {field: find_far(part, *_middle(total, ordered[field]), rules[field][1]) for field, part in numbers.items()
          if any(map(len, part.values()))}


def merge_far(parts: Iterable[Far]) -> Far:
  def both(a: FarNumber, b: FarNumber) -> FarNumber:
    return dataclasses.replace(min(a, b), count=a.count + b.count)

  return functools.reduce(lambda a, b: _joined(a, b, lambda c, d: _joined(c, d, both)), parts, {})


def entry(dataset: EpisodeSource, spec: ActionSpec, total: Totals, ordered: Ordered, far: Far,
          digest: str) -> dict[str, Any]:
  """Return the statistics, see `statistics.statistics`."""
  counts, steps, rules = total.counts, total.counts['steps'], dataset.far_rules()
  found = {field: {name: getattr(part, name) for name in ('mean', 'std')} for field, part in total.moments.items()}
  for field in found.keys() & {'action', 'proprioception'}:
    part = total.moments[field]
    found[field] |= {'min': part.low.astype(float).tolist(), 'max': part.high.astype(float).tolist()} | {
        name: moments.quantile(ordered[field], steps, share) for name, share in _SHARES.items()}
  return {
      'name': dataset.adapter.name, 'version': dataset.version, 'split': dataset.split, 'features': dataset.layout,
      'records': digest, 'embedding_id': dataset.embedding_id,
      'renderer': dataset.renderer, 'skills': list(dataset.skills), 'image_size': dataset.image_size,
      'episodes': counts['episodes'], 'steps': steps,
      # Those that were left out while reading have none either.
      'unlabelled_episodes': dataset.num_records - counts['episodes'] + counts['unlabelled_episodes'],
      'unlabelled_steps': counts['unlabelled_steps'],
      'far': [text for field, columns in sorted(far.items())
              for text in describe_far(columns, rules[field][0], *_middle(total, ordered[field]))],
      'action': {'names': list(spec.dimension_names), **found['action'],
                 'clipped': (total.at('clipped', spec.size) / steps).tolist(),
                 'clipped_by_adapter': (total.at('limited', spec.size) / steps).tolist()},
      'proprioception': found.get('proprioception'), 'instruction': found.get('instruction')}


def _vectors(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
  """Return the instruction vectors [n, E], and in how many steps each counts."""
  steps, vectors = len(episode), episode.embeddings
  if episode.paraphrases is not None:  # each equally often
    paraphrases = episode.paraphrases[1]
    return paraphrases, steps // len(paraphrases) + (np.arange(len(paraphrases)) < steps % len(paraphrases))
  starts = np.flatnonzero(np.append(True, (vectors[1:] != vectors[:-1]).any(1)))
  return vectors[starts], np.diff(starts, append=steps)


def _ranks(total: Totals) -> list[int]:
  return sorted({rank for share in (*_SHARES.values(), *MIDDLE)
                 for rank in moments.quantile_ranks(total.counts['steps'], share)})


def _middle(total: Totals, ordered: dict[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
  """Return the bounds of the middle of the numbers."""
  low, high = (moments.quantile_ranks(total.counts['steps'], share) for share in MIDDLE)
  return ordered[low[1]], ordered[high[0]]


def _rows(numbers: Mapping[int, np.ndarray]) -> np.ndarray:
  return np.concatenate(list(numbers.values()))


def _joined(a: dict[Any, _T], b: dict[Any, _T], add: Callable[[_T, _T], _T]) -> dict[Any, _T]:
  return {**a, **b, **{key: add(a[key], b[key]) for key in a.keys() & b.keys()}}
