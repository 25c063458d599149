"""A closed-loop report as tables."""
from collections.abc import Mapping, Sequence
from typing import Any

from rtjax.evaluation.closed_loop import failures
from rtjax.evaluation.html.formatting import count, number, percent
from rtjax.evaluation.html.tables import Table

_NO_INTERVAL = '–'
OVER = {'step': 'training steps', 'demonstrations': 'demonstrations trained on'}


def tables(report: dict[str, Any]) -> list[Table]:
  """All tables, in the order of the page; the first policy is the one that the report is about."""
  policies = report['policies']
  summary = policies[0]['summary']
  found = [_policies(policies, report['comparisons']), *_by_split(policies)] if len(policies) > 1 else []
  found += [_splits(summary), _skills(summary)]
  if any(policy['summary']['failures'] for policy in policies):
    found += [_failures(policies), _deeds(summary)]
  if 'blind_answers' in report:
    found.append(_answers(policies, report['blind_answers']))
  found.append(_running(policies))
  return [*found, _curve(report['curve'])] if report['curve'] else found


def seeds(report: dict[str, Any], split: str) -> str:
  """Every seed of a split, those that the first policy failed in brackets."""
  return ' '.join(str(record['seed']) if record['success'] else f'({record["seed"]})'
                  for record in report['policies'][0]['episodes'] if record['split'] == split)


def plus(points: float) -> str:
  """A difference of shares in percentage points."""
  rounded = f'{100 * points:+.1f}'.replace('-', '−')
  return '0.0' if rounded[1:] == '0.0' else rounded


def between(interval: Sequence[float]) -> str:
  return f'{percent(interval[0])} to {percent(interval[1])}'


def _policies(policies: Sequence[dict[str, Any]], comparisons: Sequence[dict[str, Any]]) -> Table:
  tests = {test['second']: test for test in comparisons}
  rows, gauges = [], []
  for policy in policies:
    success, test = policy['summary']['success'], tests.get(policy['name'])
    rows.append([policy['name'], percent(success['rate']), between(success['interval']),
                 f'{success["successes"]}/{success["episodes"]}', *_test(test)])
    gauges.append((success['rate'], *success['interval']))
  head = ('Policy', 'Success', '95 % interval', 'Episodes', 'First minus this, points', 'Only first / only this', 'p')
  return Table('Side by side', head, rows,
               'The columns to the right compare the first policy with each other one on the episodes that both ran: '
               'same split, skill and seed. p: McNemar’s exact test, two-sided.', gauges)


def _by_split(policies: Sequence[dict[str, Any]]) -> list[Table]:
  """Success, and what is lost against seen tasks, of all policies."""
  head = ('Split', *(policy['name'] for policy in policies))
  splits = dict.fromkeys(split for policy in policies for split in policy['summary']['by_split'])
  shares = [[policy['summary']['by_split'].get(split) for policy in policies] for split in splits]
  rows = [[split, *(_rate(share) if share else _NO_INTERVAL for share in row)]
          for split, row in zip(splits, shares, strict=True)]
  found = [Table('Side by side, by split', head, rows, 'Success rates, in brackets Wilson’s interval at 95 %.',
                 shades=[[share and share['rate'] for share in row] for row in shares])]
  others = dict.fromkeys(split for policy in policies for split in policy['summary']['gaps'])
  gaps = [[policy['summary']['gaps'].get(split) for policy in policies] for split in others]
  if gaps:
    rows = [[split, *('{} ({})'.format(*_gap(gap)) if gap else _NO_INTERVAL for gap in row)]
            for split, row in zip(others, gaps, strict=True)]
    found.append(Table('Side by side, gaps', head, rows, 'Success on seen tasks minus success on the split, in points; '
                       'in brackets Newcombe’s interval at 95 %.'))
  return found


def _rate(share: dict[str, Any]) -> str:
  low, high = share['interval']
  return f'{percent(share["rate"])} ({100 * low:.0f} to {100 * high:.0f})'


