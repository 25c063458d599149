"""The comparison of benchmarks with recorded ratios."""
import importlib
import json

import pytest
from helpers.paths import ROOT


@pytest.fixture
def ratios(monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT / 'bench'))
  return importlib.import_module('ratios')


def test_only_changes_beyond_the_noise_count(ratios):
  recorded = 1.9, 2.0, 2.2
  assert ratios.verdict((2.9, 3.0, 3.1), recorded) == '50% more'
  assert ratios.verdict((0.9, 1.0, 1.1), recorded) == '50% less'
  assert not ratios.verdict((2.1, 3.0, 3.1), recorded)  # quartiles overlap
  assert not ratios.verdict((2.05, 2.05, 2.05), (2.0, 2.0, 2.0))  # a fortieth
  assert ratios.verdict((1.0, 1.0, 1.0), None) == 'not recorded'


def test_recorded_ratios_are_of_known_rows(ratios):
  recorded = json.loads(ratios.RECORDED.read_text())['rows']
  assert recorded and recorded.keys() <= ratios.ROWS.keys()
  assert all(low <= median <= high for low, median, high in recorded.values())


def test_a_row_that_fails_stops_nothing(ratios, capsys, monkeypatch, tmp_path):
  monkeypatch.setattr(ratios, 'RECORDED', tmp_path / 'ratios.json')
  monkeypatch.setattr(ratios, 'ROWS', {'broken': (lambda: ratios.command('-c', 'raise SystemExit(1)'), 3),
                                       'works': (lambda: iter([(2.0, 1.0)] * 3), 3)})
  ratios.main(record=True)
  out = capsys.readouterr().out
  assert 'not measured' in out and 'Moved: works (not recorded)' in out
  ratios.main()
  assert 'Moved: nothing' in capsys.readouterr().out
