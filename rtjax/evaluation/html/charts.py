"""Charts of a report, as inline SVG in HTML.

The SVG is stretched to the width of the page (lines and dots keep their thickness), while the numbers at its axes
are HTML beside it, so that they keep their size on a telephone as on paper. x counts in steps or bars: item i is at
i + 0.5.
"""
import dataclasses
import html
import math
from collections.abc import Iterable, Sequence

import numpy as np

Point = tuple[float, float]
Values = Sequence[float] | np.ndarray

# A dot for each of more items than this would hide the line.
_MANY = 60


@dataclasses.dataclass(frozen=True)
class Axis:
  """What the vertical extent of a chart means, and the numbers written at it."""
  low: float
  high: float
  ticks: Sequence[float]
  percent: bool = False

  def place(self, value: float) -> float:
    """0 (top) to 100 (bottom)."""
    return round(100 * (self.high - value) / (self.high - self.low), 2)

  def label(self, tick: float) -> str:
    return f'{100 * tick:.0f}\N{NO-BREAK SPACE}%' if self.percent else f'{tick:.4g}'.replace('-', '−')


PERCENT = Axis(0, 1, (0, 0.5, 1), percent=True)


def axis_around(values: np.ndarray, least: float) -> Axis:
  """An axis with a few round ticks that holds all values and spans at least `least`, and some air beyond."""
  low, high = float(values.min()), float(values.max())
  missing = max(0.0, least - (high - low))
  low, high = low - missing / 2, high + missing / 2
  air = 0.08 * (high - low)
  return Axis(low - air, high + air, round_ticks(low - air, high + air))


def class_axis(classes: int) -> Axis:
  """The axis of class numbers."""
  return Axis(-0.3, classes - 0.7, [tick for tick in round_ticks(0, classes - 1) if tick.is_integer()])


def round_ticks(low: float, high: float) -> list[float]:
  """Two to four multiples of 1, 2 or 5 times a power of ten in [low, high]; of 4 where none of these fits."""
  power = 10.0 ** math.floor(math.log10(high - low))
  for step in (power * multiple for multiple in (0.2, 0.5, 0.4, 1, 2, 5, 4)):
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if 1 <= last - first <= 3:
      break
  return [round(i * step, 12) for i in range(first, last + 1)]


def polyline(points: Iterable[Point], axis: Axis, kind: str) -> str:
  """A line through (x, value) points; `kind` is its CSS class."""
  places = ' '.join(f'{x:g},{axis.place(y):g}' for x, y in points)
  return f'<polyline class="line {kind}" points="{places}"/>'


def points(where: Iterable[Point], axis: Axis, kind: str = '') -> str:
  """Dots at (x, value): lines of no length with round ends, which stretching leaves round."""
  return f'<path class="dots {kind}" d="' + ''.join(f'M{x:g} {axis.place(y):g}h0' for x, y in where) + '"/>'


def line(values: Values, axis: Axis, kind: str) -> str:
  """A line through one value per item."""
  return polyline(_items(values), axis, kind)


def dots(values: Values, axis: Axis) -> str:
  """A dot at the value of each item."""
  return points(_items(values), axis)


def bars(values: Values, axis: Axis) -> str:
  places = [axis.place(y) for y in values]
  return ''.join(f'<rect class="bar" x="{x + 0.1:g}" y="{top:g}" width="0.8" height="{100 - top:g}"/>'
                 for x, top in enumerate(places))


def plot(marks: str, axis: Axis, items: int, describe: str) -> str:
  """Marks with a grid behind them and the vertical axis beside them: two cells of a CSS grid."""
  grid = ''.join(polyline([(0, tick), (items, tick)], axis, 'grid') for tick in axis.ticks)
  labels = ''.join(f'<span style="top:{axis.place(tick):g}%">{axis.label(tick)}</span>' for tick in axis.ticks)
  return (f'<div class="y-axis">{labels}</div><svg role="img" aria-label="{html.escape(describe)}" '
          f'viewBox="0 0 {items} 100" preserveAspectRatio="none">{grid}{marks}</svg>')


def step_axis(items: int, title: str) -> str:
  """The horizontal axis below a chart over steps: every step where there is room, else every second, fifth, ..."""
  every = next(step for step in _round_steps() if items <= 12 * step)
  return x_axis([(100 * (step + 0.5) / items, str(step)) for step in range(0, items, every)], title)


def x_axis(ticks: Iterable[tuple[float, str]], title: str) -> str:
  """A horizontal axis with labels at (percent of the width, text)."""
  labels = ''.join(f'<span style="left:{at:.2f}%">{text}</span>' for at, text in ticks)
  return f'<div class="x-axis"><div class="ticks">{labels}</div>{html.escape(title)}</div>'


def key(*entries: tuple[str, str]) -> str:
  """A legend of (kind of line, words)."""
  lines = {kind: f'<path class="line {kind}" d="M0 6h30"/>' for kind in ('recorded', 'baseline', 'policy')}
  lines['policy'] += '<path class="dots" d="M15 6h0"/>'
  lines['wrong'] = lines['policy'] + '<path class="dots hole" d="M15 6h0"/>'
  return '<div class="key">' + ''.join(
      f'<span><svg viewBox="0 0 30 12" aria-hidden="true">{lines[kind]}</svg>{html.escape(words)}</span>'
      for kind, words in entries) + '</div>'


def density(items: int) -> str:
  """The CSS class of charts with so many items, for smaller dots."""
  return ' many' if items > _MANY else ''


def _items(values: Values) -> list[Point]:
  return [(index + 0.5, float(value)) for index, value in enumerate(values)]


def _round_steps() -> Iterable[int]:
  power = 1
  while True:
    yield from (power, 2 * power, 5 * power)
    power *= 10
