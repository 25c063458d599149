"""Tables of closed-loop reports."""
from helpers.closed_loop_reports import RECORDS, policy, report

from rtjax.evaluation import statistics
from rtjax.evaluation.closed_loop.tables import tables
from rtjax.evaluation.language import vqa


def table(result, title):
  return next(t for t in tables(result) if t.title == title)


def test_comparison_of_policies():
  worse = [r | {'success': False, 'failure': 'timeout'} for r in RECORDS]
  result = report(policy(), policy('worse', worse))
  comparison, by_split, *_ = tables(result)
  assert comparison.rows[1][0] == 'worse' and comparison.rows[1][4:] == ['8', '+50.0', '4 / 0', '0.1250']
  assert comparison.rows[0][4:] == ['–'] * 4
  assert by_split.head == ('Split', 'mine', 'worse')
  assert [row[0] for row in by_split.rows] == ['seen', 'unseen_objects', 'unseen_words', 'clutter']
  assert [cell.replace('\N{NO-BREAK SPACE}', ' ') for cell in by_split.rows[0][1:]] == [
      '66.7 % (21 to 94)', '0.0 % (0 to 56)']
  gaps = table(result, 'Generalization gap by policy')
  assert gaps.rows[0][0] == 'unseen_objects' and gaps.rows[0][1].startswith('+50.0 (')
  assert gaps.rows[0][2].startswith('0.0 (')


def test_answers_about_images():
  def figures(correct):
    return vqa.accuracy(['red'] * 10, ['red'] * correct + ['blue'] * (10 - correct), ['vqa'] * 10)

  first = policy() | {'answers': {'after': figures(6), 'before': figures(8), 'init_from': 'stage1'}}
  result = report(first, policy('rt1'), policy('other') | {
      'answers': {'after': figures(5), 'before': None, 'init_from': None}}) | {'blind_answers': figures(4)}
  assert [(row[0], row[1].split(':')[0], *row[2:]) for row in table(result, 'Questions about images').rows] == [
      ('stage1 (before)', '8/10', '–', '–'), ('mine', '6/10', '–', '–'), ('other', '5/10', '–', '–'),
      ('blind', '4/10', '–', '–')]
  assert not any(t.title == 'Questions about images' for t in tables(report(policy())))


def test_skills_by_split():
  by_skill = table(report(policy()), 'Success by skill')
  assert by_skill.head == ('Split', 'pick', 'open')
  assert by_skill.rows[:4] == [['seen', '2/2', '0/1'], ['unseen_objects', '1/2', '–'], ['unseen_words', '0/1', '1/1'],
                               ['clutter', '0/1', '–']]
  low, high = statistics.wilson_interval(3, 6)
  assert [r[1].replace('\N{NO-BREAK SPACE}', ' ') for r in by_skill.rows[4:]] == [
      '50.0 %', f'{100 * low:.0f} to {100 * high:.0f} %']


def test_many_skills_are_rows():
  records = [RECORDS[0] | {'skill': f'skill {i}', 'seed': i} for i in range(10)]
  by_skill = table(report(policy('mine', records)), 'Success by skill')
  assert by_skill.head == ('Skill', 'seen', 'all', '95 % interval')
  assert [row[:2] for row in by_skill.rows] == [[f'skill {i}', '1/1'] for i in range(10)]
  assert [len(shades) for shades in by_skill.shades] == [3] * 10 and by_skill.shades[0] == (1.0, 1.0, None)


def test_outcomes_and_failures():
  result = report(policy())
  assert table(result, 'Failure reasons').head == ('Policy', 'wrong object', 'dropped', 'timeout')
  assert table(result, 'Failure reasons').rows == [['mine', '2', '1', '1']]
  assert '2 wrong objects: 1 of the target’s kind in another colour, 1 of another kind and colour.' in table(
      result, 'Failure reasons').note
  outcomes = table(result, 'Outcomes by skill')
  assert outcomes.head == ('Instructed skill', 'success', 'held other object', 'touched only')
  assert outcomes.rows == [['pick', '3', '1', '2'], ['open', '1', '0', '1']]


def test_curve_over_checkpoints():
  policies = [policy('late', step=200, demonstrations=500), policy('early', RECORDS[3:], step=100, demonstrations=500)]
  curve = table(report(*policies), 'Success over training steps')
  assert [(row[0], row[3], row[4]) for row in curve.rows] == [('100', '2/5', 'early'), ('200', '4/8', 'late')]
