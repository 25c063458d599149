"""Closed-loop reports: figures by hand, what the page shows, and several policies side by side."""
import json
import re

import numpy as np
import pytest

pytest.importorskip('gymnasium', reason="needs the extra 'sim'")

from helpers import toys
from helpers.parsed import Parsed

from rtjax.evaluation import statistics
from rtjax.evaluation.closed_loop import evaluator, summary
from rtjax.evaluation.closed_loop.page import choose, page
from rtjax.evaluation.closed_loop.tables import plus, tables
from rtjax.evaluation.html.frames import jpeg
from rtjax.evaluation.html.tables import Table
from rtjax.evaluation.language import vqa


def record(split='seen', skill='pick', seed=0, success=False, **changes):
  return {
      'split': split, 'skill': skill, 'seed': seed, 'task': 'pick: red cube', 'instruction': '<pick> & "place"',
      'success': success, 'failure': None if success else 'timeout', 'message': '',
      'deed': 'as asked' if success else 'touched only', 'wrong_object': None, 'steps': 7, 'jerk': 2.0, 'clipped': 1,
      'confidence': 0.5, 'interventions': 0, 'milliseconds': [4.0, 8.0], 'film': [0, 3]} | changes


RECORDS = [
    record(seed=0, success=True, steps=5), record(seed=1, success=True, steps=9),
    record(seed=2, skill='open', success=False, interventions=3),
    record(split='unseen_objects', seed=0, failure='wrong object', wrong_object='blue cube', deed='held another'),
    record(split='unseen_objects', seed=1, success=True, steps=7),
    record(split='unseen_words', seed=0, failure='wrong object', wrong_object='green can', jerk=None, confidence=None),
    record(split='unseen_words', skill='open', seed=2, success=True, milliseconds=[]),
    record(split='clutter', seed=0, failure='dropped')]


@pytest.fixture(scope='module')
def found():
  return summary.summarize(RECORDS)


def test_by_hand(found):
  assert found['success'] == {'successes': 4, 'episodes': 8, 'rate': 0.5, 'interval': statistics.wilson(4, 8)}
  assert {k: (s['successes'], s['episodes']) for k, s in found['by_split'].items()} == {
      'seen': (2, 3), 'unseen_objects': (1, 2), 'unseen_words': (1, 2), 'clutter': (0, 1)}
  assert {k: (s['successes'], s['episodes']) for k, s in found['by_skill'].items()} == {
      'pick': (3, 6), 'open': (1, 2)}
  assert set(found['by_split_and_skill']['clutter']) == {'pick'}
  assert found['by_split_and_skill']['seen']['open']['rate'] == 0
  assert found['failures'] == {'wrong object': 2, 'dropped': 1, 'timeout': 1}
  assert found['deeds'] == {'pick': {'as asked': 3, 'held another': 1, 'touched only': 2},
                              'open': {'as asked': 1, 'touched only': 1}}
  assert found['wrong_objects'] == {'same kind': 1, 'neither': 1}
  assert found['steps']['p50'] == 7 and found['latency_ms']['p50'] == 6 and found['latency_ms']['p99'] == 8
  assert (found['jerk']['p50'], found['confidence'], found['clipped']) == (2, 0.5, 8)
  assert found['interventions'] == {'steps': 3, 'episodes': 1}
  assert json.loads(json.dumps(found)).keys() == found.keys()


def test_gap_compares_equal_skills(found):
  """Neither the seen 'open' nor the unseen one counts where the other split lacks it."""
  gap = found['gaps']['unseen_objects']
  assert gap['skills'] == ['pick'] and gap['difference'] == 1 - 1 / 2
  assert gap['interval'] == statistics.newcombe((2, 2), (1, 2))
  assert found['gaps']['unseen_words']['skills'] == ['pick', 'open']
  assert found['gaps']['all unseen']['unseen'] == {
      'successes': 1, 'episodes': 3, 'rate': 1 / 3, 'interval': statistics.wilson(1, 3)}
  assert summary.gap([record(), record(split='clutter', skill='open')], ['clutter']) is None
  assert summary.summarize(RECORDS[3:])['gaps'] == {}


