"""Items made in parallel, resumed file by file."""
import functools
import os

import pytest

from rtjax.data.generation.item_store import ItemStore, split_ranges

pytest.importorskip('rich')


def squares(log, first, end):
  with open(log, 'a') as file:
    file.write(f'{first} {end}\n')
  if first == 6 and not os.path.exists(f'{log}.well'):
    raise OSError('no space left')
  return [number ** 2 for number in range(first, end)]


def test_finished_files_are_not_made_again(tmp_path):
  """The first run dies at one file; the second continues there."""
  store, log = ItemStore(tmp_path / 'raw', 2), tmp_path / 'log'
  store.create({'power': 2})
  make = functools.partial(squares, str(log))
  with pytest.raises(OSError, match='no space'):
    store.fill(make, split_ranges(9), 1, 'squares')
  made = log.read_text().splitlines()
  assert {'0 2', '2 4', '4 6', '6 8'} <= set(made)
  store.path(6).with_suffix('.partial').write_bytes(b'half')
  (tmp_path / 'log.well').touch()
  store.fill(make, split_ranges(9), 2, 'squares')
  again = log.read_text().splitlines()[len(made):]
  assert '6 8' in again and not {'0 2', '2 4', '4 6'} & set(again)
  assert list(store.read(*split_ranges(9)['train'])) == [n ** 2 for n in range(9)]
  assert list(store.read(*split_ranges(9)['val'])) == [81]


def test_another_recipe_is_refused(tmp_path):
  store = ItemStore(tmp_path, 2)
  store.create({'power': 2})
  store.create({'power': 2})
  with pytest.raises(ValueError, match=r'by another recipe, \{"power": 2\}'):
    store.create({'power': 3})
