"""HTML page of a replay report: figures, episodes (episodes.py), method."""
import html
from collections.abc import Sequence
from typing import Any

from rtjax.actions import ActionSpec
from rtjax.evaluation.replay import episodes
from rtjax.evaluation.replay.replay import Replay
from rtjax.runtime.html import charts
from rtjax.runtime.html.document import Tile, definition_list, document, header, method, tiles
from rtjax.runtime.html.formatting import breakable, count, number, percent, percent_interval, timestamp


def page(report: dict[str, Any], replays: Sequence[Replay], spec: ActionSpec, show: int) -> str:
  """Build the complete HTML file.

  Args:
    report: the content of report.json.
    show: number of episodes with curves and images.
  """
  dataset = report['dataset']
  subtitle = (f'{dataset["name"]}, split {dataset["split"]}: {count(report["episodes"], "episode")}, '
              f'{count(report["steps"], "step")}')
  body = (header('Recorded and predicted actions', subtitle), tiles(_tiles(report)), definition_list(_details(report)),
          _dimensions(report['dimensions']), _overview(report),
          episodes.section(report['by_episode'], replays, spec, show), method(_method(report['model']['horizon'])))
  title = f'{percent(report["accuracy"]["policy"])} of action tokens correct on {dataset["name"]}'
  return document(title, ''.join(body))


def _tiles(report: dict[str, Any]) -> list[Tile]:
  accuracy, confidence, latency = report['accuracy'], report['confidence'], report['latency_ms']
  interval = 'no interval for a single episode'
  if accuracy['interval']:
    interval = f'95 % interval {percent_interval(accuracy["interval"])}'
  return [
      ('policy', percent(accuracy['policy']), f'of action tokens correct<br>{interval}'),
      ('baseline', percent(accuracy['baseline']), 'baseline: always the most frequent token'),
      ('', percent(confidence['mean']),
       f'mean confidence<br>calibration error {percent(confidence["calibration_error"])}'),
      ('', f'{latency["p50"]:.3g} ms', f'latency of a policy step, median<br>95th percentile {latency["p95"]:.3g} ms')]


def _details(report: dict[str, Any]) -> dict[str, str]:
  checkpoint, model, dataset = report['checkpoint'], report['model'], report['dataset']
  config = model['config']
  step = '' if checkpoint['step'] is None else f', step {checkpoint["step"]:,}'
  frames = f'{count(config["window"], "frame")} of {model["image_size"][0]} × {model["image_size"][1]}'
  return {
      'Checkpoint': checkpoint['path'] + step,
      'Model': f'{config["model"]}, {model["parameters"] / 1e6:.3g} M parameters, {frames}, {config["dtype"]}',
      'Dataset': f'{dataset["path"]}, {report["episodes"]} of {count(dataset["episodes_in_split"], "episode")}',
      'Date': timestamp(report['created']),
      'Machine': f'{report["machine"]}, rtjax {report["rtjax"]}'}


def _dimensions(dimensions: Sequence[dict[str, Any]]) -> str:
  names = ('Accuracy', 'Baseline', 'L1 error', 'Baseline L1', 'Confidence', 'Clipped')
  heads = ''.join(f'<th>{name}</th>' for name in names)
  return f"""
<h2>Accuracy by action dimension</h2>
<figure>
<div class="scroll"><table>
<thead><tr><th>Dimension</th><th class="gauge"></th>{heads}</tr></thead>
<tbody>{''.join(map(_dimension, dimensions))}</tbody>
</table></div>
<figcaption>Accuracy: share of predicted tokens that equal the recorded ones. Baseline<span class="gauge"> (orange
mark)</span>: always the dimension’s most frequent token in these episodes. L1 error: mean absolute difference of
predicted and recorded number, in the unit next to the name. Clipped: share of recorded numbers beyond the bounds of the
action spec, which no token represents. Classes have no error and no bounds.</figcaption>
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
<h2>Accuracy by step and by confidence</h2>
{charts.legend(('policy', 'policy'), ('baseline', 'baseline'))}
<div class="pair">{_by_step(report['by_step'])}{_reliability(report['confidence']['bins'])}</div>"""


def _by_step(steps: dict[str, list]) -> str:
  length = len(steps['accuracy'])
  marks = charts.item_line(steps['baseline_accuracy'], charts.PERCENT, 'baseline')
  marks += (charts.item_line(steps['accuracy'], charts.PERCENT, 'policy')
            + charts.item_dots(steps['accuracy'], charts.PERCENT))
  most, fewest = steps['episodes'][0], steps['episodes'][-1]
  lengths = 'All episodes have the same length.'
  if fewest < most:
    lengths = f'{fewest} of {count(most, "episode")} have the last step shown here.'
  return f"""
<figure>
<div class="plots{charts.density_class(length)}">
{charts.plot(marks, charts.PERCENT, length, 'Token accuracy by step of the episode')}
{charts.step_axis(length, 'step of the episode')}
</div>
<figcaption><b>Token accuracy by step.</b> {lengths}</figcaption>
</figure>"""


def _reliability(bins: Sequence[dict[str, Any]]) -> str:
  total = sum(b['tokens'] for b in bins)
  # The unit of a chart's x axis is a bin; a dot lies at the mean confidence of its bin.
  points = [(b['confidence'] * len(bins), b['accuracy']) for b in bins if b['tokens']]
  marks = (charts.bars([b['tokens'] / total for b in bins], charts.PERCENT)
           + charts.polyline([(0, 0), (len(bins), 1)], charts.PERCENT, 'ideal')
           + charts.polyline(points, charts.PERCENT, 'policy') + charts.dots(points, charts.PERCENT))
  ticks = [(share, f'{share}\N{NO-BREAK SPACE}%') for share in (0, 25, 50, 75, 100)]
  return f"""
<figure>
<div class="plots">
{charts.plot(marks, charts.PERCENT, len(bins), 'Token accuracy by confidence')}
{charts.x_axis(ticks, 'confidence')}
</div>
<figcaption><b>Token accuracy by confidence</b>, the probability of the predicted token (reliability diagram). A
calibrated policy follows the dotted line. Grey bars: share of the tokens in each bin.</figcaption>
</figure>"""


def _method(horizon: int) -> str:
  plan = f' The first of the {horizon} actions that are predicted at each step is compared.' if horizon > 1 else ''
  return f"""The policy receives an episode frame by frame, as on a robot, and keeps its last frames. Its most likely
tokens are compared with those of the recorded action. The past frames are the recorded ones at every step, so this
measures how well single actions are predicted, not how often the robot would succeed.{plan} The interval is a bootstrap
over episodes. The baseline is computed from the evaluated episodes themselves, so that no other constant prediction has
a higher accuracy. Calibration error: mean difference of accuracy and confidence over ten bins of confidence (Guo et al.
2017). Latency is the time from image to action, without decoding and compilation."""