def test_pairs_are_of_equal_episodes():
  other = [r | {'success': not r['success']} for r in reversed(RECORDS[:5])]
  found = summary.compare(RECORDS, other)
  assert (found['episodes'], found['only_first'], found['only_second']) == (5, 3, 2)
  with pytest.raises(ValueError, match='share no episode'):
    summary.compare(RECORDS, [record(seed=77)])


def test_nothing_succeeded_nothing_timed():
  found = summary.summarize([record(milliseconds=[])])
  assert found['steps'] is None and found['latency_ms'] is None and found['success']['rate'] == 0


def report(*policies, **protocol):
  settings = {
      'env': 'toy', 'settings': {'size': [8, 8]}, 'splits': {'seen': ['pick']}, 'episodes_per_split': 3,
      'first_seed': 0, 'control_hz': 5, 'max_steps': 80, 'threshold': 0.0, 'versions': {'mujoco': '3'}} | protocol
  return {'created': '2026-01-01T00:00:00+00:00', 'machine': 'cpu', 'protocol': settings, 'policies': list(policies),
          **summary.side_by_side(policies)}


def policy(name='mine', records=RECORDS, **identity):
  return {'name': name, 'identity': identity, 'summary': summary.summarize(records), 'episodes': records}


def test_page(tmp_path):
  film = jpeg(np.zeros((4, 8, 3), np.uint8))
  for r in RECORDS:
    (tmp_path / f'{r["split"]}-{r["skill"]}-{r["seed"]}.jpg').write_bytes(film)
  text = page(report(policy('<mine>', step=100)), tmp_path, 4)
  parsed = Parsed(text)
  shown = parsed.text.replace('\N{NO-BREAK SPACE}', ' ')
  assert '50.0 %of all episodes succeed' in shown and '<mine>, step 100' in shown
  assert 'http' not in text and 'script' not in parsed.tags and '@import' not in text and 'url(' not in text
  assert text.count('class="episode"') == 4 == len(parsed.sources)
  assert shown.count('<pick> & "place"') == 4
  assert 'failed: wrong object, held another (blue cube)' in shown
  for r in RECORDS[:3]:
    assert (str(r['seed']) if r['success'] else f'({r["seed"]})') in shown
  assert '"episodes_per_split": 3' in shown and 'starts from its seed alone' in shown
  # The gap's figures: 2/3 seen of pick, 1/3 unseen.
  assert '+66.7' in shown


def test_videos(tmp_path):
  for r in RECORDS:
    for kind, content in (('jpg', b'film'), ('webp', b'video')):
      (tmp_path / f'{r["split"]}-{r["skill"]}-{r["seed"]}.{kind}').write_bytes(content)
  (tmp_path / 'seen-pick-0.webp').unlink()  # from before videos were asked for
  text = page(report(policy()), tmp_path, 6, 2)
  assert text.count('src="data:image/jpeg') == 6 and text.count('src="data:image/webp') == 2
  moving = [block for block in text.split('<section')[1:] if 'image/webp' in block]
  assert ['failed: ' in block for block in moving] == [False, True] and 'seed 0' not in moving[0]
  assert 'image/webp' not in page(report(policy()), tmp_path, 6)


def test_markdown_lists_every_seed():
  lines = evaluator.markdown(report(policy(), splits={'seen': ['pick', 'open'], 'clutter': ['pick']})).splitlines()
  assert lines[-2:] == ['- seen: 0 1 (2)', '- clutter: (0)']


def test_page_without_success_film_or_show(tmp_path):
  text = page(report(policy(records=[record(milliseconds=[])])), tmp_path, 8)
  assert 'class="episode"' not in text and 'Length of successful' not in text
  assert Parsed(text).text.count('0.0') > 0


