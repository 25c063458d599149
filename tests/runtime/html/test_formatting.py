"""Number formats of reports."""
import pytest

from rtjax.runtime.html import formatting


@pytest.mark.parametrize(('difference', 'text'), [
    (0.0, '0.0'), (-0.0001, '0.0'), (0.123, '+12.3'), (-0.5, '−50.0')])
def test_points(difference, text):
  assert formatting.points(difference) == text


def test_missing_values():
  assert formatting.percent(None) == formatting.number(None) == '–'


def test_timestamp():
  assert formatting.timestamp('2026-01-01T00:00:00+00:00') == '2026-01-01 00:00:00 UTC'
