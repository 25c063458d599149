"""Statistics on workers, equal to those of one machine."""
import json
import pathlib

import numpy as np
import pytest

pytest.importorskip('apache_beam', reason="needs the extra 'beam'")

from helpers import tiny_rlds

from rtjax import actions
from rtjax.data import DataConfig, statistics
from rtjax.runtime.cli import UserError

SPEC = actions.ARM_7D


def both(folder, tmp_path, **changed):
  """Return the statistics of one machine and of the DirectRunner."""
  return [statistics([folder], DataConfig(cache_dir=str(tmp_path / name), allow_clipping=True, **changed), SPEC,
                     beam)[folder] for name, beam in (('here', ''), ('there', 'DirectRunner'))]


def noisy(episodes, absurd=()):
  """Return episodes of random numbers; those of `absurd` have a far one."""
  draw = np.random.default_rng(0)
  made = [tiny_rlds.steps(i, int(length)) for i, length in enumerate(draw.integers(1, 30, episodes))]
  for i, steps in enumerate(made):
    for step in steps:
      step['action'] = (draw.normal(size=7) * 10.0 ** draw.integers(-12, 1)).astype(np.float32)
      step['observation']['state'] = draw.normal(size=2).astype(np.float32)
      step['language_embedding'] = draw.normal(size=512).astype(np.float32)
    if i in absurd:
      steps[-1]['action'][2], steps[0]['observation']['state'][1] = 3e7, -2e8
  return made


@pytest.mark.parametrize('shards', [1, 4])
def test_they_are_equal_to_the_last_bit(tmp_path, shards):
  folder = tiny_rlds.write(tmp_path, noisy(40), shards=shards)
  here, there = both(folder, tmp_path)
  assert json.dumps(here) == json.dumps(there) and here['episodes'] == 40


@pytest.mark.filterwarnings('ignore:.*bsurd numbers')
def test_far_and_unlabelled_episodes_are_found(tmp_path):
  made = noisy(30, absurd=(7, 21))
  made[4] = tiny_rlds.steps(4, 5, language_instruction='')
  here, there = both(tiny_rlds.write(tmp_path, made, shards=3), tmp_path, drop_unlabelled=True)
  assert here == there and there['unlabelled_episodes'] == 1
  assert any('is 3e+07 in episode 7, ' in text and '(and 1 more steps)' in text for text in there['far'])


def test_they_are_kept_in_the_cache(tmp_path, capsys):
  folder = tiny_rlds.write_lengths(tmp_path, [3, 4], 2)
  _, found = both(folder, tmp_path)
  assert 'Apache Beam: 2 episodes\n' in capsys.readouterr().out
  again = statistics([folder], DataConfig(cache_dir=str(tmp_path / 'there')), SPEC, 'DirectRunner')
  assert again[folder] == found and not capsys.readouterr().out


def test_an_unreadable_episode_is_named(tmp_path):
  made = noisy(6)
  made[3][0]['action'][5] = np.nan
  folder = tiny_rlds.write(tmp_path, made, shards=2)
  with pytest.raises(UserError, match=r"DirectRunner stopped: .*episode 3 of 'train', step 0: action rotation\[2\]"):
    statistics([folder], DataConfig(cache_dir=str(tmp_path)), SPEC, 'DirectRunner')
  folder = tiny_rlds.write(tmp_path / 'damaged', noisy(6), shards=2)
  damaged = next(pathlib.Path(folder).glob('*-00001-of-00002'))
  damaged.write_bytes(damaged.read_bytes()[:-9])
  with pytest.raises(UserError, match=r'cannot read episode \d of .*truncated or damaged'):
    statistics([folder], DataConfig(cache_dir=str(tmp_path)), SPEC, 'DirectRunner')
