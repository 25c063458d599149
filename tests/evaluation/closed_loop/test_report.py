"""Files of closed-loop reports."""
from helpers.closed_loop_reports import policy, report

from rtjax.evaluation.closed_loop.report import markdown


def test_markdown_lists_every_seed():
  lines = markdown(report(policy(), splits={'seen': ['pick', 'open'], 'clutter': ['pick']})).splitlines()
  assert lines[-2:] == ['- seen: 0 1 (2)', '- clutter: (0)']
