"""Division of episodes into splits."""
import fractions
import math
import pathlib

import pytest

from rtjax.data.convert import logs
from rtjax.data.convert.write import split_episodes


def episodes(count, name='episode'):
  return [logs.NpzLog(f'{name}_{number}', pathlib.Path()) for number in range(count)]


@pytest.mark.parametrize('share', [0.01, 0.1, 0.25, 1 / 3, 0.5, 0.99])
def test_the_held_out_share_is_rounded_up(share):
  for count in range(2, 61):
    for name in 'abc':
      parts = split_episodes(episodes(count, name), share)
      assert len(parts['val']) == min(math.ceil(fractions.Fraction(str(round(share, 6))) * count), count - 1), count


def test_the_order_of_the_episodes_does_not_matter():
  made = episodes(50)
  assert {log.name for log in split_episodes(made[::-1], 0.1)['val']} == {
      log.name for log in split_episodes(made, 0.1)['val']}


def test_new_episodes_move_few_between_splits():
  made = episodes(200)
  fewer, all_of_them = ({log.name for log in split_episodes(made[:count], 0.1)['val']} for count in (100, 200))
  assert len(fewer - all_of_them) <= 3
  assert list(split_episodes(made[:1], 0.5)) == ['train'] and list(split_episodes(made, 0)) == ['train']
