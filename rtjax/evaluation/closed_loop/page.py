"""HTML page of a closed-loop report: figures, tables, charts, filmstrips, protocol."""
import html
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rtjax.evaluation.closed_loop.protocol import EpisodeId
from rtjax.evaluation.closed_loop.tables import CURVE_AXES, seeds, tables
from rtjax.runtime import limits
from rtjax.runtime.html import charts
from rtjax.runtime.html.document import Tile, definition_list, document, header, image, method, tiles
from rtjax.runtime.html.formatting import (
  count,
  number,
  percent,
  percent_interval,
  points,
  points_interval,
  timestamp,
)

_BINS = 16  # of the histogram of lengths

Record = Mapping[str, Any]


def page(report: dict[str, Any], films: pathlib.Path, show: int, videos: int = 0) -> str:
  """Build the complete HTML file.

  Args:
    report: the content of report.json.
    films: folder of the filmstrips and videos.
    show: number of episodes of the first policy that are shown.
    videos: number of these with a video.
  """
  policy, protocol = report['policies'][0], report['protocol']
  episodes = policy['episodes']
  subtitle = (f'{policy["name"]}: {count(len(episodes), "episode")}, {count(len(protocol["splits"]), "split")}, '
              f'{count(len(policy["summary"]["by_skill"]), "skill")}')
  body = (header(f'Closed-loop success in {protocol["env"]}', subtitle), tiles(_tiles(policy['summary'])),
          definition_list(_details(report)), *(table.html() for table in tables(report)), _curve(report['curve']),
          _lengths(episodes, protocol['max_steps']), _episodes(episodes, films, show, videos),
          method(_method(protocol)), _protocol(report))
  return document(f'{percent(policy["summary"]["success"]["rate"])} success in {protocol["env"]}', ''.join(body))


