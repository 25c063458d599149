"""The page of a replay report: its figures first, then episodes (episodes.py), then how it was measured."""
import html
from collections.abc import Sequence
from typing import Any

from rtjax.actions import ActionSpec
from rtjax.evaluation.html import charts
from rtjax.evaluation.html.formatting import breakable, count, number, percent
from rtjax.evaluation.html.style import document
from rtjax.evaluation.replay import episodes
from rtjax.evaluation.replay.replay import Replay


def page(report: dict[str, Any], replays: Sequence[Replay], spec: ActionSpec, show: int) -> str:
  """The whole HTML file; `show` of the episodes get curves and pictures."""
  title = f'{percent(report["accuracy"]["policy"])} of action tokens right on {report["dataset"]["name"]}'
  body = (_head(report), _tiles(report), _facts(report), _dimensions(report['dimensions']), _overview(report),
          episodes.section(report['by_episode'], replays, spec, show), _method(report['model']['horizon']))
  return document(title, ''.join(body))


def _head(report: dict[str, Any]) -> str:
  dataset = report['dataset']
  size = f'{count(report["episodes"], "episode")}, {count(report["steps"], "step")}'
  return f"""
<header>
<h1>Recorded against predicted actions</h1>
<p class="subtitle">{html.escape(dataset['name'])}, split {html.escape(dataset['split'])}: {size}</p>
</header>"""


def _tiles(report: dict[str, Any]) -> str:
  accuracy, confidence, latency = report['accuracy'], report['confidence'], report['latency_ms']
  interval = accuracy['interval']
  between = 'one episode, so no interval'
  if interval:
    between = f'95 % interval {percent(interval[0])} to {percent(interval[1])}'
  tiles = [
      ('policy', percent(accuracy['policy']), f'of action tokens right<br>{between}'),
      ('baseline', percent(accuracy['baseline']), 'baseline: always the most frequent token'),
      ('', percent(confidence['mean']),
       f'mean confidence<br>calibration error {percent(confidence["calibration_error"])}'),
      ('', f'{latency["p50"]:.3g} ms', f'a policy step, median<br>95th percentile {latency["p95"]:.3g} ms')]
  return '<div class="tiles">' + ''.join(
      f'<div class="tile {kind}"><b>{value}</b>{words}</div>' for kind, value, words in tiles) + '</div>'


def _facts(report: dict[str, Any]) -> str:
  checkpoint, model, dataset = report['checkpoint'], report['model'], report['dataset']
  config = model['config']
  step = '' if checkpoint['step'] is None else f', step {checkpoint["step"]:,}'
  shape = f'{count(config["window"], "frame")} of {model["image_size"][0]} × {model["image_size"][1]}'
  facts = {
      'Checkpoint': checkpoint['path'] + step,
      'Model': f'{config["model"]}, {model["parameters"] / 1e6:.3g} M parameters, {shape}, {config["dtype"]}',
      'Dataset': f'{dataset["path"]}, {report["episodes"]} of {count(dataset["episodes_in_split"], "episode")}',
      'Date': report['created'].replace('T', ' ').replace('+00:00', ' UTC'),
      'Machine': f'{report["machine"]}, rtjax {report["rtjax"]}'}
  return '<dl>' + ''.join(f'<dt>{name}</dt><dd>{html.escape(value)}</dd>' for name, value in facts.items()) + '</dl>'


def _dimensions(dimensions: Sequence[dict[str, Any]]) -> str:
  names = ('Accuracy', 'Baseline', 'L1 error', 'Baseline', 'Confidence', 'Clipped')
  heads = ''.join(f'<th>{name}</th>' for name in names)
  return f"""
<h2>By action dimension</h2>
<figure>
<div class="scroll"><table>
<thead><tr><th>Dimension</th><th class="gauge"></th>{heads}</tr></thead>
<tbody>{''.join(map(_dimension, dimensions))}</tbody>
</table></div>
<figcaption>Accuracy: share of tokens predicted as recorded. Baseline<span class="gauge"> (orange mark)</span>: always
the dimension’s most frequent token of these episodes. L1 error: mean absolute difference of predicted and recorded
number, in the unit beside the name. Clipped: share of recorded numbers beyond the bounds of the action spec, which no
token can express. Classes have no error and no bounds.</figcaption>
</figure>"""


