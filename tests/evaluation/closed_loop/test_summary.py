"""Figures of closed-loop reports, computed by hand."""
import json

import pytest
from helpers.closed_loop_reports import RECORDS, policy, record

from rtjax.evaluation import statistics
from rtjax.evaluation.closed_loop import summary
from rtjax.evaluation.closed_loop.protocol import EpisodeId


@pytest.fixture(scope='module')
def result():
  return summary.summarize(RECORDS)


def test_figures_by_hand(result):
  assert result['success'] == {
      'successes': 4, 'episodes': 8, 'rate': 0.5, 'interval': statistics.wilson_interval(4, 8)}
  assert {k: (s['successes'], s['episodes']) for k, s in result['by_split'].items()} == {
      'seen': (2, 3), 'unseen_objects': (1, 2), 'unseen_words': (1, 2), 'clutter': (0, 1)}
  assert {k: (s['successes'], s['episodes']) for k, s in result['by_skill'].items()} == {
      'pick': (3, 6), 'open': (1, 2)}
  assert set(result['by_split_and_skill']['clutter']) == {'pick'}
  assert result['by_split_and_skill']['seen']['open']['rate'] == 0
  assert result['failures'] == {'wrong object': 2, 'dropped': 1, 'timeout': 1}
  assert result['outcomes'] == {'pick': {'success': 3, 'held other object': 1, 'touched only': 2},
                                'open': {'success': 1, 'touched only': 1}}
  assert result['wrong_objects'] == {'same kind': 1, 'neither': 1}
  assert result['steps']['p50'] == 7 and result['latency_ms']['p50'] == 6 and result['latency_ms']['p99'] == 8
  assert (result['jerk']['p50'], result['confidence'], result['clipped']) == (2, 0.5, 8)
  assert result['interventions'] == {'steps': 3, 'episodes': 1}
  assert json.loads(json.dumps(result)).keys() == result.keys()


def test_gap_compares_equal_skills(result):
  """An 'open' episode does not count if the other split has none."""
  gap = result['gaps']['unseen_objects']
  assert gap['skills'] == ['pick'] and gap['difference'] == 1 - 1 / 2
  assert gap['interval'] == statistics.newcombe_interval((2, 2), (1, 2))
  assert result['gaps']['unseen_words']['skills'] == ['pick', 'open']
  assert result['gaps']['all unseen']['unseen'] == {
      'successes': 1, 'episodes': 3, 'rate': 1 / 3, 'interval': statistics.wilson_interval(1, 3)}
  assert summary.generalization_gap([record(), record(split='clutter', skill='open')], ['clutter']) is None
  assert summary.summarize(RECORDS[3:])['gaps'] == {}


def test_paired_test_uses_common_episodes():
  other = [r | {'success': not r['success']} for r in reversed(RECORDS[:5])]
  result = summary.paired_test(RECORDS, other)
  assert (result['episodes'], result['only_first'], result['only_second']) == (5, 3, 2)
  assert (result['first_episodes'], result['second_episodes']) == (8, 5)
  with pytest.raises(ValueError, match=r'share 0 episodes .* of 8 and 1, a paired test needs at least 1: evaluate'):
    summary.paired_test(RECORDS, [record(seed=77)])


def test_few_shared_episodes_are_refused():
  first, second = [EpisodeId('seen', 'pick', seed) for seed in range(20)], [
      EpisodeId('seen', 'pick', seed) for seed in range(19, 60)]
  with pytest.raises(ValueError, match=r'a and b share 1 episodes .* of 20 and 41, .* least 10: .* --min-shared 1\.'):
    summary.require_shared(first, second, ('a', 'b'))
  summary.require_shared(first, second, ('a', 'b'), 1)
  summary.require_shared(first, [*first[:10], *second], ('a', 'b'))


def test_repeated_episodes_are_refused():
  summary.require_single_episodes([record(seed=0), record(seed=0, skill='open'), record(seed=0, split='clutter')], 'x')
  with pytest.raises(ValueError, match=r'x: 1 of its 2 episodes occur more than once: seen-pick-0 \(50 times\)\. '):
    summary.require_single_episodes([record(seed=0)] * 50 + [record(seed=1)], 'x')


def test_policies_of_one_name_are_refused():
  with pytest.raises(ValueError, match=r"policies are \['mine', 'mine'\], expected different names"):
    summary.compare([policy(), policy()])


def test_without_success_and_latency():
  result = summary.summarize([record(latency_ms=[])])
  assert result['steps'] is None and result['latency_ms'] is None and result['success']['rate'] == 0
