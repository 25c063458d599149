"""Division of episodes into splits."""
import pathlib

from rtjax.data.convert import logs
from rtjax.data.convert.write import split_episodes


def test_new_episodes_move_none_between_splits():
  names = [f'episode_{number}' for number in range(200)]
  made = [logs.NpzLog(name, pathlib.Path(name)) for name in names]
  fewer, all_of_them = split_episodes(made[:100], 0.1), split_episodes(made, 0.1)
  assert {log.name for log in fewer['val']} == {log.name for log in all_of_them['val'] if log in made[:100]}
  assert 10 < len(all_of_them['val']) < 30
  assert {split: len(part) for split, part in split_episodes(made[:2], 0.01).items()} == {'train': 1, 'val': 1}
  assert list(split_episodes(made[:1], 0.5)) == ['train'] and list(split_episodes(made, 0)) == ['train']