def test_curve_over_checkpoints(tmp_path):
  steps = [policy('late', step=200, demonstrations=500), policy('early', RECORDS[3:], step=100, demonstrations=500)]
  text = page(report(*steps), tmp_path, 0)
  assert 'Success over training steps' in text and re.findall(r'>(100|200)</span>', text) == ['100', '200']
  table = next(t for t in tables(report(*steps)) if t.title == 'Success over training steps')
  assert [(row[0], row[3], row[4]) for row in table.rows] == [('100', '2/5', 'early'), ('200', '4/8', 'late')]
  # At half and at all of the width, 2/5 and 4/8 of the height.
  assert 'points="50,60 100,50"' in text
  sizes = [policy(f'{n}', step=100, demonstrations=n) for n in (50, 500)]
  assert 'Success over demonstrations trained on' in page(report(*sizes), tmp_path, 0)
  assert 'Success over' not in page(report(steps[0], policy('expert')), tmp_path, 0)


def test_choice_shows_kinds_in_turn():
  chosen = choose(RECORDS, 4)
  assert [r['success'] for r in chosen] == [True, True, False, False]
  assert {r['failure'] for r in chosen[2:]} == {'timeout', 'wrong object'}
  assert {(r['split'], r['skill']) for r in chosen[:2]} == {('seen', 'pick'), ('unseen_words', 'open')}
  assert len(choose(RECORDS, 100)) == len(RECORDS) and choose(RECORDS, 0) == []
  assert [r['success'] for r in choose(RECORDS[:3], 2)] == [True, False]


def test_side_by_side():
  worse = [r | {'success': False, 'failure': 'timeout'} for r in RECORDS]
  table, by_split, *_ = tables(report(policy(), policy('worse', worse)))
  assert table.rows[1][0] == 'worse' and table.rows[1][4:] == ['+50.0', '4 / 0', '0.1250']
  assert table.rows[0][4:] == ['–'] * 3
  assert by_split.head == ('Split', 'mine', 'worse')
  assert [row[0] for row in by_split.rows] == ['seen', 'unseen_objects', 'unseen_words', 'clutter']
  assert [cell.replace('\N{NO-BREAK SPACE}', ' ') for cell in by_split.rows[0][1:]] == [
      '66.7 % (21 to 94)', '0.0 % (0 to 56)']
  gaps = next(t for t in tables(report(policy(), policy('worse', worse))) if t.title == 'Side by side, gaps')
  assert gaps.rows[0][0] == 'unseen_objects' and gaps.rows[0][1].startswith('+50.0 (')
  assert gaps.rows[0][2].startswith('0.0 (')


def test_answers_beside_success():
  def judged(right):
    return vqa.accuracy(['red'] * 10, ['red'] * right + ['blue'] * (10 - right), ['vqa'] * 10)

  after = policy() | {'answers': {'after': judged(6), 'before': judged(8), 'origin': 'stage1'}}
  both = report(after, policy('rt1'), policy('other') | {
      'answers': {'after': judged(5), 'before': None, 'origin': None}}) | {'blind_answers': judged(4)}
  table = next(t for t in tables(both) if t.title == 'Answers about pictures')
  assert [(row[0], row[1].split(':')[0], *row[2:]) for row in table.rows] == [
      ('stage1, before', '8/10', '–', '–'), ('mine', '6/10', '–', '–'), ('other', '5/10', '–', '–'),
      ('without looking', '4/10', '–', '–')]
  assert not any(t.title == 'Answers about pictures' for t in tables(report(policy())))


def test_skills_by_split():
  table = next(t for t in tables(report(policy())) if t.title == 'By skill')
  assert table.head == ('Split', 'pick', 'open')
  assert table.rows[:4] == [['seen', '2/2', '0/1'], ['unseen_objects', '1/2', '–'], ['unseen_words', '0/1', '1/1'],
                            ['clutter', '0/1', '–']]
  low, high = statistics.wilson(3, 6)
  assert [r[1].replace('\N{NO-BREAK SPACE}', ' ') for r in table.rows[4:]] == [
      '50.0 %', f'{100 * low:.0f} to {100 * high:.0f} %']


