"""Command line of generators: kept datasets and errors of one line; tests/builders run it to its end."""
import dataclasses
import json
import sys

import pytest

from rtjax.data.generation import command
from rtjax.data.generation.item_store import split_ranges


@dataclasses.dataclass(frozen=True)
class Recording:
  seed: int = 0
  image_size: tuple[int, int] = (8, 8)


def generate(out, seed=0, **settings):
  command.generate('toy', out, recording=Recording(seed), recipe={'episodes': 3}, make=None, splits=split_ranges(3),
                   per_file=2, workers=1, builders=('nowhere', 'Builder'), **settings)


def complete(out, **metadata):
  folder = out / 'toy/1.0.0'
  folder.mkdir(parents=True)
  recipe = {'seed': 0, 'image_size': [8, 8], 'episodes': 3}
  (folder / 'metadata.json').write_text(json.dumps({'recipe': recipe, **metadata}))


def test_a_complete_dataset_is_kept(tmp_path, capsys):
  complete(tmp_path, renderer='rays', words=True)
  generate(tmp_path, words=True)
  assert 'is complete already' in capsys.readouterr().out
  for changed in ({'seed': 1, 'words': True}, {'words': False}):
    with pytest.raises(ValueError, match='exists already with another recipe'):
      generate(tmp_path, **changed)


def test_an_interrupted_run_of_another_recipe_is_an_error(tmp_path):
  pytest.importorskip('tensorflow_datasets', reason="needs the extra 'data'")
  (tmp_path / 'toy.raw').mkdir()
  (tmp_path / 'toy.raw/recipe.json').write_text('{"seed": 99}')
  with pytest.raises(ValueError, match='made by another recipe'):
    generate(tmp_path)


@pytest.mark.parametrize('error', [ImportError, RuntimeError, ValueError])
def test_failures_are_one_line(monkeypatch, capsys, error):
  def main(config):
    raise error(f'no simulator for seed {config.seed}')

  monkeypatch.setattr(sys, 'argv', ['generate.py', '--seed', '4'])
  with pytest.raises(SystemExit) as exit:
    command.run(main, Recording)
  assert exit.value.code == 2 and capsys.readouterr().err == 'error: no simulator for seed 4\n'


def test_a_split_needs_an_item():
  with pytest.raises(ValueError, match='--images is 0, expected at least 1'):
    split_ranges(0, 'images')
