"""Reports of episodes that another program ran."""
import json

import pytest
from helpers import hostile_files

from rtjax.evaluation import statistics
from rtjax.evaluation.closed_loop import external_log, report
from rtjax.runtime.limits import BoundError

HEADER = {'env': 'simpler', 'policy': 'mine', 'control_hz': 3, 'max_steps': 80}
LINES = [{'split': 'seen', 'skill': 'pick', 'seed': seed, 'success': seed < 2, 'steps': 10 + seed} for seed in range(4)]


def write_log(path, header=HEADER, lines=LINES):
  path.write_text(''.join(json.dumps(line) + '\n' for line in (header, *lines)))
  return str(path)


def test_report(tmp_path):
  worse = [line | {'success': False} for line in LINES]
  worse[0] |= {'failure': 'dropped', 'jerk': 2.0}
  worse[1]['info'] = {
      'task': 'pick: red cube', 'moved': 1.0, 'touched': ['blue cube'], 'displaced': {'blue cube': 0.1}}
  logs = [write_log(tmp_path / 'a.jsonl'), write_log(tmp_path / 'b.jsonl', HEADER | {'policy': 'other'}, worse)]
  result = external_log.build(logs, min_shared=4)
  mine, other = (policy['summary'] for policy in result['policies'])
  assert mine['success'] == {'successes': 2, 'episodes': 4, 'rate': 0.5, 'interval': statistics.wilson_interval(2, 4)}
  assert other['failures'] == {'wrong object': 1, 'dropped': 1, 'timeout': 2}
  assert (mine['jerk'], other['jerk']['p50'], mine['steps']['p50']) == (None, 2.0, 10.5)
  assert result['comparisons'] == [{
      'first': 'mine', 'second': 'other', 'episodes': 4, 'only_first': 2, 'only_second': 0, 'difference': 0.5,
      'p': 0.5, 'first_episodes': 4, 'second_episodes': 4}]
  assert result['protocol']['splits'] == {'seen': ['pick']}
  report.write(tmp_path, result, 4)
  page = (tmp_path / 'report.html').read_text()
  assert '50.0' in page and 'ran in another program' in page and '| other |' in (tmp_path / 'report.md').read_text()


@pytest.mark.parametrize(('header', 'lines', 'match'), [
    ({'env': 'x'}, LINES, "line 1: 'policy' is None, expected str"),
    (HEADER, [LINES[0] | {'success': 'yes'}], "line 2: 'success' is 'yes', expected bool"),
    (HEADER, [LINES[0], 'text'], "line 3: 'split' is 'text', expected str"), (HEADER, [], 'has 1 lines')])
def test_missing_keys_are_named(tmp_path, header, lines, match):
  with pytest.raises(ValueError, match=match):
    external_log.build([write_log(tmp_path / 'a.jsonl', header, lines)])


def test_logs_of_few_common_episodes(tmp_path):
  logs = [write_log(tmp_path / 'a.jsonl'), write_log(tmp_path / 'b.jsonl', lines=[LINES[3], LINES[0] | {'seed': 9}])]
  with pytest.raises(ValueError, match=r'a.jsonl and .*b.jsonl share 1 episodes .* of 4 and 2, .* --min-shared 1'):
    external_log.build(logs)
  test, = external_log.build(logs, min_shared=1)['comparisons']
  assert (test['episodes'], test['first_episodes'], test['second_episodes']) == (1, 4, 2)


def test_one_policy_name_in_two_logs(tmp_path):
  """Such policies are named by their logs, and a log is not compared with itself."""
  first = write_log(tmp_path / 'a.jsonl')
  worse = write_log(tmp_path / 'b.jsonl', lines=[line | {'success': False} for line in LINES])
  result = external_log.build([first, worse], min_shared=1)
  assert [policy['name'] for policy in result['policies']] == [f'mine ({first})', f'mine ({worse})']
  assert [test['only_first'] for test in result['comparisons']] == [2]
  copy = write_log(tmp_path / 'copy.jsonl')
  for same in (first, copy, str(tmp_path / '.' / 'a.jsonl')):
    with pytest.raises(ValueError, match=r'has the same content as .*a.jsonl: a policy is not tested against'):
      external_log.build([first, worse, same], min_shared=1)


