"""One run's batches, read by any number of processes."""
import functools

import numpy as np
import pytest
from helpers import tiny_rlds, tiny_training

from rtjax import actions
from rtjax.data import DataConfig, TrainingStream
from rtjax.training.share import ShareStream

open_tiny = functools.partial(tiny_training.Stream, (), None, tiny_training.SPEC, window=2, horizon=1, padding='back',
                              seed=0)


def readers(open_part, batch_size, count):
  return [ShareStream(open_part, batch_size, (index, count)) for index in range(count)]


def together(streams):
  """Rows of all processes, in their order."""
  parts = [next(stream) for stream in streams]
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def states(streams):
  found = {}
  for stream in streams:
    for part, state in stream.states().items():
      assert found.setdefault(part, state) == state
  return [found[part] for part in sorted(found)]


@pytest.mark.parametrize('before, after', [(2, 1), (2, 4), (4, 2), (3, 2), (1, 3)])
def test_other_processes_go_on_with_the_same_batches(before, after):
  first = readers(open_tiny, 12, before)
  together(first)
  position = states(first)
  expected = [together(first) for _ in range(3)]
  others = readers(open_tiny, 12, after)
  for stream in others:
    stream.restore(position)
  for batch in expected:
    found = together(others)
    assert len(found['images']) == 12
    for name, array in batch.items():
      np.testing.assert_array_equal(found[name], array)
  assert states(others) == states(first)


def test_an_epoch_is_every_window_once_whoever_reads_it(tmp_path):
  """Two processes start it, then three others and one go on."""
  lengths = [4] * 6
  folder = tiny_rlds.write_lengths(tmp_path, lengths)
  open_part = functools.partial(TrainingStream, [folder], DataConfig(shuffle_episodes=2, threads=1), actions.ARM_7D,
                                window=4, horizon=1, seed=5)
  drawn, position = [], []
  for count in (2, 3, 1, 2):
    streams = readers(open_part, 6, count)
    for stream in streams:
      if position:
        stream.restore(position)
    drawn += tiny_rlds.windows_of(together(streams))
    position = states(streams)
    for stream in streams:
      stream.close()
  assert sorted(drawn) == tiny_rlds.all_windows(lengths=lengths)
  assert [part['positions'][0] for part in position] == [[1, 0, 0]] * 2


def test_a_batch_that_does_not_divide_into_the_parts_is_refused():
  stream = ShareStream(open_tiny, 8, (0, 2))
  with pytest.raises(ValueError, match='dealt in 3 parts, which do not divide its batch_size 8'):
    stream.restore([{'next': 1}] * 3)
