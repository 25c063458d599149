"""Tables of a closed-loop report."""
from collections.abc import Mapping, Sequence
from typing import Any

from rtjax.evaluation.closed_loop import failures
from rtjax.runtime.html.formatting import (
    MISSING,
    count,
    number,
    percent,
    percent_interval,
    points,
    points_interval,
    short_interval,
)
from rtjax.runtime.html.tables import Table

_SKILLS_ACROSS = 8
"""Most skills that the table of skills has side by side; more are rows."""

CURVE_AXES = {'step': 'training steps', 'demonstrations': 'training demonstrations'}


def tables(report: dict[str, Any]) -> list[Table]:
  """Build all tables, in the order of the page."""
  policies = report['policies']
  summary = policies[0]['summary']
  result = [_comparison(policies, report['comparisons']), *_by_policy(policies)] if len(policies) > 1 else []
  result += [_splits(summary), _skills(summary)]
  if any(policy['summary']['failures'] for policy in policies):
    result += [_failures(policies), _outcomes(summary)]
  if 'blind_answers' in report:
    result.append(_answers(policies, report['blind_answers']))
  result.append(_execution(policies))
  return [*result, _curve(report['curve'])] if report['curve'] else result


def seeds(report: dict[str, Any], split: str) -> str:
  """List the seeds of a split, the first policy's failures in brackets."""
  return ' '.join(str(record['seed']) if record['success'] else f'({record["seed"]})'
                  for record in report['policies'][0]['episodes'] if record['split'] == split)


def _comparison(policies: Sequence[dict[str, Any]], comparisons: Sequence[dict[str, Any]]) -> Table:
  tests = {test['second']: test for test in comparisons}
  rows, gauges = [], []
  for policy in policies:
    success = policy['summary']['success']
    rows.append([policy['name'], *_rate(success), *_test(tests.get(policy['name']))])
    gauges.append((success['rate'], *success['interval']))
  head = ('Policy', 'Success', '95 % interval', 'Episodes', 'Shared episodes',
          'First − this, points', 'Only first / only this', 'p')
  return Table('Policies', head, rows,
               'The columns on the right compare the first policy with each other one, on the shared episodes, which '
               'both ran (same split, skill and seed): difference of the success rates in percentage points, episodes '
               'that only one of the two solved, and p of McNemar’s exact test, two-sided.', gauges)


def _by_policy(policies: Sequence[dict[str, Any]]) -> list[Table]:
  head = ('Split', *(policy['name'] for policy in policies))
  splits = dict.fromkeys(split for policy in policies for split in policy['summary']['by_split'])
  rates = [[policy['summary']['by_split'].get(split) for policy in policies] for split in splits]
  rows = [[split, *(_rate_with_interval(rate) for rate in row)] for split, row in zip(splits, rates, strict=True)]
  result = [Table('Success by split and policy', head, rows,
                  'Success rate, and in brackets its Wilson interval (95 %).',
                  shades=[[rate and rate['rate'] for rate in row] for row in rates])]
  gap_splits = dict.fromkeys(split for policy in policies for split in policy['summary']['gaps'])
  if gap_splits:
    rows = [[split, *(_gap_with_interval(policy['summary']['gaps'].get(split)) for policy in policies)]
            for split in gap_splits]
    result.append(Table('Generalization gap by policy', head, rows,
                        'Success on seen tasks minus success on the split, in percentage points; in brackets the '
                        'Newcombe interval (95 %).'))
  return result


def _splits(summary: dict[str, Any]) -> Table:
  rates = {**summary['by_split']}
  rows = [[split, *_rate(rate), *_gap(summary['gaps'].get(split))] for split, rate in rates.items()]
  if 'all unseen' in summary['gaps']:
    gap = summary['gaps']['all unseen']
    rates['all unseen'] = gap['unseen']
    rows.append(['all unseen', *_rate(gap['unseen']), *_gap(gap)])
  rates['all'] = summary['success']
  rows.append(['all', *_rate(summary['success']), *_gap(None)])
  gauges = [(rate['rate'], *rate['interval']) for rate in rates.values()]
  return Table('Success by split', ('Split', 'Success', '95 % interval', 'Episodes', 'Gap, points', '95 % interval'),
               rows, 'Interval of the success rate: Wilson. Gap: success on seen tasks minus success on this split, '
               'in percentage points, over the skills that both splits have; interval: Newcombe (1998, method 10). '
               '“All unseen” pools the skills that all unseen splits have.', gauges)