def choose(records: Sequence[Record], show: int) -> list[Record]:
  """Choose episodes to show.

  Half of them are failures if possible; skills and failure reasons take turns.
  """
  good = _in_turn([r for r in records if r['success']], lambda r: r['skill'])
  bad = _in_turn([r for r in records if not r['success']], lambda r: (r['failure'], r['skill']))
  num_bad = min(len(bad), max(show // 2, show - len(good)))
  return good[:show - num_bad] + bad[:num_bad]


def _in_turn(records: list[Record], key: Callable[[Record], Any]) -> list[Record]:
  """Sort records so that their keys take turns."""
  counts: dict[Any, int] = {}
  rank = []
  for record in records:
    counts[key(record)] = counts.get(key(record), 0) + 1
    rank.append(counts[key(record)])
  return [records[i] for i in np.argsort(rank, kind='stable')]


def _tiles(summary: dict[str, Any]) -> list[Tile]:
  success, gaps, latency = summary['success'], summary['gaps'], summary['latency_ms']
  entries = [('policy', percent(success['rate']),
              f'success rate over all episodes<br>95 % interval {percent_interval(success["interval"])}')]
  name = 'all unseen' if 'all unseen' in gaps else next((n for n in gaps if n.startswith('unseen')), None)
  if name:
    gap = gaps[name]
    entries += [
        ('', percent(gap['unseen']['rate']), f'success rate, {html.escape(name.replace("_", " "))}<br>95 % interval '
         f'{percent_interval(gap["unseen"]["interval"])}'),
        ('baseline', points(gap['difference']), 'points, seen minus unseen tasks of the same skills<br>'
         f'95 % interval {points_interval(gap["interval"])}')]
  if latency:
    entries.append(('', f'{latency["p50"]:.3g} ms', 'latency of a policy call, median<br>95th and 99th percentile '
                    f'{latency["p95"]:.3g} and {latency["p99"]:.3g} ms'))
  elif summary['steps']:
    entries.append(('', f'{summary["steps"]["p50"]:.3g}', 'steps to success, median'))
  return entries


def _details(report: dict[str, Any]) -> dict[str, str]:
  protocol, policy = report['protocol'], report['policies'][0]
  identity = policy['identity']
  return {
      'Policy': policy['name'] + (f', step {identity["step"]:,}' if identity.get('step') else '')
      + (f', weights {identity["weights"]}' if identity.get('weights') else '')
      + (f', computed in {identity["dtype"]}' if identity.get('dtype') else ''),
      'Environment': f'{protocol["env"]}, ' + ', '.join(f'{k} {_setting(v)}' for k, v in protocol['settings'].items()),
      'Versions': ', '.join(f'{name} {version}' for name, version in protocol['versions'].items()),
      'Date': timestamp(report['created']),
      'Machine': report['machine']}


def _setting(value: Any) -> str:
  return ' × '.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _lengths(records: Sequence[Record], max_steps: int) -> str:
  lengths = [record['steps'] for record in records if record['success']]
  if not lengths:
    return ''
  width = -(-max_steps // _BINS)
  counts = np.bincount([(length - 1) // width for length in lengths], minlength=-(-max_steps // width))
  axis = charts.value_axis(np.array([0, max(*counts, 4)]), 1)
  axis = charts.Axis(0, axis.high, [tick for tick in axis.ticks if tick >= 0 and float(tick).is_integer()])
  ticks = [(100 * i / len(counts), str(i * width)) for i in range(0, len(counts) + 1, 4)]
  return f"""
<h2>Length of successful episodes</h2>
<figure>
<div class="plots">
{charts.plot(charts.bars(counts, axis), axis, len(counts), 'Successful episodes by length')}
{charts.x_axis(ticks, 'steps')}
</div>
<figcaption>{count(len(lengths), 'episode')}, in bins of {count(width, 'step')}; an episode has at most {max_steps}.
</figcaption>
</figure>"""


def _curve(curve: dict[str, Any] | None) -> str:
  if curve is None:
    return ''
  rates, axis = curve['points'], CURVE_AXES[curve['over']]
  xs = [100 * rate['x'] / rates[-1]['x'] for rate in rates]
  marks = [(x, rate['rate']) for x, rate in zip(xs, rates, strict=True)]
  whiskers = ''.join(charts.polyline([(x, bound) for bound in rate['interval']], charts.PERCENT, 'policy')
                     for x, rate in zip(xs, rates, strict=True))
  drawn = whiskers + charts.polyline(marks, charts.PERCENT, 'policy') + charts.dots(marks, charts.PERCENT)
  ticks = [(x, f'{rate["x"]:,}') for x, rate in zip(xs, rates, strict=True)]
  return f"""
<figure>
<div class="plots">
{charts.plot(drawn, charts.PERCENT, 100, f'Success over {axis}')}
{charts.x_axis(ticks, axis)}
</div>
</figure>"""


def _episodes(records: Sequence[Record], films: pathlib.Path, show: int, videos: int) -> str:
  chosen = [record for record in choose(records, show) if _film(record, films, 'jpg').is_file()]
  if not chosen:
    return ''
  with_video = choose([record for record in chosen if _film(record, films, 'webp').is_file()], videos)
  return f"""
<h2>Episodes</h2>
<p>{count(len(chosen), 'episode')} of {len(records)}: the first successes of each skill, and the first failures of each
reason. The images are inputs of the policy, from left to right, with the number of the step below.</p>
{''.join(_episode(record, films, record in with_video) for record in chosen)}"""


def _episode(record: Record, films: pathlib.Path, with_video: bool) -> str:
  steps = ''.join(f'<span>{html.escape(str(step))}</span>' for step in record['filmstrip'])
  result = 'success' if record['success'] else f'failed: {record["failure"]}, {record["outcome"]}'
  if record['failure'] == 'wrong object' and record['wrong_object']:
    result += f' ({record["wrong_object"]})'
  details = (result, record['split'], record['skill'], f'seed {record["seed"]}', count(record['steps'], 'step'),
             record['message'])
  filmstrip = image(_film(record, films, 'jpg').read_bytes(), 'image/jpeg', 'filmstrip of the episode')
  return f"""
<section class="episode">
<h3>{html.escape(record['instruction'] or 'no instruction')}</h3>
<div class="info">{html.escape(' · '.join(filter(None, details)))}</div>
<div class="filmstrip" style="width:{10 * len(record['filmstrip'])}%">{filmstrip}<div>{steps}</div></div>
{_video(record, films) if with_video else ''}
</section>"""


def _video(record: Record, films: pathlib.Path) -> str:
  video = image(_film(record, films, 'webp').read_bytes(), 'image/webp', 'video of the episode')
  return f'<details open class="video"><summary>Video</summary>{video}</details>'


def _film(record: Record, films: pathlib.Path, suffix: str) -> pathlib.Path:
  path = limits.inside(films, f'{EpisodeId.of(record).name}.{suffix}')
  if path.is_file():
    limits.check_file(path, limits.IMAGE_BYTES)
  return path


def _method(protocol: dict[str, Any]) -> str:
  text = f"""Split, skill and seed determine the start of an episode: scene, task and instruction. The policy takes its
most likely action tokens {number(protocol['control_hz'])} times per simulated second and is reset at the start of each
episode. Success is computed from the state of the simulation, not from images. An episode ends with success or after
{protocol['max_steps']} steps. No seed occurs in the recorded demonstrations. The skills of a split take turns, so that
they have equally many episodes. Episodes in which the simulation or the policy raised an error count as failures."""
  if 'first_seed' not in protocol:
    text = f"""The episodes ran in another program, which logged the data shown here, at
{number(protocol['control_hz'])} steps per second and with at most {protocol['max_steps']} steps."""
  if protocol['threshold']:
    text += f""" In steps with a mean token probability below {number(protocol['threshold'])} the robot was held."""
  return text


def _protocol(report: dict[str, Any]) -> str:
  listed = definition_list({split: seeds(report, split) for split in report['protocol']['splits']})
  text = json.dumps(report['protocol'], indent=1)
  return f"""
<h2>Protocol</h2>
<details><summary>Settings</summary><pre>{html.escape(text)}</pre></details>
<details><summary>Seeds by split, failures in brackets</summary>{listed}</details>"""
