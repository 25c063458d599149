"""Files of closed-loop reports."""
import pytest
from helpers.closed_loop_reports import policy, report

from rtjax.evaluation.closed_loop.report import markdown, read_first_policy


def test_markdown_lists_every_seed():
  lines = markdown(report(policy(), splits={'seen': ['pick', 'open'], 'clutter': ['pick']})).splitlines()
  assert lines[-2:] == ['- seen: 0 1 (2)', '- clutter: (0)']


@pytest.mark.parametrize('text', ['null', '{}', '[]', '{"format": 2, "policies": 3, "protocol": null}', '[' * 10 ** 5])
def test_damaged_reports_to_compare_with(tmp_path, text):
  (tmp_path / 'report.json').write_text(text)
  with pytest.raises(ValueError, match=r'report.json'):
    read_first_policy(tmp_path / 'report.json', {'env': 'x', 'settings': {}, 'control_hz': 3, 'max_steps': 80})
