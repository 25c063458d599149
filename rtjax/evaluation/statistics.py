"""Confidence intervals of success rates, and a paired test of two policies."""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

Interval = tuple[float, float]


def wilson_interval(successes: int, episodes: int) -> Interval:
  """Compute the 95 % score interval of a rate (Wilson 1927).

  It stays within 0 and 1, and is valid for rates of 0 and 1 as well.

  Raises:
    ValueError: there is no episode, or there are more successes than episodes.
  """
  if not 0 <= successes <= episodes or episodes < 1:
    raise ValueError(f'{successes} successes in {episodes} episodes, expected at least one episode and no more '
                     'successes than episodes.')
  interval = stats.binomtest(successes, episodes).proportion_ci(0.95, 'wilson')
  return float(interval.low), float(interval.high)


def newcombe_interval(first: tuple[int, int], second: tuple[int, int]) -> Interval:
  """Compute the 95 % interval of the difference of two independent rates.

  It combines the two Wilson intervals (Newcombe 1998, Statistics in Medicine 17:873, method 10).

  Args:
    first, second: (successes, episodes); the second rate is subtracted from the first.
  """
  (low1, high1), (low2, high2) = wilson_interval(*first), wilson_interval(*second)
  rate1, rate2 = first[0] / first[1], second[0] / second[1]
  difference = rate1 - rate2
  return (difference - math.hypot(rate1 - low1, high2 - rate2),
          difference + math.hypot(high1 - rate1, rate2 - low2))


def mcnemar_test(first: Sequence[bool], second: Sequence[bool]) -> dict[str, Any]:
  """Test whether two policies differ (McNemar's exact test, two-sided).

  Args:
    first, second: success of each policy, episode by episode.

  Returns:
    'episodes'; 'only_first', 'only_second', the number of episodes that only one policy solved; 'difference' of the
    success rates, first minus second; 'p', the probability of counts at least as unequal if both were equally good.

  Raises:
    ValueError: the numbers of episodes differ, or are 0.
  """
  if len(first) != len(second) or not len(first):
    raise ValueError(f'first has {len(first)} episodes and second {len(second)}, expected the same number, at least '
                     'one.')
  one, two = np.asarray(first, bool), np.asarray(second, bool)
  only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
  discordant = only_first + only_second
  p = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
  return {'episodes': len(one), 'only_first': only_first, 'only_second': only_second,
          'difference': (only_first - only_second) / len(one), 'p': p}