def _test(test: dict[str, Any] | None) -> list[str]:
  if test is None:
    return [_NO_INTERVAL] * 3
  return [plus(test['difference']), f'{test["only_first"]} / {test["only_second"]}',
          '< 0.0001' if test['p'] < 1e-4 else f'{test["p"]:.4f}']


def _splits(summary: dict[str, Any]) -> Table:
  shares = {**summary['by_split']}
  rows = [[split, *_share(share), *_gap(summary['gaps'].get(split))] for split, share in shares.items()]
  if 'all unseen' in summary['gaps']:
    unseen = summary['gaps']['all unseen']
    shares['all unseen'] = unseen['unseen']
    rows.append(['all unseen', *_share(unseen['unseen']), *_gap(unseen)])
  shares['all'] = summary['success']
  rows.append(['all', *_share(summary['success']), *_gap(None)])
  gauges = [(share['rate'], *share['interval']) for share in shares.values()]
  return Table('By split', ('Split', 'Success', '95 % interval', 'Episodes', 'Gap, points', '95 % interval'), rows,
               'Interval: Wilson’s. Gap: success on seen tasks minus success on this split, over the skills that both '
               'have; its interval is Newcombe’s (1998, method 10). “All unseen” pools the skills that every unseen '
               'split has.', gauges)


def _share(share: dict[str, Any]) -> list[str]:
  return [percent(share['rate']), between(share['interval']), _of(share)]


def _of(share: dict[str, Any] | None) -> str:
  return f'{share["successes"]}/{share["episodes"]}' if share else _NO_INTERVAL


def _gap(gap: dict[str, Any] | None) -> list[str]:
  if gap is None:
    return [_NO_INTERVAL] * 2
  return [plus(gap['difference']), f'{plus(gap["interval"][0])} to {plus(gap["interval"][1])}']


def _skills(summary: dict[str, Any]) -> Table:
  skills = summary['by_skill']
  rows, shades = [], []
  for split, shares in summary['by_split_and_skill'].items():
    rows.append([split, *(_of(shares.get(skill)) for skill in skills)])
    shades.append([shares[skill]['rate'] if skill in shares else None for skill in skills])
  rows.append(['all', *(percent(share['rate']) for share in skills.values())])
  shades.append([share['rate'] for share in skills.values()])
  rows.append(['95 % interval', *(_short(share['interval']) for share in skills.values())])
  shades.append([None] * len(skills))
  return Table('By skill', ('Split', *(skill or 'any' for skill in skills)), rows,
               'Successes of episodes, and the success rate over all splits with Wilson’s interval.', shades=shades)


def _short(interval: Sequence[float]) -> str:
  return f'{100 * interval[0]:.0f} to {100 * interval[1]:.0f}\N{NO-BREAK SPACE}%'


def _answers(policies: Sequence[dict[str, Any]], blind: dict[str, Any]) -> Table:
  judged = []
  for policy in policies:
    if found := policy.get('answers'):
      judged += [(f'{found["origin"]}, before', found['before'])] if found['before'] else []
      judged.append((policy['name'], found['after']))
  judged.append(('without looking', blind))
  kinds = {'vqa': 'Questions right', 'match': 'Captions told apart', 'point': 'Things pointed at'}
  rows = [[name, *(_answered(found.get(kind)) for kind in kinds)] for name, found in judged]
  return Table('Answers about pictures', ('Policy', *kinds.values()), rows,
               'Held-out pictures. Before: the checkpoint that training started from. Without looking: of each '
               'question its most frequent answer in the training data. In brackets Wilson’s interval at 95 %, as if '
               'questions about the same picture were independent.')


def _answered(found: dict[str, Any] | None) -> str:
  if found is None:
    return _NO_INTERVAL
  low, high = found['interval']
  return f'{found["correct"]}/{found["count"]}: {percent(found["accuracy"])} ({100 * low:.0f} to {100 * high:.0f})'


