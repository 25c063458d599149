"""Episodes on the page of a replay report: images above action curves."""
import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.evaluation.replay.replay import Replay, token_dimensions
from rtjax.runtime.html import charts
from rtjax.runtime.html.document import image
from rtjax.runtime.html.formatting import count, percent

# An axis spans at least this many bins of a number, so that a rounding error to the nearest token stays small.
_MIN_BINS = 20


def section(figures: Sequence[dict[str, Any]], replays: Sequence[Replay], spec: ActionSpec, show: int) -> str:
  """Build the section with the best, median and worst episodes.

  Args:
    figures: 'by_episode' of the report, one per replay.
    show: number of episodes.
  """
  chosen = choose([figure['accuracy'] for figure in figures], show)
  if not chosen:
    return ''
  axes = _common_axes([replays[i] for _, i in chosen], spec)
  legend = charts.legend(('recorded', 'recorded'), ('policy', 'predicted, correct token'),
                         ('wrong', 'predicted, wrong token'))
  blocks = ''.join(_episode(group, figures[i], replays[i], spec, axes) for group, i in chosen)
  return f"""
<h2>Episodes</h2>
<p>{_selection([group for group, _ in chosen], len(replays))} The vertical axis of a dimension is the same in all
episodes. The number below an image is its step.</p>
{legend}{blocks}"""


def choose(accuracy: Sequence[float], show: int) -> list[tuple[str, int]]:
  """Return (group, index) of the episodes to show, by falling accuracy.

  If there are more than `show`, they are the best, median and worst ones.
  """
  order = sorted(range(len(accuracy)), key=lambda i: (-accuracy[i], i))
  if len(order) <= show:
    return [('', i) for i in order]
  best, worst = (show + 2) // 3, (show + 1) // 3
  median = show - best - worst
  start = min(max((len(order) - median) // 2, best), len(order) - worst - median)
  return ([('best', i) for i in order[:best]] + [('median', i) for i in order[start:start + median]]
          + [('worst', i) for i in order[len(order) - worst:]])


def _selection(groups: Sequence[str], total: int) -> str:
  hidden = total - len(groups)
  if not hidden:
    return f'All {count(total, "episode")}, by falling token accuracy.'
  shown = ', '.join(f'{groups.count(group)} {group}' for group in ('best', 'median', 'worst') if group in groups)
  return (f'Shown: {shown} of {count(total, "episode")} by token accuracy; {count(hidden, "episode")} not shown. '
          'The figures of all are in report.json.')


def _episode(group: str, figures: dict[str, Any], replay: Replay, spec: ActionSpec,
             axes: Sequence[charts.Axis]) -> str:
  recorded, predicted = _curves(replay.recorded, spec), _curves(replay.predicted, spec)
  frames = ''.join(f'<figure>{image(jpeg, "image/jpeg", f"step {step}")}{step}</figure>'
                   for step, jpeg in replay.frames)
  rows = ''.join(_row(name, unit, axis, *curves) for name, unit, axis, *curves in zip(
      spec.token_names, _units(spec), axes, recorded.T, predicted.T, replay.correct.T, strict=True))
  details = (group, f'{percent(figures["accuracy"])} of tokens correct',
             f'baseline {percent(figures["baseline_accuracy"])}', count(len(replay), 'step'))
  return f"""
<section class="episode" id="episode-{replay.number}">
<h3>Episode {replay.number}: {html.escape(replay.instruction or 'no instruction')}</h3>
<div class="info">{' · '.join(filter(None, details))}</div>
<div class="plots{charts.density_class(len(replay))}">
<div class="frames">{frames}</div>{rows}
{charts.step_axis(len(replay), 'step')}
</div>
</section>"""


def _row(name: str, unit: str, axis: charts.Axis, recorded: np.ndarray, predicted: np.ndarray,
         correct: np.ndarray) -> str:
  wrong = [(step + 0.5, float(predicted[step])) for step in np.flatnonzero(~correct)]
  marks = (charts.item_line(recorded, axis, 'recorded') + charts.item_line(predicted, axis, 'policy')
           + charts.item_dots(predicted, axis) + charts.dots(wrong, axis, 'hollow'))
  return (f'<div class="name">{html.escape(name)}<small>{html.escape(unit)}</small></div>'
          + charts.plot(marks, axis, len(recorded), f'{name}, recorded and predicted'))


def _units(spec: ActionSpec) -> list[str]:
  return ['class' if dimension is None else spec.dimension_units[dimension] for dimension in token_dimensions(spec)]


def _curves(actions: np.ndarray, spec: ActionSpec) -> np.ndarray:
  """Convert actions [steps, A] to numbers and class indices [steps, K]."""
  parts = zip(spec.fields, spec.unpack(actions).values(), strict=True)
  return np.concatenate([part.argmax(-1)[:, None] if field.kind == 'classes' else part for field, part in parts], -1)


def _common_axes(replays: Sequence[Replay], spec: ActionSpec) -> list[charts.Axis]:
  """Return one vertical axis per token, for all shown episodes."""
  values = np.concatenate([_curves(a, spec) for replay in replays for a in (replay.recorded, replay.predicted)])
  axes: list[charts.Axis] = []
  for field in spec.fields:
    if field.kind == 'classes':
      axes.append(charts.class_axis(field.bins))
      continue
    for extent in np.subtract(field.high, field.low):
      axes.append(charts.value_axis(values[:, len(axes)], _MIN_BINS * extent / (field.bins - 1)))
  return axes
