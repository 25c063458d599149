"""Things made in parallel, chunk by chunk."""
import functools
import os

import pytest

from rtjax.data.chunks import Chunks, spans

pytest.importorskip('rich')


def squares(log, first, end):
  with open(log, 'a') as file:
    file.write(f'{first} {end}\n')
  if first == 6 and not os.path.exists(f'{log}.well'):
    raise OSError('no space left')
  return [number ** 2 for number in range(first, end)]


def test_what_is_there_is_not_made_again(tmp_path):
  """The first run dies at one chunk; the second makes that one, and those that were not begun."""
  chunks, log = Chunks(tmp_path / 'raw', 2), tmp_path / 'log'
  chunks.claim({'power': 2})
  make = functools.partial(squares, str(log))
  with pytest.raises(OSError, match='no space'):
    chunks.fill(make, spans(9), 1, 'squares')
  made = log.read_text().splitlines()
  assert {'0 2', '2 4', '4 6', '6 8'} <= set(made)
  chunks.path(6).with_suffix('.partial').write_bytes(b'half')
  (tmp_path / 'log.well').touch()
  chunks.fill(make, spans(9), 2, 'squares')
  again = log.read_text().splitlines()[len(made):]
  assert '6 8' in again and not {'0 2', '2 4', '4 6'} & set(again)
  assert list(chunks.read(*spans(9)['train'])) == [n ** 2 for n in range(9)]
  assert list(chunks.read(*spans(9)['val'])) == [81]


def test_another_recipe_is_refused(tmp_path):
  chunks = Chunks(tmp_path, 2)
  chunks.claim({'power': 2})
  chunks.claim({'power': 2})
  with pytest.raises(ValueError, match=r'by another recipe, \{"power": 2\}'):
    chunks.claim({'power': 3})
