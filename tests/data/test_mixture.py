"""Draws of a mixture from its datasets."""
import numpy as np
import pytest

from rtjax.data.mixture import ProcessShare, choose_datasets

WEIGHTS = [0.5, 0.3, 0.2]


def test_draws_depend_on_seed_process_and_number_alone():
  expected = choose_datasets(ProcessShare(1), WEIGHTS, 0, 1000)
  for first, count in ((0, 1), (17, 5), (333, 667), (999, 1)):
    drawn = choose_datasets(ProcessShare(1), WEIGHTS, first, count)
    np.testing.assert_array_equal(drawn, expected[first:first + count])
  assert (choose_datasets(ProcessShare(2), WEIGHTS, 0, 1000) != expected).any()
  assert (choose_datasets(ProcessShare(1, 1, 2), WEIGHTS, 0, 1000) != expected).any()


def test_draws_follow_the_weights():
  drawn = choose_datasets(ProcessShare(0), WEIGHTS, 10**12, 100_000)
  shares = np.bincount(drawn, minlength=3) / len(drawn)
  np.testing.assert_allclose(shares, WEIGHTS, atol=4 * np.sqrt(0.25 / len(drawn)))
  assert not choose_datasets(ProcessShare(0), [1.0], 0, 10).any()


@pytest.mark.parametrize('share', [(-1, 0, 1), (0, 1, 1), (0, -1, 2), (0, 0, 0)])
def test_impossible_shares(share):
  with pytest.raises(ValueError, match='expected seed >= 0 and 0 <= process_index < process_count'):
    ProcessShare(*share)
