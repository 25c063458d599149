"""Averages of steps and of passes, and the speed of training."""
import numpy as np
import pytest

from rtjax.training import meter


def outputs(loss, correct, count, finite=True):
  return {'loss': np.float32(loss), 'grad_norm': np.float32(1), 'finite': np.bool_(finite),
          'metrics': {'accuracy': (correct, count)}}


def test_a_row_averages_the_steps_since_the_last_one():
  steps = meter.Meter(batch_size=8)
  steps.push(1, outputs(3.0, 1, 4))
  steps.push(2, outputs(1.0, 5, 6))
  row = steps.row()
  assert (row['loss'], row['accuracy']) == (2.0, 0.6)  # tokens count the same, in whichever step
  steps.push(3, outputs(7.0, 0, 1))
  assert steps.row()['loss'] == 7.0


def test_speed_leaves_out_the_compilation_and_pauses(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(meter.time, 'monotonic', lambda: now[0])
  steps = meter.Meter(batch_size=8)
  for step in range(1, 6):
    now[0] += 50 if step == 1 else 2
    steps.push(step, outputs(1, 1, 1))
  with steps.paused():
    now[0] += 1000
  assert steps.row()['windows_per_second'] == pytest.approx(4 * 8 / 6)  # read late: 4 steps in 6 s after the first


def test_share_of_waiting_for_data(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(meter.time, 'monotonic', lambda: now[0])
  steps = meter.Meter(batch_size=8)
  for step in range(1, 4):
    with steps.waiting_for_data():  # that before the first step is start-up
      now[0] += 3
    now[0] += 1
    steps.push(step, outputs(1, 1, 1))
  assert steps.row()[meter.WAITING] == pytest.approx(3 / 4)
  steps.push(4, outputs(1, 1, 1))
  now[0] += 1
  assert steps.row()[meter.WAITING] == 0


def test_a_step_that_is_not_finite():
  steps = meter.Meter(batch_size=8)
  steps.push(1, outputs(1, 1, 1))
  steps.push(2, outputs(np.nan, 1, 1, finite=False))
  with pytest.raises(meter.NonFiniteError, match='step 2 gave a loss of nan') as caught:
    steps.push(3, outputs(1, 1, 1))
  assert caught.value.step == 2
  steps = meter.Meter(batch_size=8, skip=True)
  steps.push(1, outputs(np.nan, 1, 1, finite=False))
  assert steps.row() == {'skipped_steps': 1}


def test_averages_of_vectors_are_named_and_need_a_count():
  sums = meter.add({}, {'l1': (np.array([1.0, 2.0, 0.0]), np.array([2.0, 2.0, 0.0])), 'loss': (6.0, 3.0)})
  sums = meter.add(sums, {'l1': (np.array([1.0, 0.0, 0.0]), np.array([2.0, 2.0, 0.0])), 'loss': (1.0, 4.0)})
  assert meter.averages(sums, {'l1': ['x', 'y', 'z']}) == {'l1/x': 0.5, 'l1/y': 0.5, 'loss': 1.0}
  assert meter.averages(sums) == {'l1/0': 0.5, 'l1/1': 0.5, 'loss': 1.0}
