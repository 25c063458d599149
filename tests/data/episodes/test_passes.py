"""Statistics of episodes in parts: those of the whole, to the last bit."""
import functools
import operator

import numpy as np
import pytest

from rtjax import actions
from rtjax.data.config import DataConfig
from rtjax.data.episode import Episode, numbers_of
from rtjax.data.episodes import passes
from rtjax.data.episodes.open import open_numbers

SPEC = actions.ARM_7D


def episodes(count=40):
  """Return random episodes: some empty, unlabelled, with paraphrases, with absurd numbers."""
  draw = np.random.default_rng(0)

  def one(number):
    steps = int(draw.integers(1, 30)) * (number != 3)
    values = (draw.normal(size=(steps, 7)) * 10.0 ** draw.integers(-12, 1, (steps, 1))).astype(np.float32)
    if number in (7, 21):
      values[-1:, 2] = 3e7
    vectors = np.repeat(draw.normal(size=(1, 16)).astype(np.float32), steps, 0)
    several = (np.array(['a', 'b', 'c'], object), draw.normal(size=(3, 16)).astype(np.float32))
    return Episode(number, np.empty(0, object), vectors, values, np.array([['', 'go'][number != 5]] * steps, object),
                   draw.normal(size=(steps, 2)).astype(np.float32), draw.random((steps, 7)) < 0.1,
                   paraphrases=several if number % 4 == 0 else None)

  return [one(number) for number in range(count)]


def in_parts(dataset, parts):
  total = functools.reduce(operator.add, (passes.totals(part, SPEC) for part in parts), passes.Totals())
  near, numbers = passes.near(total, dataset), [numbers_of(part) for part in parts]
  ordered = passes.ordered(total, near, passes.merge_close(passes.close(part, near) for part in numbers))
  far = passes.merge_far(passes.far(part, total, ordered, dataset) for part in numbers)
  return passes.entry(dataset, SPEC, total, ordered, far, 'digest')


@pytest.mark.parametrize('count', [2, 5, 40])
def test_parts_in_any_order_give_the_whole(small, count):
  dataset, made = open_numbers(small, DataConfig(), SPEC), episodes()
  whole = in_parts(dataset, [made])
  draw = np.random.default_rng(count)
  parts = [[made[i] for i in part] for part in np.array_split(draw.permutation(len(made)), count)]
  assert in_parts(dataset, [[], *parts]) == whole
  assert whole['episodes'] == 40 and whole['unlabelled_steps'] == len(made[5])
  assert any('translation[2] is 3e+07 in episode 7' in text and '1 more steps' in text for text in whole['far'])
  values = np.concatenate([e.actions for e in made]).astype(float)
  np.testing.assert_allclose(whole['action']['q99'], np.quantile(values, 0.99, 0), rtol=1e-9)
  vectors = np.concatenate([e.embeddings if e.paraphrases is None else np.resize(e.paraphrases[1], e.embeddings.shape)
                            for e in made]).astype(float)
  np.testing.assert_allclose(whole['instruction']['mean'], vectors.mean(0), rtol=1e-9)
  np.testing.assert_allclose(whole['instruction']['std'], vectors.std(0), rtol=1e-9)