def _skills(summary: dict[str, Any]) -> Table:
  skills = summary['by_skill']
  rows, shades = [], []
  for split, rates in summary['by_split_and_skill'].items():
    rows.append([split, *(_fraction(rates.get(skill)) for skill in skills)])
    shades.append([rates[skill]['rate'] if skill in rates else None for skill in skills])
  rows.append(['all', *(percent(rate['rate']) for rate in skills.values())])
  shades.append([rate['rate'] for rate in skills.values()])
  intervals = [short_interval(rate['interval']) for rate in skills.values()]
  rows.append(['95 % interval', *(f'{interval}\N{NO-BREAK SPACE}%' for interval in intervals)])
  shades.append([None] * len(skills))
  note = 'Successes / episodes; last the success rate over all splits and its Wilson interval.'
  names = [skill or 'any' for skill in skills]
  if len(names) <= _SKILLS_ACROSS:
    return Table('Success by skill', ('Split', *names), rows, note, shades=shades)
  labels, *columns = zip(*rows, strict=True)
  return Table('Success by skill', ('Skill', *labels),
               [[name, *column] for name, column in zip(names, columns, strict=True)], note,
               shades=list(zip(*shades, strict=True)))


def _failures(policies: Sequence[dict[str, Any]]) -> Table:
  reasons = [reason for reason in failures.REASONS if any(reason in p['summary']['failures'] for p in policies)]
  rows, shades = [], []
  for policy in policies:
    rows.append([policy['name'], *_counts(policy['summary']['failures'], reasons)])
    shades.append(_shares(policy['summary']['failures'], reasons))
  return Table('Failure reasons', ('Policy', *reasons), rows, _failures_note(policies[0]['summary']), shades=shades)


def _failures_note(summary: dict[str, Any]) -> str:
  note = ('Number of failed episodes by the first reason that applies. Physics, error: the simulation became unstable, '
          'or simulator or policy raised an error. No motion: the gripper travelled less than 2 cm. Wrong object: '
          'another object was held or moved, and the target was not. Dropped: an object was lost from the closed '
          'gripper. Missed grasp: the gripper closed or touched the target, and held no object in the entire episode. '
          'Timeout: none of these.')
  wrong = summary['wrong_objects']
  if wrong:
    note += f' {count(sum(wrong.values()), "wrong object").capitalize()}: ' + ', '.join(
        f'{episodes} {_WRONG_OBJECTS[shared]}' for shared, episodes in wrong.items()) + '.'
  return note


_WRONG_OBJECTS = {'same kind': 'of the target’s kind in another colour',
                  'same colour': 'of the target’s colour and another kind', 'neither': 'of another kind and colour'}


def _outcomes(summary: dict[str, Any]) -> Table:
  outcomes = [name for name in failures.OUTCOMES if any(name in row for row in summary['outcomes'].values())]
  rows = [[skill or 'any', *_counts(row, outcomes)] for skill, row in summary['outcomes'].items()]
  return Table('Outcomes by skill', ('Instructed skill', *outcomes), rows,
               'Number of episodes by the first outcome that applies, from left to right. Held: between both fingers '
               'at any time. Moved: touched, and more than 3 cm from its start at the end.',
               shades=[_shares(row, outcomes) for row in summary['outcomes'].values()])


