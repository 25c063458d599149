"""Intervals and tests against published tables and enumeration."""
import itertools
import math

import numpy as np
import pytest

from rtjax.evaluation import statistics


# Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3.
@pytest.mark.parametrize(('successes', 'episodes', 'low', 'high'), [
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_wilson_as_published(successes, episodes, low, high):
  assert statistics.wilson_interval(successes, episodes) == pytest.approx((low, high), abs=6e-5)


def test_wilson_bounds_are_1_96_standard_errors_away():
  for successes, episodes in ((3, 10), (50, 100), (99, 100)):
    for bound in statistics.wilson_interval(successes, episodes):
      error = math.sqrt(bound * (1 - bound) / episodes)
      assert abs(successes / episodes - bound) / error == pytest.approx(1.959964, abs=1e-5)


def test_wilson_coverage():
  """Averaged over rates, 95 % of the intervals contain the true rate."""
  draw = np.random.default_rng(0)
  rates = draw.uniform(size=4000)
  intervals = [statistics.wilson_interval(int(draw.binomial(40, p)), 40) for p in rates]
  assert np.mean([low <= p <= high for p, (low, high) in zip(rates, intervals, strict=True)]) == pytest.approx(
      0.95, abs=0.015)


# Newcombe 1998 (Statistics in Medicine 17:873), table II, method 10.
@pytest.mark.parametrize(('first', 'second', 'low', 'high'), [
    ((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((6, 7), (2, 7), 0.0582, 0.8062),
    ((5, 56), (0, 29), -0.0381, 0.1926), ((0, 10), (0, 20), -0.1611, 0.2775), ((0, 10), (0, 10), -0.2775, 0.2775),
    ((10, 10), (0, 20), 0.6791, 1.0), ((10, 10), (0, 10), 0.6075, 1.0)])
def test_newcombe_as_published(first, second, low, high):
  assert statistics.newcombe_interval(first, second) == pytest.approx((low, high), abs=6e-5)


def test_newcombe_is_antisymmetric():
  low, high = statistics.newcombe_interval((7, 20), (3, 30))
  assert statistics.newcombe_interval((3, 30), (7, 20)) == pytest.approx((-high, -low))


@pytest.mark.parametrize(('only_first', 'only_second'), list(itertools.product(range(5), range(7))))
def test_mcnemar_against_enumeration(only_first, only_second):
  """p is the share of assignments that are at least as unequal."""
  first = [True] * only_first + [False] * only_second + [True, False, False]
  second = [False] * only_first + [True] * only_second + [True, False, False]
  result = statistics.mcnemar_test(first, second)
  discordant = only_first + only_second
  assignments = itertools.product((0, 1), repeat=discordant)
  differences = np.array([abs(2 * sum(assignment) - discordant) for assignment in assignments])
  assert result['p'] == pytest.approx(np.mean(differences >= abs(only_first - only_second)))
  assert (result['only_first'], result['only_second'], result['episodes']) == (only_first, only_second, discordant + 3)
  assert result['difference'] == pytest.approx(np.mean(first) - np.mean(second))


@pytest.mark.parametrize(('call', 'match'), [
    (lambda: statistics.wilson_interval(0, 0), 'at least one'),
    (lambda: statistics.wilson_interval(3, 2), '3 successes in 2'),
    (lambda: statistics.mcnemar_test([True], []), 'first has 1 episodes and second 0'),
    (lambda: statistics.mcnemar_test([], []), 'first has 0 episodes and second 0')])
def test_bad_counts(call, match):
  with pytest.raises(ValueError, match=match):
    call()
