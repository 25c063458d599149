"""The part of a report that shows episodes: pictures above curves, over the same steps."""
import base64
import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.evaluation.html import charts
from rtjax.evaluation.html.formatting import count, percent
from rtjax.evaluation.replay.replay import Replay, token_numbers

# An axis spans at least as many bins of a number.
_LEAST_BINS = 20


def section(figures: Sequence[dict[str, Any]], replays: Sequence[Replay], spec: ActionSpec, show: int) -> str:
  """The best, median and worst episodes, `show` in all; `figures` are the report's, one per replay."""
  chosen = choose([figure['accuracy'] for figure in figures], show)
  if not chosen:
    return ''
  axes = _common_axes([replays[i] for _, i in chosen], spec)
  key = charts.key(
      ('recorded', 'recorded'), ('policy', 'predicted, right token'), ('wrong', 'predicted, wrong token'))
  blocks = ''.join(_episode(group, figures[i], replays[i], spec, axes) for group, i in chosen)
  return f"""
<h2>Episodes</h2>
<p>{_selection([group for group, _ in chosen], len(replays))} Each dimension has the same vertical axis in all of
them. A picture shows the step numbered below it.</p>
{key}{blocks}"""


def choose(accuracy: Sequence[float], show: int) -> list[tuple[str, int]]:
  """(group, index) of the episodes to show, best first: all if they are few, else the best, median and worst ones."""
  order = sorted(range(len(accuracy)), key=lambda i: (-accuracy[i], i))
  if len(order) <= show:
    return [('', i) for i in order]
  best, worst = (show + 2) // 3, (show + 1) // 3
  median = show - best - worst
  start = min(max((len(order) - median) // 2, best), len(order) - worst - median)
  return ([('best', i) for i in order[:best]] + [('median', i) for i in order[start:start + median]]
          + [('worst', i) for i in order[len(order) - worst:]])


def _selection(groups: Sequence[str], total: int) -> str:
  left_out = total - len(groups)
  if not left_out:
    return f'All {count(total, "episode")}, by falling token accuracy.'
  kinds = ', '.join(f'{groups.count(kind)} {kind}' for kind in ('best', 'median', 'worst') if kind in groups)
  return (f'Of {count(total, "episode")} by token accuracy: {kinds}. {count(left_out, "episode")} not shown; '
          'the figures of all are in report.json.')


def _episode(group: str, figures: dict[str, Any], replay: Replay, spec: ActionSpec,
             axes: Sequence[charts.Axis]) -> str:
  recorded, predicted = _curves(replay.recorded, spec), _curves(replay.predicted, spec)
  film = ''.join(_picture(*frame) for frame in replay.frames)
  rows = ''.join(_row(name, unit, axis, *curves) for name, unit, axis, *curves in zip(
      spec.token_names, _units(spec), axes, recorded.T, predicted.T, replay.right.T, strict=True))
  facts = (group, f'{percent(figures["accuracy"])} of tokens right',
           f'baseline {percent(figures["baseline_accuracy"])}', count(len(replay), 'step'))
  return f"""
<section class="episode" id="episode-{replay.number}">
<h3>Episode {replay.number}: {html.escape(replay.instruction or 'no instruction')}</h3>
<div class="facts">{' · '.join(filter(None, facts))}</div>
<div class="plots{charts.density(len(replay))}">
<div class="film">{film}</div>{rows}
{charts.step_axis(len(replay), 'step')}
</div>
</section>"""


def _row(name: str, unit: str, axis: charts.Axis, recorded: np.ndarray, predicted: np.ndarray,
         right: np.ndarray) -> str:
  wrong = [(step + 0.5, float(predicted[step])) for step in np.flatnonzero(~right)]
  marks = (charts.line(recorded, axis, 'recorded') + charts.line(predicted, axis, 'policy')
           + charts.dots(predicted, axis) + charts.points(wrong, axis, 'hole'))
  return (f'<div class="name">{html.escape(name)}<small>{html.escape(unit)}</small></div>'
          + charts.plot(marks, axis, len(recorded), f'{name}, recorded and predicted'))


def _units(spec: ActionSpec) -> list[str]:
  return ['class' if number is None else spec.number_units[number] for number in token_numbers(spec)]


def _curves(actions: np.ndarray, spec: ActionSpec) -> np.ndarray:
  """What is drawn, [L, A] to [L, K]: numbers in their unit, or the class."""
  parts = zip(spec.fields, spec.unpack(actions).values(), strict=True)
  return np.concatenate([part.argmax(-1)[:, None] if field.kind == 'classes' else part for field, part in parts], -1)


def _common_axes(replays: Sequence[Replay], spec: ActionSpec) -> list[charts.Axis]:
  """One vertical axis per token, for all episodes shown, that makes no mountain of a rounding to the nearest token."""
  values = np.concatenate([_curves(a, spec) for replay in replays for a in (replay.recorded, replay.predicted)])
  axes: list[charts.Axis] = []
  for field in spec.fields:
    if field.kind == 'classes':
      axes.append(charts.class_axis(field.bins))
      continue
    for extent in np.subtract(field.high, field.low):
      axes.append(charts.axis_around(values[:, len(axes)], _LEAST_BINS * extent / (field.bins - 1)))
  return axes


def _picture(step: int, jpeg: bytes) -> str:
  data = base64.b64encode(jpeg).decode()
  return f'<figure><img alt="step {step}" src="data:image/jpeg;base64,{data}">{step}</figure>'