def _failures(policies: Sequence[dict[str, Any]]) -> Table:
  labels = [label for label in failures.LABELS if any(label in p['summary']['failures'] for p in policies)]
  rows, shades = [], []
  for policy in policies:
    rows.append([policy['name'], *_counts(policy['summary']['failures'], labels)])
    shades.append(_shades(policy['summary']['failures'], labels))
  return Table('Why episodes failed', ('Policy', *labels), rows, _labels_note(policies[0]['summary']), shades=shades)


def _labels_note(summary: dict[str, Any]) -> str:
  note = ('The first that is so. Physics, error: simulator or policy broke. No motion: the gripper travelled less than '
          '2 cm. Wrong object: another one was taken or moved, and the right one was not. Dropped: an object was lost '
          'from the closed gripper. Missed grasp: the gripper closed, or touched the object, and held nothing in the '
          'whole episode. Timeout: none of these.')
  wrong = summary['wrong_objects']
  if wrong:
    total = sum(wrong.values())
    note += f' Of {count(total, "wrong object")}, ' + ', '.join(
        f'{n} {_LIKE[like]}' for like, n in wrong.items()) + '.'
  return note


_LIKE = {'same kind': 'of the right kind in another colour', 'same colour': 'of the right colour and another kind',
         'neither': 'of another kind and colour'}


def _deeds(summary: dict[str, Any]) -> Table:
  deeds = [deed for deed in failures.DEEDS if any(deed in row for row in summary['deeds'].values())]
  rows = [[skill or 'any', *_counts(row, deeds)] for skill, row in summary['deeds'].items()]
  return Table('What it did instead', ('Asked', *deeds), rows,
               'Episodes by what was asked (rows) and what was done (columns): the first column that holds. Held: '
               'between both fingers at any time; moved: touched, and at the end more than 3 cm from its place.',
               shades=[_shades(row, deeds) for row in summary['deeds'].values()])


def _counts(row: Mapping[str, int], names: Sequence[str]) -> list[str]:
  return [str(row.get(name, 0)) for name in names]


def _shades(row: Mapping[str, int], names: Sequence[str]) -> list[float | None]:
  total = max(sum(row.values()), 1)
  return [row.get(name, 0) / total for name in names]


def _running(policies: Sequence[dict[str, Any]]) -> Table:
  rows = []
  for policy in policies:
    s = policy['summary']
    steps, latency, jerk = s['steps'] or {}, s['latency_ms'] or {}, s['jerk'] or {}
    confidence, held = s['confidence'], s['interventions']
    rows.append([policy['name'], *(number(steps.get(p)) for p in ('p10', 'p50', 'p90')),
                 *(number(latency.get(p)) for p in ('p50', 'p95', 'p99')), number(jerk.get('p50')), percent(confidence),
                 f'{held["steps"]} in {count(held["episodes"], "episode")}', str(s['clipped'])])
  head = ('Policy', 'Steps to success p10', 'p50', 'p90', 'Latency ms p50', 'p95', 'p99', 'Jerk m/s³', 'Confidence',
          'Interventions', 'Clipped')
  return Table('How it ran', head, rows,
               'Steps: length of successful episodes. Latency: of one policy call, for as many environments as run at '
               'a time, without compilation. Jerk: mean size of the second difference of the commanded velocity, '
               'median over episodes. Interventions: steps in which the confidence was below the threshold and the '
               'robot was held. Clipped: actions beyond the environment’s bounds.')


def _curve(curve: dict[str, Any]) -> Table:
  """Last, for the page draws it below."""
  words = OVER[curve['over']]
  rows = [[f'{point["at"]:,}', *_share(point), point['name']] for point in curve['points']]
  return Table(f'Success over {words}', (words.capitalize(), 'Success', '95 % interval', 'Episodes', 'Policy'), rows,
               'All checkpoints on the same episodes, with Wilson’s 95 % interval.',
               [(point['rate'], *point['interval']) for point in curve['points']])
