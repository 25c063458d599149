"""Tiny datasets that several test files of the pipeline read."""
import pytest


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
  """A dataset of `tiny_rlds.LENGTHS` in three files."""
  tiny_rlds = pytest.importorskip('helpers.tiny_rlds', reason="needs the extra 'data'")
  return tiny_rlds.write_lengths(tmp_path_factory.mktemp('tiny'), tiny_rlds.LENGTHS, 3)


@pytest.fixture(scope='session')
def other(tmp_path_factory):
  """A second dataset, of 9 episodes of 5 steps."""
  tiny_rlds = pytest.importorskip('helpers.tiny_rlds', reason="needs the extra 'data'")
  return tiny_rlds.write_lengths(tmp_path_factory.mktemp('other'), [5] * 9, 2)


@pytest.fixture(scope='session')
def small(tmp_path_factory):
  """A dataset of two episodes in one file."""
  tiny_rlds = pytest.importorskip('helpers.tiny_rlds', reason="needs the extra 'data'")
  return tiny_rlds.write_lengths(tmp_path_factory.mktemp('small'), [3, 2])