def _dimension(d: dict[str, Any]) -> str:
  accuracy, baseline = percent(d['accuracy']), percent(d['baseline_accuracy'])
  gauge = (f'<div role="img" aria-label="{accuracy}, baseline {baseline}">'
           f'<i style="width:{100 * d["accuracy"]:.2f}%"></i>'
           f'<b style="left:{100 * d["baseline_accuracy"]:.2f}%"></b></div>')
  cells = (accuracy, baseline, number(d['l1']), number(d['baseline_l1']),
           percent(d['confidence']), percent(d['clipped']))
  return (f'<tr><td>{breakable(d["name"])} <small>{html.escape(d["unit"])}</small></td>'
          f'<td class="gauge">{gauge}</td>' + ''.join(f'<td>{cell}</td>' for cell in cells) + '</tr>')


def _overview(report: dict[str, Any]) -> str:
  return f"""
<h2>By time and by confidence</h2>
{charts.key(('policy', 'policy'), ('baseline', 'baseline'))}
<div class="pair">{_by_step(report['steps_of_episode'])}{_reliability(report['confidence']['bins'])}</div>"""


def _by_step(steps: dict[str, list]) -> str:
  length = len(steps['accuracy'])
  marks = charts.line(steps['baseline_accuracy'], charts.PERCENT, 'baseline')
  marks += charts.line(steps['accuracy'], charts.PERCENT, 'policy') + charts.dots(steps['accuracy'], charts.PERCENT)
  most, fewest = steps['episodes'][0], steps['episodes'][-1]
  reach = 'All episodes are equally long.'
  if fewest < most:
    reach = f'{fewest} of {count(most, "episode")} reach the last step here.'
  return f"""
<figure>
<div class="plots{charts.density(length)}">
{charts.plot(marks, charts.PERCENT, length, 'Token accuracy by step of the episode')}
{charts.step_axis(length, 'step of the episode')}
</div>
<figcaption><b>Token accuracy by step.</b> {reach}</figcaption>
</figure>"""


def _reliability(bins: Sequence[dict[str, Any]]) -> str:
  total = sum(b['tokens'] for b in bins)
  # Charts count in bins: a dot lies at the mean confidence of its own.
  points = [(b['confidence'] * len(bins), b['accuracy']) for b in bins if b['tokens']]
  marks = (charts.bars([b['tokens'] / total for b in bins], charts.PERCENT)
           + charts.polyline([(0, 0), (len(bins), 1)], charts.PERCENT, 'ideal')
           + charts.polyline(points, charts.PERCENT, 'policy') + charts.points(points, charts.PERCENT))
  ticks = [(share, f'{share}\N{NO-BREAK SPACE}%') for share in (0, 25, 50, 75, 100)]
  return f"""
<figure>
<div class="plots">
{charts.plot(marks, charts.PERCENT, len(bins), 'Token accuracy by confidence')}
{charts.x_axis(ticks, 'confidence')}
</div>
<figcaption><b>Token accuracy by confidence</b>, the probability of the token chosen. A calibrated policy follows the
dotted line. Grey: share of the tokens in each tenth.</figcaption>
</figure>"""


def _method(horizon: int) -> str:
  plan = f' Of the {horizon} actions that it plans at each step, the first is compared.' if horizon > 1 else ''
  return f"""
<h2>How this was measured</h2>
<p class="method">The policy sees an episode frame by frame, as at a robot, and remembers its last frames; its most
likely tokens are compared with those of the recorded action. The past is the recorded one at every step, so this tells
how well single actions are predicted, not how often the robot would succeed.{plan} The interval is a bootstrap over
episodes. The baseline is drawn from the very episodes it is judged on: nothing that always acts the same gets more
tokens right. Calibration error: mean distance of accuracy and confidence over ten bins of confidence (Guo et al. 2017).
Latency is measured from picture to action, without decoding and compilation.</p>"""
