"""Success rates with their doubt: how sure one can be after so many episodes, and whether two policies differ."""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

Interval = tuple[float, float]


def wilson(successes: int, episodes: int) -> Interval:
  """The 95 % score interval of a share (Wilson 1927). It stays within 0 and 1, and holds for shares of 0 and 1 too."""
  _check(successes, episodes)
  found = stats.binomtest(successes, episodes).proportion_ci(0.95, 'wilson')
  return float(found.low), float(found.high)


def newcombe(first: tuple[int, int], second: tuple[int, int]) -> Interval:
  """The 95 % interval of the difference of two independent shares, each (successes, episodes).

  From the two Wilson intervals by squaring and adding (Newcombe 1998, Statistics in Medicine 17:873, method 10).
  """
  (low1, high1), (low2, high2) = wilson(*first), wilson(*second)
  share1, share2 = first[0] / first[1], second[0] / second[1]
  difference = share1 - share2
  return (difference - math.hypot(share1 - low1, high2 - share2),
          difference + math.hypot(high1 - share1, share2 - low2))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Any]:
  """Whether two policies differ on the same episodes: McNemar's exact test, two-sided.

  Returns:
    'episodes'; 'only_first', 'only_second': how many only one of them solved; 'difference' of the success rates, first
    minus second; 'p': the chance of so uneven a count if neither were better.

  Raises:
    ValueError: they are not equally many, or there are none.
  """
  if len(first) != len(second) or not len(first):
    raise ValueError(f'{len(first)} and {len(second)} episodes, expected as many of both, and at least one.')
  one, two = np.asarray(first, bool), np.asarray(second, bool)
  only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
  unequal = only_first + only_second
  p = float(stats.binomtest(only_first, unequal).pvalue) if unequal else 1.0
  return {'episodes': len(one), 'only_first': only_first, 'only_second': only_second,
          'difference': (only_first - only_second) / len(one), 'p': p}


def _check(successes: int, episodes: int) -> None:
  if not 0 <= successes <= episodes or episodes < 1:
    raise ValueError(f'{successes} successes in {episodes} episodes, expected at least one episode and no more '
                     'successes than episodes.')
