"""Validation order and wrong arguments of the streams of RLDS episodes."""
import pytest
from helpers import tiny_rlds
from helpers.tiny_rlds import all_windows, draw, own_threads, windows_of

from rtjax import actions
from rtjax.data import DataConfig, TrainingStream, statistics, validation_batches

make = tiny_rlds.stream


@pytest.mark.parametrize('count', [1, 3])
def test_validation_is_every_window_in_order(tiny, other, count):
  config = DataConfig(validation_split='train')
  shares = [list(validation_batches([tiny, other], config, actions.ARM_7D, window=4, horizon=1, batch_size=8,
                                    process_index=i, process_count=count)) for i in range(count)]
  assert len({len(share) for share in shares}) == 1
  merged = [w for batches in zip(*shares, strict=True) for batch in batches for w in windows_of(batch)]
  expected = all_windows() + all_windows(lengths=[5] * 9)
  assert merged[:len(expected)] == expected
  assert set(merged[len(expected):]) == {(-1, -1)} and len(merged) - len(expected) < 8 * count
  last = shares[-1][-1]
  filler = last['episodes'] < 0
  assert filler.any() and not last['action_mask'][filler].any() and not last['frame_mask'][filler].any()
  assert not last['images'][filler].any()


@pytest.mark.parametrize('options,words', [
    ({'process_count': 21}, '20 episodes, process_count is 21'),
    ({'process_index': 2, 'process_count': 2}, 'process_index < process'),
    ({'batch_size': 0}, 'batch_size is 0'), ({'window': 0}, 'length is 0'), ({'seed': -1}, 'seed -1'),
    ({'config': DataConfig(weights=(1, 2))}, '2 weights .* for 1 datasets')])
def test_wrong_arguments(tiny, options, words):
  with pytest.raises(ValueError, match=words):
    make(tiny, **options)


def test_a_single_name_is_refused(tiny):
  with pytest.raises(ValueError, match='expected a list of folders'):
    TrainingStream(tiny, DataConfig(), actions.ARM_7D, window=2, horizon=1, batch_size=1, seed=0)
  assert not own_threads()


def test_empty_episodes_are_skipped(tmp_path):
  folder = tiny_rlds.write_lengths(tmp_path / 'some', [0, 2, 0, 1])
  assert sorted(draw(folder, 6, config=DataConfig(shuffle_episodes=1))) == sorted(2 * [(1, 0), (1, 1), (3, 0)])
  with pytest.raises(ValueError, match=r'no episode of split .* has a step'):
    draw(none := tiny_rlds.write_lengths(tmp_path / 'none', [0, 0]), 1)
  with pytest.raises(ValueError, match=r'no episode of split .* has a step'):
    statistics([none], DataConfig(cache_dir=str(tmp_path)), actions.ARM_7D)
