"""The page of a closed-loop report: figures first, then tables and charts, filmstrips, and the protocol."""
import base64
import html
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtjax.evaluation.closed_loop.tables import OVER, between, plus, seeds, tables
from rtjax.evaluation.html import charts
from rtjax.evaluation.html.formatting import count, number, percent
from rtjax.evaluation.html.style import document

_BINS = 16  # of the histogram of lengths


def page(report: dict[str, Any], films: pathlib.Path, show: int, videos: int = 0) -> str:
  """The whole HTML file; `show` episodes of the first policy get their filmstrips, from the folder `films`.

  `videos` of these have their video below.
  """
  policy = report['policies'][0]
  title = f'{percent(policy["summary"]["success"]["rate"])} success in {report["protocol"]["env"]}'
  body = (_head(report), _tiles(policy['summary']), _facts(report), *(table.html() for table in tables(report)),
          _curve(report['curve']), _lengths(policy['episodes'], report['protocol']['max_steps']),
          _films(policy['episodes'], films, show, videos), _method(report['protocol']), _protocol(report))
  return document(title, ''.join(body))


def choose(records: Sequence[Mapping[str, Any]], show: int) -> list[Mapping[str, Any]]:
  """Successes and failures to show, half of each where there are as many, each kind of them in turn."""
  good = _in_turn([r for r in records if r['success']], lambda r: r['skill'])
  bad = _in_turn([r for r in records if not r['success']], lambda r: (r['failure'], r['skill']))
  failures = min(len(bad), max(show // 2, show - len(good)))
  return good[:show - failures] + bad[:failures]


def _in_turn(records: list[Mapping[str, Any]], kind: Any) -> list[Mapping[str, Any]]:
  """The first of each kind, then the second of each, and so on."""
  seen: dict[Any, int] = {}
  rank = []
  for record in records:
    seen[kind(record)] = seen.get(kind(record), 0) + 1
    rank.append(seen[kind(record)])
  return [records[i] for i in np.argsort(rank, kind='stable')]


def _head(report: dict[str, Any]) -> str:
  policy = report['policies'][0]
  episodes = count(policy['summary']['success']['episodes'], 'episode')
  return f"""
<header>
<h1>Closed-loop success in {html.escape(report['protocol']['env'])}</h1>
<p class="subtitle">{html.escape(policy['name'])}: {episodes},
{count(len(report['protocol']['splits']), 'split')}, {count(len(policy['summary']['by_skill']), 'skill')}</p>
</header>"""


def _tiles(summary: dict[str, Any]) -> str:
  success, gaps, latency = summary['success'], summary['gaps'], summary['latency_ms']
  tiles = [('policy', percent(success['rate']),
            f'of all episodes succeed<br>95 % interval {between(success["interval"])}')]
  name = 'all unseen' if 'all unseen' in gaps else next((n for n in gaps if n.startswith('unseen')), None)
  if name:
    gap = gaps[name]
    tiles += [
        ('', percent(gap['unseen']['rate']), f'{html.escape(name.replace("_", " "))}<br>95 % interval '
         f'{between(gap["unseen"]["interval"])}'),
        ('baseline', plus(gap['difference']), 'points better on seen tasks of the same skills<br>95 % interval '
         f'{plus(gap["interval"][0])} to {plus(gap["interval"][1])}')]
  if latency:
    tiles.append(('', f'{latency["p50"]:.3g} ms', 'a policy call, median<br>95th and 99th percentile '
                  f'{latency["p95"]:.3g} and {latency["p99"]:.3g} ms'))
  elif summary['steps']:
    tiles.append(('', f'{summary["steps"]["p50"]:.3g}', 'steps to success, median'))
  return '<div class="tiles">' + ''.join(
      f'<div class="tile {kind}"><b>{value}</b>{words}</div>' for kind, value, words in tiles) + '</div>'


def _facts(report: dict[str, Any]) -> str:
  protocol, identity = report['protocol'], report['policies'][0]['identity']
  facts = {
      'Policy': report['policies'][0]['name'] + (f', step {identity["step"]:,}' if identity.get('step') else '')
      + (f', weights {identity["weights"]}' if identity.get('weights') else ''),
      'Environment': f'{protocol["env"]}, ' + ', '.join(f'{k} {_plain(v)}' for k, v in protocol['settings'].items()),
      'Versions': ', '.join(f'{name} {version}' for name, version in protocol['versions'].items()),
      'Date': report['created'].replace('T', ' ').replace('+00:00', ' UTC'),
      'Machine': report['machine']}
  return '<dl>' + ''.join(f'<dt>{name}</dt><dd>{html.escape(value)}</dd>' for name, value in facts.items()) + '</dl>'


def _plain(value: Any) -> str:
  return ' × '.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _lengths(records: Sequence[Mapping[str, Any]], longest: int) -> str:
  steps = [record['steps'] for record in records if record['success']]
  if not steps:
    return ''
  width = -(-longest // _BINS)
  counts = np.bincount([(step - 1) // width for step in steps], minlength=-(-longest // width))
  axis = charts.axis_around(np.array([0, max(*counts, 4)]), 1)
  axis = charts.Axis(0, axis.high, [tick for tick in axis.ticks if tick >= 0 and float(tick).is_integer()])
  ticks = [(100 * i / len(counts), str(i * width)) for i in range(0, len(counts) + 1, 4)]
  return f"""
<h2>Length of successful episodes</h2>
<figure>
<div class="plots">
{charts.plot(charts.bars(counts, axis), axis, len(counts), 'Successful episodes by length')}
{charts.x_axis(ticks, 'steps')}
</div>
<figcaption>{count(len(steps), 'episode')}, in bins of {count(width, 'step')}; an episode ends after {longest}.
</figcaption>
</figure>"""


def _curve(curve: dict[str, Any] | None) -> str:
  if curve is None:
    return ''
  points, words = curve['points'], OVER[curve['over']]
  xs = [100 * point['at'] / points[-1]['at'] for point in points]
  places = [(x, point['rate']) for x, point in zip(xs, points, strict=True)]
  whiskers = ''.join(charts.polyline([(x, bound) for bound in point['interval']], charts.PERCENT, 'policy')
                     for x, point in zip(xs, points, strict=True))
  marks = whiskers + charts.polyline(places, charts.PERCENT, 'policy') + charts.points(places, charts.PERCENT)
  ticks = [(x, f'{point["at"]:,}') for x, point in zip(xs, points, strict=True)]
  return f"""
<figure>
<div class="plots">
{charts.plot(marks, charts.PERCENT, 100, f'Success over {words}')}
{charts.x_axis(ticks, words)}
</div>
</figure>"""


def _films(records: Sequence[Mapping[str, Any]], films: pathlib.Path, show: int, videos: int) -> str:
  chosen = [record for record in choose(records, show) if _film(record, films).exists()]
  if not chosen:
    return ''
  moving = choose([record for record in chosen if _film(record, films, 'webp').exists()], videos)
  return f"""
<h2>Episodes</h2>
<p>{count(len(chosen), 'episode')} of {len(records)}: the first successes of each skill, and the first failures of each
kind. The policy’s pictures at the steps below them, from left to right.</p>
{''.join(_episode(record, films, record in moving) for record in chosen)}"""


def _episode(record: Mapping[str, Any], films: pathlib.Path, moves: bool) -> str:
  picture = base64.b64encode(_film(record, films).read_bytes()).decode()
  steps = ''.join(f'<span>{step}</span>' for step in record['film'])
  outcome = 'success' if record['success'] else f'failed: {record["failure"]}, {record["deed"]}'
  other = f' ({record["wrong_object"]})' if record['failure'] == 'wrong object' and record['wrong_object'] else ''
  facts = (outcome + other, record['split'], record['skill'], f'seed {record["seed"]}', count(record['steps'], 'step'),
           record['message'])
  return f"""
<section class="episode">
<h3>{html.escape(record['instruction'] or 'no instruction')}</h3>
<div class="facts">{html.escape(' · '.join(filter(None, facts)))}</div>
<div class="strip" style="width:{10 * len(record['film'])}%"><img alt="filmstrip of the episode"
src="data:image/jpeg;base64,{picture}"><div>{steps}</div></div>{_video(record, films) if moves else ''}
</section>"""


def _video(record: Mapping[str, Any], films: pathlib.Path) -> str:
  data = base64.b64encode(_film(record, films, 'webp').read_bytes()).decode()
  return f"""
<details open class="video"><summary>Video</summary><img alt="video of the episode"
src="data:image/webp;base64,{data}"></details>"""


def _film(record: Mapping[str, Any], films: pathlib.Path, kind: str = 'jpg') -> pathlib.Path:
  return films / f'{record["split"]}-{record["skill"] or "any"}-{record["seed"]}.{kind}'


def _method(protocol: dict[str, Any]) -> str:
  how = f"""Every episode starts from its seed alone: the scene, the task and its words. The policy acts
{number(protocol['control_hz'])} times a second of simulated time on its most likely tokens and is reset at the start of
every episode; success is told from the state of the physics, never from pictures. An episode ends with success or
after {protocol['max_steps']} steps. Seeds lie beyond all those that demonstrations are recorded with. Each skill of a
split gets its turn, so that skills are equally many. Episodes in which the simulation or the policy broke count as
failures."""
  if 'first_seed' not in protocol:
    how = f"""The episodes ran in another program, which logged what is shown here, at
{number(protocol['control_hz'])} steps a second and for at most {protocol['max_steps']} steps."""
  if protocol['threshold']:
    how += f""" Where the mean probability of its tokens was below {protocol['threshold']}, the robot was held for that
step."""
  return f"""
<h2>How this was measured</h2>
<p class="method">{how}</p>"""


def _protocol(report: dict[str, Any]) -> str:
  rows = ''.join(f'<dt>{html.escape(split)}</dt><dd>{seeds(report, split)}</dd>'
                 for split in report['protocol']['splits'])
  text = json.dumps(report['protocol'], indent=1)
  return f"""
<h2>Protocol</h2>
<details><summary>Settings</summary><pre>{html.escape(text)}</pre></details>
<details><summary>Every seed, by split; failures in brackets</summary><dl>{rows}</dl></details>"""