@pytest.mark.parametrize(('points', 'shown'), [(0.0, '0.0'), (-0.0001, '0.0'), (0.123, '+12.3'), (-0.5, '−50.0')])
def test_plus(points, shown):
  assert plus(points) == shown


def test_table_as_html_and_markdown():
  table = Table('A & B', ('x', 'y'), [['a|b', '1'], ['<c>', '2']], 'Note.', [(0.5, 0.2, 0.9), (0, 0, 0.1)],
                [[0.5], [None]])
  assert table.markdown().splitlines() == [
      '## A & B', '', '| x | y |', '| --- | --: |', '| a\\|b | 1 |', '| <c> | 2 |', '', 'Note.']
  parsed = Parsed(table.html())
  assert [t.strip() for t in parsed.text.split('\n') if t.strip()] == ['A & B', 'xy', 'a|b1<c>2', 'Note.']
  assert 'left:20.00%;width:70.00%' in table.html() and table.html().count('color-mix') == 1


def test_judge(tmp_path):
  """Two policies and an earlier report, then the same command again, which runs nothing."""
  evaluation = evaluator.Evaluation(toys.world(), 10, 2)
  first = evaluator.judge(evaluation, 'random', [], ['expert'], tmp_path / 'one', 4)
  assert [p['name'] for p in first['policies']] == ['random', 'expert']
  assert first['policies'][1]['summary']['success']['successes'] == 12
  assert json.loads((tmp_path / 'one' / 'report.json').read_text()) == json.loads(json.dumps(first))
  log, = (tmp_path / 'one').glob('expert-*/episodes.jsonl')
  before = log.read_bytes()
  again = evaluator.judge(evaluation, 'random', [], ['expert'], tmp_path / 'one', 4)
  assert log.read_bytes() == before and again['policies'] == first['policies']
  # More episodes go on in the same folder; a report stands in for a policy.
  longer = evaluator.Evaluation(toys.world(), 12, 2)
  more = evaluator.judge(longer, 'expert', [], [str(tmp_path / 'one')], tmp_path / 'two', 0)
  assert more['comparisons'][0]['episodes'] == 20 and len(more['policies'][0]['episodes']) == 24
  assert (tmp_path / 'two' / 'report.md').read_text().startswith('# Closed-loop success in toy: expert')


def test_fewer_episodes_than_environments(tmp_path):
  found = evaluator.judge(evaluator.Evaluation(toys.world(('seen',)), 1, 3), 'expert', [], [], tmp_path, 0)
  assert found['policies'][0]['summary']['success']['successes'] == 1


def test_report_of_another_protocol(tmp_path):
  evaluation = evaluator.Evaluation(toys.world(), 1, 1)
  (tmp_path / 'report.json').write_text(json.dumps(report(policy()) | {'format': 1}))
  with pytest.raises(ValueError, match=r"another protocol: its settings is .*'size': \[8, 8\]"):
    evaluator.judge(evaluation, 'expert', [], [str(tmp_path)], tmp_path, 0)
  (tmp_path / 'report.json').write_text(json.dumps({'format': 1}))
  with pytest.raises(ValueError, match='is no report of a closed-loop evaluation'):
    evaluator.judge(evaluation, 'expert', [], [str(tmp_path)], tmp_path, 0)


def test_an_environment_that_does_not_run_here_is_known_before(monkeypatch):
  pytest.importorskip('mujoco', reason="needs the extra 'sim'")

  def broken(*_, **__):
    raise RuntimeError("renderer 'gl': OpenGL does not start here")

  monkeypatch.setattr('rtjax.envs.make', broken)
  with pytest.raises(ValueError, match='OpenGL does not start here'):
    evaluator.open_world('tabletop', (), (), {})


def test_baselines_need_a_network(tmp_path):
  with pytest.raises(ValueError, match="--baseline blind needs a checkpoint, 'expert' has no network"):
    evaluator.judge(evaluator.Evaluation(toys.world(), 1, 1), 'expert', ['blind'], [], tmp_path, 0)
