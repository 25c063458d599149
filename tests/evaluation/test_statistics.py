"""Intervals and tests against published tables and plain sums."""
import itertools
import math

import numpy as np
import pytest

from rtjax.evaluation import statistics


# Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3.
@pytest.mark.parametrize(('successes', 'episodes', 'low', 'high'), [
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_wilson_as_published(successes, episodes, low, high):
  assert statistics.wilson(successes, episodes) == pytest.approx((low, high), abs=6e-5)


def test_wilson_solves_its_equation():
  """The bounds are the shares from which the observed one is 1.96 standard errors away."""
  for successes, episodes in ((3, 10), (50, 100), (99, 100)):
    for bound in statistics.wilson(successes, episodes):
      error = math.sqrt(bound * (1 - bound) / episodes)
      assert abs(successes / episodes - bound) / error == pytest.approx(1.959964, abs=1e-5)


def test_wilson_covers():
  """Averaged over shares, 95 % of intervals hold the share they were drawn with."""
  draw = np.random.default_rng(0)
  shares = draw.uniform(size=4000)
  intervals = [statistics.wilson(int(draw.binomial(40, p)), 40) for p in shares]
  assert np.mean([low <= p <= high for p, (low, high) in zip(shares, intervals, strict=True)]) == pytest.approx(
      0.95, abs=0.015)


# Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10.
@pytest.mark.parametrize(('first', 'second', 'low', 'high'), [
    ((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((6, 7), (2, 7), 0.0582, 0.8062),
    ((5, 56), (0, 29), -0.0381, 0.1926), ((0, 10), (0, 20), -0.1611, 0.2775), ((0, 10), (0, 10), -0.2775, 0.2775),
    ((10, 10), (0, 20), 0.6791, 1.0), ((10, 10), (0, 10), 0.6075, 1.0)])
def test_newcombe_as_published(first, second, low, high):
  assert statistics.newcombe(first, second) == pytest.approx((low, high), abs=6e-5)


def test_newcombe_turns_its_sign_with_the_order():
  low, high = statistics.newcombe((7, 20), (3, 30))
  assert statistics.newcombe((3, 30), (7, 20)) == pytest.approx((-high, -low))


@pytest.mark.parametrize(('only_first', 'only_second'), list(itertools.product(range(5), range(7))))
def test_mcnemar_against_all_outcomes(only_first, only_second):
  """p is the share of all ways to hand out the uneven episodes that are at least as uneven."""
  first = [True] * only_first + [False] * only_second + [True, False, False]
  second = [False] * only_first + [True] * only_second + [True, False, False]
  found = statistics.mcnemar(first, second)
  uneven = only_first + only_second
  ways = [abs(2 * sum(way) - uneven) for way in itertools.product((0, 1), repeat=uneven)]
  assert found['p'] == pytest.approx(np.mean([way >= abs(only_first - only_second) for way in ways]))
  assert (found['only_first'], found['only_second'], found['episodes']) == (only_first, only_second, uneven + 3)
  assert found['difference'] == pytest.approx(np.mean(first) - np.mean(second))


@pytest.mark.parametrize(('call', 'match'), [
    (lambda: statistics.wilson(0, 0), 'at least one'), (lambda: statistics.wilson(3, 2), '3 successes in 2'),
    (lambda: statistics.mcnemar([True], []), '1 and 0'), (lambda: statistics.mcnemar([], []), '0 and 0')])
def test_bad_counts(call, match):
  with pytest.raises(ValueError, match=match):
    call()
