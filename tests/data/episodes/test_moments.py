"""Moments and quantiles in parts, against exact fractions and NumPy."""
import fractions
import functools
import math
import operator

import numpy as np
import pytest

from rtjax.data.episodes import moments

SHARES = (0.0, 0.01, 0.02, 0.5, 0.98, 0.99, 1.0)


def numbers(rows=500):
  """Return columns of all magnitudes, of both signs, of few values, and of one."""
  draw = np.random.default_rng(0)
  return np.stack([draw.normal(size=rows) * 10.0 ** draw.integers(-38, 10, rows), draw.normal(size=rows) * 0.01,
                   draw.integers(0, 2, rows), draw.integers(-1, 2, rows) * -0.0, np.full(rows, 1e-45)],
                  1).astype(np.float32)


def parts(values, draw):
  """Divide rows into shuffled parts."""
  order = draw.permutation(len(values))
  return [values[rows] for rows in np.array_split(order, [1, 7, 130, 131])]


def test_sums_are_exact_in_any_order():
  values = numbers()
  whole = moments.Moments.of(values)
  for seed in range(3):
    found = functools.reduce(operator.add, map(moments.Moments.of, parts(values, np.random.default_rng(seed))))
    assert (found.count, found.mean, found.std) == (whole.count, whole.mean, whole.std)
    np.testing.assert_array_equal([found.low, found.high], [values.min(0), values.max(0)])
  for column, mean, std in zip(values.T.tolist(), whole.mean, whole.std, strict=True):
    exact = [fractions.Fraction(value) for value in column]
    middle = sum(exact) / len(exact)
    assert mean == float(middle)
    assert std == math.sqrt(sum((value - middle) ** 2 for value in exact) / len(exact))


def test_repeats_count_as_rows():
  values, repeats = numbers(20), np.arange(1, 21)
  counted, whole = moments.Moments.of(values, repeats), moments.Moments.of(np.repeat(values, repeats, 0))
  assert (counted.count, counted.mean, counted.std) == (whole.count, whole.mean, whole.std)


@pytest.mark.parametrize('rows', [1, 2, 101, 500])
def test_quantiles_are_those_of_numpy(rows):
  values = numbers(500)[:rows]
  ranks = sorted({rank for share in SHARES for rank in moments.quantile_ranks(rows, share)})
  divided = [part for part in parts(values, np.random.default_rng(1)) if len(part)]
  bins = moments.near(moments.merge(map(moments.coarse, divided)), ranks)
  found = moments.at_ranks(moments.merge(moments.fine(part, bins) for part in divided), bins, ranks)
  for rank in ranks:
    np.testing.assert_array_equal(found[rank], np.sort(values, 0)[rank])
  for share in SHARES:
    np.testing.assert_allclose(moments.quantile(found, rows, share), np.quantile(values.astype(float), share, 0),
                               rtol=1e-12, atol=1e-50)
