"""Episodes of the protocol and their log."""
import numpy as np
import pytest

pytest.importorskip('gymnasium', reason="needs the extra 'sim'")

from helpers import toy_env

from rtjax.evaluation.closed_loop import agents, protocol
from rtjax.evaluation.closed_loop.protocol import FIRST_SEED, EpisodeId, EpisodeLog, episode_ids


def test_episode_ids(episodes):
  assert [e.seed for e in episodes[:10]] == list(range(FIRST_SEED, FIRST_SEED + 10))
  assert {e.split for e in episodes[:10]} == {'seen'} and [e.skill for e in episodes[:3]] == ['pick', 'push', 'pick']
  assert set(episode_ids(toy_env.environment().splits, 4)) < set(episodes)
  assert episode_ids({'all': ()}, 1) == [EpisodeId('all', '', FIRST_SEED)]
  assert FIRST_SEED >= 2 ** 31  # data/tabletop draws its seeds below


def test_incomplete_last_line_is_run_again(expert, vector, episodes, tmp_path, without_times):
  folder, records = expert
  content = (folder / 'episodes.jsonl').read_bytes()
  (tmp_path / 'episodes.jsonl').write_bytes(content[:-40])
  again = toy_env.run(vector, tmp_path, agents.ExpertAgent(), episodes)
  assert [without_times(r) for r in again] == [without_times(r) for r in records]
  assert len((tmp_path / 'episodes.jsonl').read_text().splitlines()) == 1 + len(episodes)


def test_log_of_another_evaluation_is_rejected(expert):
  folder, _ = expert
  match = r'another evaluation \(policy: logged .*expert.*, current .*random.*\).*--output'
  with pytest.raises(ValueError, match=match):
    EpisodeLog(folder, {'policy': agents.RandomAgent().identity})


def test_damaged_log(tmp_path):
  (tmp_path / 'episodes.jsonl').write_text('{"format": 1}\nno json\n')
  with pytest.raises(ValueError, match='is damaged'):
    EpisodeLog(tmp_path, {})


def test_numbers_of_numpy_in_an_info():
  record = {'clipped': np.int64(3), 'moved': np.float32(0.5), 'done': np.bool_(True), 'at': np.ones(2),
            'task': np.str_('a')}
  assert protocol.as_json(record) == {'clipped': 3, 'moved': 0.5, 'done': True, 'at': [1.0, 1.0], 'task': 'a'}
  with pytest.raises(ValueError, match=r"environment's info holds .* of type set, expected what JSON can hold"):
    protocol.as_json({'touched': {'a'}})
