"""Choice of the episodes on the page of a replay report."""
import itertools

import numpy as np
import pytest

from rtjax.evaluation.replay import episodes


@pytest.mark.parametrize(('count', 'show'), list(itertools.product((1, 2, 7, 8, 9, 30), (0, 1, 2, 3, 8))))
def test_choice(count, show):
  accuracy = np.random.default_rng(count).permutation(count) / count
  chosen = episodes.choose(accuracy, show)
  values = [accuracy[i] for _, i in chosen]
  assert len(set(chosen)) == len(chosen) == min(count, show)
  assert values == sorted(values, reverse=True)
  if count <= show:
    assert {group for group, _ in chosen} <= {''}
    return
  ranks = {group: [count - 1 - round(accuracy[i] * count) for g, i in chosen if g == group]
           for group in ('best', 'median', 'worst')}
  assert ranks['best'] == list(range(len(ranks['best'])))
  assert ranks['worst'] == list(range(count - len(ranks['worst']), count))
  assert all(abs(rank - (count - 1) / 2) <= 2 for rank in ranks['median'])
  sizes = sorted(map(len, ranks.values()))
  assert sizes[-1] - sizes[0] <= 1
