"""Figures of replay reports, against loops and figures computed by hand."""
import json

import numpy as np
import pytest
from helpers import replays

from rtjax.evaluation.replay import accuracy

# Three tokens per step (mode, move[0], move[1]); two episodes of unequal length.
FIRST = replays.replay([[0, 0, 1], [0, 2, 1], [1, 4, 1]], [[0, 1, 1], [1, 2, 1], [1, 0, 1]], 0.9, number=3)
SECOND = replays.replay([[0, 4, 2]], [[2, 4, 0]], 0.3, number=5, instruction='place')


@pytest.fixture(scope='module')
def result():
  return accuracy.summarize([FIRST, SECOND], replays.SPEC)


def test_figures_by_hand(result):
  assert (result['episodes'], result['steps']) == (2, 4)
  # Correct tokens: 2 + 2 + 2 of 9 in the first episode, 1 of 3 in the second. The constant (0, 4, 1): 3 + 2 + 3 of 12.
  assert result['accuracy']['policy'] == pytest.approx(7 / 12)
  assert result['accuracy']['baseline'] == pytest.approx(8 / 12)
  assert result['latency_ms'] == pytest.approx({'p50': 4.0, 'p95': 4.0})
  mode, x, y = result['dimensions']
  assert [d['name'] for d in (mode, x, y)] == ['mode', 'move[0]', 'move[1]']
  assert [d['unit'] for d in (mode, x, y)] == ['', 'm', 'm']
  assert [d['accuracy'] for d in (mode, x, y)] == [0.5, 0.5, 0.75]
  assert [d['baseline_accuracy'] for d in (mode, x, y)] == [0.75, 0.5, 0.75]
  assert [d['confidence'] for d in (mode, x, y)] == pytest.approx([0.75] * 3)
  assert mode['l1'] is mode['baseline_l1'] is mode['clipped'] is None
  # Errors in bins of 0.5 m. move[0]: 1, 0, 4, 0, and 4, 2, 0, 0 of the constant; move[1]: 0, 0, 0, 2 and 0, 0, 0, 1.
  assert (x['l1'], x['baseline_l1']) == pytest.approx((0.5 * 5 / 4, 0.5 * 6 / 4))
  assert (y['l1'], y['baseline_l1']) == pytest.approx((0.5 * 2 / 4, 0.5 * 1 / 4))
  assert x['clipped'] == y['clipped'] == 0


def test_steps_and_episodes(result):
  steps = result['by_step']
  assert steps['episodes'] == [2, 1, 1]
  assert steps['accuracy'] == pytest.approx([(2 / 3 + 1 / 3) / 2, 2 / 3, 2 / 3])
  assert steps['baseline_accuracy'] == pytest.approx([(2 / 3 + 2 / 3) / 2, 2 / 3, 2 / 3])
  first, second = result['by_episode']
  assert (first['number'], first['instruction'], first['steps']) == (3, 'pick', 3)
  assert first['accuracy'] == pytest.approx(6 / 9) and first['baseline_accuracy'] == pytest.approx(6 / 9)
  assert first['l1'] == [None, pytest.approx(0.5 * 5 / 3), 0.0]
  assert (second['number'], second['instruction'], second['steps']) == (5, 'place', 1)
  assert second['accuracy'] == pytest.approx(1 / 3)


def test_against_loops():
  draw = np.random.default_rng(0)
  many = [replays.replay(*(np.stack([draw.integers(0, 3, n), draw.integers(0, 5, n), draw.integers(0, 5, n)], -1)
                           for _ in range(2)), number=i) for i, n in enumerate(draw.integers(1, 9, 20))]
  result = accuracy.summarize(many, replays.SPEC)
  for k, dimension in enumerate(result['dimensions']):
    correct = [int(r.recorded_tokens[t, k] == r.predicted_tokens[t, k]) for r in many for t in range(len(r))]
    assert dimension['accuracy'] == pytest.approx(sum(correct) / len(correct))
    recorded = [int(r.recorded_tokens[t, k]) for r in many for t in range(len(r))]
    assert dimension['baseline_accuracy'] == pytest.approx(max(map(recorded.count, recorded)) / len(recorded))
    if k:
      errors = [abs(float(r.predicted[t, k + 2]) - float(r.recorded[t, k + 2])) for r in many for t in range(len(r))]
      assert dimension['l1'] == pytest.approx(sum(errors) / len(errors))
  low, high = result['accuracy']['interval']
  assert low < result['accuracy']['policy'] < high


def test_clipped_share():
  result = accuracy.summarize([replays.replay([[0, 4, 2], [0, 4, 4]], [[0, 4, 2], [0, 4, 4]], shift=0.1)], replays.SPEC)
  assert [d['clipped'] for d in result['dimensions']] == [None, 1.0, 0.5]


def test_interval_resamples_episodes():
  """Equal episodes have an interval of no width, a single one none."""
  same = [replays.replay([[0, 1, 2]] * 4, [[0, 1, 0]] * 4)] * 5
  assert accuracy.summarize(same, replays.SPEC)['accuracy']['interval'] == pytest.approx([2 / 3, 2 / 3])
  assert accuracy.summarize(same[:1], replays.SPEC)['accuracy']['interval'] is None


def test_calibration_by_hand():
  confidence, correct = np.array([0.95, 1.0, 0.55, 0.05]), np.array([True, False, True, False])
  result = accuracy.calibration(confidence, correct)
  assert result['mean'] == pytest.approx(0.6375)
  assert result['calibration_error'] == pytest.approx((2 * 0.475 + 0.45 + 0.05) / 4)
  assert [b['tokens'] for b in result['bins']] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 2]
  assert result['bins'][9] == {'tokens': 2, 'confidence': pytest.approx(0.975), 'accuracy': 0.5}
  assert result['bins'][1] == {'tokens': 0, 'confidence': None, 'accuracy': None}


def test_most_frequent_takes_the_lowest_of_equals():
  np.testing.assert_array_equal(accuracy.most_frequent(np.array([[3, 5], [1, 5], [3, 0], [1, 7]]), 8), [1, 5])


def test_json_round_trip(result):
  assert json.loads(json.dumps(result)) == result
