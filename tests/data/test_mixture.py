"""How a mixture draws from its datasets."""
import numpy as np
import pytest

from rtjax.data.config import DataConfig
from rtjax.data.mixture import Share, choose

WEIGHTS = [0.5, 0.3, 0.2]


def test_draws_depend_on_seed_process_and_number_alone():
  whole = choose(Share(1), WEIGHTS, 0, 1000)
  for first, count in ((0, 1), (17, 5), (333, 667), (999, 1)):
    np.testing.assert_array_equal(choose(Share(1), WEIGHTS, first, count), whole[first:first + count])
  assert (choose(Share(2), WEIGHTS, 0, 1000) != whole).any()
  assert (choose(Share(1, 1, 2), WEIGHTS, 0, 1000) != whole).any()


def test_draws_follow_the_weights():
  drawn = choose(Share(0), WEIGHTS, 10**12, 100_000)
  shares = np.bincount(drawn, minlength=3) / len(drawn)
  np.testing.assert_allclose(shares, WEIGHTS, atol=4 * np.sqrt(0.25 / len(drawn)))
  assert not choose(Share(0), [1.0], 0, 10).any()


def test_weights_given_and_default():
  assert DataConfig().mixture_weights(['a', 'b'], [150, 50]) == [0.75, 0.25]
  assert DataConfig(weights=(1, 3)).mixture_weights(['a', 'b'], [150, 50]) == [0.25, 0.75]
  with pytest.raises(ValueError, match=r'1 weights .* for 2 datasets'):
    DataConfig(weights=(1,)).mixture_weights(['a', 'b'], [1, 1])


@pytest.mark.parametrize('share', [(-1, 0, 1), (0, 1, 1), (0, -1, 2), (0, 0, 0)])
def test_impossible_shares(share):
  with pytest.raises(ValueError, match='expected seed >= 0 and 0 <= process_index < process_count'):
    Share(*share)
