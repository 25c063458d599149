"""Hashed n-grams of instructions."""
import numpy as np

from rtjax.data.instructions import hashed_ngrams

PLACES = [15, 43, 327, 454]
SIGNS = [0.5, 0.5, 0.5, -0.5]


def test_places_are_fixed_for_good():
  """'red' is a word and the triples '<re', 'red', 'ed>': these places belong to hashed-ngrams/1."""
  vector = hashed_ngrams('red')
  assert vector.shape == (512,) and vector.dtype == np.float32
  np.testing.assert_array_equal(np.flatnonzero(vector), PLACES)
  np.testing.assert_array_equal(vector[PLACES], SIGNS)


def test_unit_norm_and_normal_form():
  for text in ('a', 'reach the red circle', 'open top drawer ' * 20):
    np.testing.assert_allclose(np.linalg.norm(hashed_ngrams(text)), 1, rtol=1e-6)
  np.testing.assert_array_equal(hashed_ngrams('Reach the RED circle.'), hashed_ngrams('reach  the red circle'))


def test_no_words_give_zeros():
  np.testing.assert_array_equal(hashed_ngrams(' ...'), np.zeros(512))


def test_closer_sentences_have_closer_vectors():
  start = hashed_ngrams('reach the red circle')
  one_word, two_words, other = (
      start @ hashed_ngrams(t) for t in ('touch the red circle', 'touch the red square', 'open a drawer'))
  assert 1 > one_word > two_words > other
  assert start @ hashed_ngrams('circle red the reach') < 0.95  # order counts
