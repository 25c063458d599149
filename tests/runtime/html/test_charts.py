"""Charts, read back from their SVG."""
import re

import numpy as np
import pytest

from rtjax.runtime.html import charts


def test_line_can_be_read_back():
  values = np.array([0.3, -0.2, 0.05, 0.0])
  axis = charts.value_axis(values, 0.1)
  points = re.search(r'points="(.*?)"', charts.item_line(values, axis, 'policy')).group(1).split()
  x, y = np.array([point.split(',') for point in points], float).T
  np.testing.assert_array_equal(x, [0.5, 1.5, 2.5, 3.5])
  np.testing.assert_allclose(axis.high - y / 100 * (axis.high - axis.low), values, atol=1e-4)


@pytest.mark.parametrize('seed', range(50))
def test_axis_contains_all_values_and_has_round_ticks(seed):
  draw = np.random.default_rng(seed)
  values = draw.normal(size=20) * 10 ** draw.uniform(-4, 4)
  axis = charts.value_axis(values, 1e-3)
  assert axis.low < values.min() and values.max() < axis.high and axis.high - axis.low > 1e-3
  assert 2 <= len(axis.ticks) <= 4
  assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
  assert all(re.fullmatch(r'−?(0|[\d.]*\d|[\d.]+e[+−]\d+)', axis.label(tick)) for tick in axis.ticks)
  step = axis.ticks[1] - axis.ticks[0]
  np.testing.assert_allclose(np.diff(axis.ticks), step)
  assert float(f'{step:.5g}') == pytest.approx(float(f'{step:.1g}'))  # one digit


def test_axis_of_a_constant_has_the_minimum_span():
  axis = charts.value_axis(np.full(3, 2.0), 0.5)
  assert axis.low < 1.75 and axis.high > 2.25 and 2.0 in axis.ticks


def test_class_axis():
  assert charts.class_axis(3).ticks == [0, 1, 2]
  assert charts.class_axis(2).ticks == [0, 1]


@pytest.mark.parametrize(('items', 'labels'), [
    (1, ['0']), (12, list(map(str, range(12)))), (13, ['0', '2', '4', '6', '8', '10', '12']), (600, [
        str(n) for n in range(0, 600, 50)])])
def test_step_axis(items, labels):
  assert re.findall(r'>(\d+)<', charts.step_axis(items, 'step')) == labels