def _answers(policies: Sequence[dict[str, Any]], blind: dict[str, Any]) -> Table:
  answered = []
  for policy in policies:
    if answers := policy.get('answers'):
      answered += [(f'{answers["init_from"]} (before)', answers['before'])] if answers['before'] else []
      answered.append((policy['name'], answers['after']))
  answered.append(('blind', blind))
  tasks = {'vqa': 'Questions answered', 'match': 'Captions verified', 'point': 'Objects located'}
  rows = [[name, *(_accuracy(figures.get(task)) for task in tasks)] for name, figures in answered]
  return Table('Questions about images', ('Policy', *tasks.values()), rows,
               'Correct answers about held-out images, and in brackets the Wilson interval (95 %), as if questions '
               'about the same image were independent. Before: the checkpoint that training started from. Blind: the '
               'most frequent answer of each question in the training data.')


def _execution(policies: Sequence[dict[str, Any]]) -> Table:
  rows = []
  for policy in policies:
    s = policy['summary']
    steps, latency, jerk = s['steps'] or {}, s['latency_ms'] or {}, s['jerk'] or {}
    interventions = s['interventions']
    rows.append([policy['name'], *(number(steps.get(p)) for p in ('p10', 'p50', 'p90')),
                 *(number(latency.get(p)) for p in ('p50', 'p95', 'p99')), number(jerk.get('p50')),
                 percent(s['confidence']), f'{interventions["steps"]} in {count(interventions["episodes"], "episode")}',
                 str(s['clipped'])])
  head = ('Policy', 'Steps p10', 'p50', 'p90', 'Latency ms p50', 'p95', 'p99', 'Jerk m/s³', 'Confidence',
          'Interventions', 'Clipped')
  return Table('Execution', head, rows,
               'Steps: length of successful episodes. Latency: duration of a policy call for all parallel '
               'environments, without compilation. Jerk: mean magnitude of the second difference of the commanded '
               'velocity, median over episodes. Interventions: steps with a confidence below the threshold, in which '
               'the robot was held. Clipped: actions beyond the bounds of the environment.')


def _curve(curve: dict[str, Any]) -> Table:
  """Build the last table; the page draws its chart below."""
  axis = CURVE_AXES[curve['over']]
  rows = [[f'{point["x"]:,}', *_rate(point), point['name']] for point in curve['points']]
  return Table(f'Success over {axis}', (axis.capitalize(), 'Success', '95 % interval', 'Episodes', 'Policy'), rows,
               'All checkpoints on the same episodes; Wilson interval.',
               [(point['rate'], *point['interval']) for point in curve['points']])


# Cells.


def _rate(rate: dict[str, Any]) -> list[str]:
  return [percent(rate['rate']), percent_interval(rate['interval']), _fraction(rate)]


def _fraction(rate: dict[str, Any] | None) -> str:
  return f'{rate["successes"]}/{rate["episodes"]}' if rate else MISSING


def _rate_with_interval(rate: dict[str, Any] | None) -> str:
  return f'{percent(rate["rate"])} ({short_interval(rate["interval"])})' if rate else MISSING


def _gap(gap: dict[str, Any] | None) -> list[str]:
  return [points(gap['difference']), points_interval(gap['interval'])] if gap else [MISSING] * 2


def _gap_with_interval(gap: dict[str, Any] | None) -> str:
  return '{} ({})'.format(*_gap(gap)) if gap else MISSING


def _test(test: dict[str, Any] | None) -> list[str]:
  if test is None:
    return [MISSING] * 4
  return [str(test['episodes']), points(test['difference']), f'{test["only_first"]} / {test["only_second"]}',
          '< 0.0001' if test['p'] < 1e-4 else f'{test["p"]:.4f}']


def _accuracy(figures: dict[str, Any] | None) -> str:
  if figures is None:
    return MISSING
  return (f'{figures["correct"]}/{figures["count"]}: {percent(figures["accuracy"])} '
          f'({short_interval(figures["interval"])})')


def _counts(row: Mapping[str, int], names: Sequence[str]) -> list[str]:
  return [str(row.get(name, 0)) for name in names]


def _shares(row: Mapping[str, int], names: Sequence[str]) -> list[float | None]:
  total = max(sum(row.values()), 1)
  return [row.get(name, 0) / total for name in names]
