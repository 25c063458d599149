"""Chunks of actions against a loop over episodes."""
import numpy as np
import pytest
from helpers import tiny_rlds

from rtjax import actions, data


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  folder = tmp_path_factory.mktemp('chunks')
  return [tiny_rlds.write_lengths(folder / str(i), lengths) for i, lengths in enumerate(([3, 1, 6], [2, 5]))]


def expected(horizon):
  return [[tiny_rlds.action(episode, min(step + later, length - 1)) for later in range(horizon)]
          for lengths in ([3, 1, 6], [2, 5]) for episode, length in enumerate(lengths) for step in range(length)]


def test_every_step_begins_a_chunk_whose_last_action_repeats(folders):
  found = data.action_chunks(folders, data.DataConfig(), actions.ARM_7D, 4)
  np.testing.assert_allclose(found, expected(4), atol=1e-7)


def test_of_many_steps_some_are_drawn_always_the_same_ones(folders):
  some, again = (data.action_chunks(folders, data.DataConfig(), actions.ARM_7D, 2, most=6) for _ in range(2))
  np.testing.assert_array_equal(some, again)
  every = [np.asarray(chunk).tolist() for chunk in expected(2)]
  assert some.shape == (6, 2, 7) and all(chunk.tolist() in every for chunk in some)
