"""Progress outside of a terminal."""
import pytest

from rtjax.runtime import progress


@pytest.mark.parametrize(('first', 'every', 'lines'), [(0, 0, [3, 4, 5]), (0, 100, [3]), (100, 0, [])])
def test_lines_outside_of_a_terminal(first, every, lines, capfd, monkeypatch):
  monkeypatch.setattr(progress, '_FIRST_S', first)
  monkeypatch.setattr(progress, '_EVERY_S', every)
  with progress.Progress('Checking', 9, 'episodes', done=2) as shown:
    for _ in range(3):
      shown.advance(note='fine')
  assert capfd.readouterr() == ('', ''.join(f'Checking: {done} of 9 episodes, fine\n' for done in lines))
