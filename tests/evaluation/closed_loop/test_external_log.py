"""Reports on episodes that ran elsewhere."""
import json

import pytest

from rtjax.evaluation import statistics
from rtjax.evaluation.closed_loop import evaluator, external_log

HEADER = {'env': 'simpler', 'policy': 'mine', 'control_hz': 3, 'max_steps': 80}
LINES = [{'split': 'seen', 'skill': 'pick', 'seed': seed, 'success': seed < 2, 'steps': 10 + seed} for seed in range(4)]


def written(path, header=HEADER, lines=LINES):
  path.write_text(''.join(json.dumps(line) + '\n' for line in (header, *lines)))
  return str(path)


def test_report(tmp_path):
  worse = [line | {'success': False} for line in LINES]
  worse[0] |= {'failure': 'dropped', 'jerk': 2.0}
  worse[1]['facts'] = {
      'task': 'pick: red cube', 'moved': 1.0, 'touched': ['blue cube'], 'displaced': {'blue cube': 0.1}}
  logs = [written(tmp_path / 'a.jsonl'), written(tmp_path / 'b.jsonl', HEADER | {'policy': 'other'}, worse)]
  found = external_log.report(logs)
  mine, other = (policy['summary'] for policy in found['policies'])
  assert mine['success'] == {'successes': 2, 'episodes': 4, 'rate': 0.5, 'interval': statistics.wilson(2, 4)}
  assert other['failures'] == {'wrong object': 1, 'dropped': 1, 'timeout': 2}
  assert (mine['jerk'], other['jerk']['p50'], mine['steps']['p50']) == (None, 2.0, 10.5)
  assert found['comparisons'] == [{
      'first': 'mine', 'second': 'other', 'episodes': 4, 'only_first': 2, 'only_second': 0, 'difference': 0.5,
      'p': 0.5}]
  assert found['protocol']['splits'] == {'seen': ['pick']}
  evaluator.write(tmp_path, found, 4)
  page = (tmp_path / 'report.html').read_text()
  assert '50.0' in page and 'ran in another program' in page and '| other |' in (tmp_path / 'report.md').read_text()


@pytest.mark.parametrize(('header', 'lines', 'match'), [
    ({'env': 'x'}, LINES, "line 1: 'policy' is None, expected str"),
    (HEADER, [LINES[0] | {'success': 'yes'}], "line 2: 'success' is 'yes', expected bool"),
    (HEADER, [LINES[0], 'text'], "line 3: 'split' is 'text', expected str"), (HEADER, [], 'has 1 lines')])
def test_what_is_missing_is_named(tmp_path, header, lines, match):
  with pytest.raises(ValueError, match=match):
    external_log.report([written(tmp_path / 'a.jsonl', header, lines)])


def test_logs_that_do_not_belong_together(tmp_path):
  logs = [written(tmp_path / 'a.jsonl'), written(tmp_path / 'b.jsonl', HEADER | {'max_steps': 50})]
  with pytest.raises(ValueError, match=r'b.jsonl: max_steps is 50, in .*a.jsonl it is 80'):
    external_log.report(logs)
  (tmp_path / 'c.jsonl').write_text('{"env"')
  with pytest.raises(ValueError, match='line 1: no JSON'):
    external_log.report([str(tmp_path / 'c.jsonl')])