def test_repeated_seeds(tmp_path):
  log = write_log(tmp_path / 'a.jsonl', lines=[LINES[0]] * 50)
  with pytest.raises(ValueError, match=r'a.jsonl: 1 of its 1 episodes occur more than once: seen-pick-0 \(50 times\)'):
    external_log.build([log])


def test_logs_of_different_environments(tmp_path):
  logs = [write_log(tmp_path / 'a.jsonl'), write_log(tmp_path / 'b.jsonl', HEADER | {'max_steps': 50})]
  with pytest.raises(ValueError, match=r'b.jsonl: max_steps is 50, in .*a.jsonl it is 80'):
    external_log.build(logs)
  (tmp_path / 'c.jsonl').write_text('{"env"')
  with pytest.raises(ValueError, match='line 1 is no JSON'):
    external_log.build([str(tmp_path / 'c.jsonl')])


SCRIPT = '<script>alert(1)</script>'
WRONG = [('split', '../x'), ('split', 'a/b'), ('split', 3), ('skill', None), ('seed', True), ('seed', -1),
         ('seed', 1.5), ('success', 1), ('steps', '3'), ('steps', 81), ('steps', 0), ('steps', 10 ** 12), ('task', 3),
         ('jerk', 'x'),
         ('instruction', []), ('message', {}), ('wrong_object', 1), ('failure', 2), ('outcome', []), ('clipped', 'x'),
         ('confidence', '0.5'), ('confidence', float('nan')), ('interventions', None), ('latency_ms', 3), ('info', []),
         ('latency_ms', ['x']), ('filmstrip', [SCRIPT]), ('filmstrip', 'ab'), ('info', {'moved': 'x'}),
         ('info', {'touched': 3}), ('info', {'displaced': []}), ('info', {'grasped': []}), ('info', {'failure': []})]
WRONG_HEADER = [('threshold', SCRIPT), ('step', 'x'), ('demonstrations', []), ('settings', 3), ('versions', []),
                ('control_hz', 0), ('control_hz', float('inf')), ('max_steps', 3.5), ('max_steps', True), ('env', 3)]


@pytest.mark.parametrize(('key', 'value'), WRONG)
def test_fields_of_wrong_types(tmp_path, key, value):
  with pytest.raises(ValueError, match=r'line 2.*expected'):
    external_log.build([write_log(tmp_path / 'a.jsonl', HEADER, [LINES[0] | {key: value}])])


@pytest.mark.parametrize(('key', 'value'), WRONG_HEADER)
def test_header_fields_of_wrong_types(tmp_path, key, value):
  with pytest.raises(ValueError, match=f"line 1: '{key}' is .*, expected"):
    external_log.build([write_log(tmp_path / 'a.jsonl', HEADER | {key: value}, LINES)])


def test_texts_are_escaped(tmp_path):
  header = HEADER | {'env': SCRIPT, 'policy': SCRIPT, 'settings': {SCRIPT: SCRIPT}, 'versions': {SCRIPT: SCRIPT}}
  texts = dict.fromkeys(('task', 'instruction', 'message', 'outcome', 'wrong_object', 'failure'), SCRIPT)
  record = LINES[0] | texts | {
      'split': SCRIPT.replace('/', ''), 'skill': SCRIPT.replace('/', ''), 'filmstrip': [3], 'success': False}
  built = external_log.build([write_log(tmp_path / 'a.jsonl', header, [record, record | {'seed': 1}])])
  films = tmp_path / 'films'
  films.mkdir()
  (films / f'{record["split"]}-{record["skill"]}-0.jpg').write_bytes(hostile_files.jpeg(8, 8))
  report.write(tmp_path, built, 2)
  page = (tmp_path / 'report.html').read_text()
  assert 'data:image/jpeg' in page and '<script' not in page.lower()


def test_films_are_of_the_report_folder(tmp_path):
  (tmp_path / 'secret.jpg').write_bytes(b'secret')
  films = tmp_path / 'report/films'
  films.mkdir(parents=True)
  (films / 'seen-pick-0.jpg').symlink_to(tmp_path / 'secret.jpg')
  built = external_log.build([write_log(tmp_path / 'a.jsonl')])
  with pytest.raises(BoundError, match='leads out of the folder'):
    report.write(tmp_path / 'report', built, 1)
