"""Charts of a report, as inline SVG in HTML.

The SVG stretches to the width of the page; lines and dots keep their thickness. Numbers at the axes are HTML beside
the SVG, so that their size is the same on phones and on paper. The x coordinate counts items (steps or bars): item i
lies at i + 0.5.
"""
import dataclasses
import html
import math
from collections.abc import Iterable, Sequence

import numpy as np

Point = tuple[float, float]
Values = Sequence[float] | np.ndarray

# With more items than this, dots of the usual size would hide the line.
_DENSE = 60


@dataclasses.dataclass(frozen=True)
class Axis:
  """Range of a vertical axis and its ticks."""
  low: float
  high: float
  ticks: Sequence[float]
  percent: bool = False

  def position(self, value: float) -> float:
    """Return the vertical position of a value, 0 (top) to 100 (bottom)."""
    return round(100 * (self.high - value) / (self.high - self.low), 2)

  def label(self, tick: float) -> str:
    return f'{100 * tick:.0f}\N{NO-BREAK SPACE}%' if self.percent else f'{tick:.4g}'.replace('-', '−')


PERCENT = Axis(0, 1, (0, 0.5, 1), percent=True)


def value_axis(values: np.ndarray, min_span: float) -> Axis:
  """Return an axis around all values that spans at least `min_span`."""
  low, high = float(values.min()), float(values.max())
  missing = max(0.0, min_span - (high - low))
  low, high = low - missing / 2, high + missing / 2
  margin = 0.08 * (high - low)
  return Axis(low - margin, high + margin, round_ticks(low - margin, high + margin))


def class_axis(classes: int) -> Axis:
  """Return an axis for class indices."""
  return Axis(-0.3, classes - 0.7, [tick for tick in round_ticks(0, classes - 1) if tick.is_integer()])


def round_ticks(low: float, high: float) -> list[float]:
  """Return two to four round numbers in [low, high].

  They are multiples of 1, 2 or 5 times a power of ten, or of 4 times one if none of these fits.
  """
  power = 10.0 ** math.floor(math.log10(high - low))
  for step in (power * multiple for multiple in (0.2, 0.5, 0.4, 1, 2, 5, 4)):
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if 1 <= last - first <= 3:
      break
  return [round(i * step, 12) for i in range(first, last + 1)]


def polyline(points: Iterable[Point], axis: Axis, kind: str) -> str:
  """Draw a line through (x, value) points; `kind` is its CSS class."""
  coordinates = ' '.join(f'{x:g},{axis.position(y):g}' for x, y in points)
  return f'<polyline class="line {kind}" points="{coordinates}"/>'


def vertical_line(x: float, kind: str) -> str:
  """Draw a line over the height of a plot."""
  return f'<polyline class="line {kind}" points="{x:g},0 {x:g},100"/>'


def dots(points: Iterable[Point], axis: Axis, kind: str = '') -> str:
  """Draw dots at (x, value) points.

  Each is a line of zero length with round caps, which stays round when the SVG stretches.
  """
  return f'<path class="dots {kind}" d="' + ''.join(f'M{x:g} {axis.position(y):g}h0' for x, y in points) + '"/>'


def item_line(values: Values, axis: Axis, kind: str) -> str:
  """Draw a line through one value per item."""
  return polyline(_items(values), axis, kind)


def item_dots(values: Values, axis: Axis) -> str:
  """Draw a dot at the value of each item."""
  return dots(_items(values), axis)


def bars(values: Values, axis: Axis) -> str:
  tops = [axis.position(y) for y in values]
  return ''.join(f'<rect class="bar" x="{x + 0.1:g}" y="{top:g}" width="0.8" height="{100 - top:g}"/>'
                 for x, top in enumerate(tops))


def plot(marks: str, axis: Axis, items: int, description: str) -> str:
  """Combine marks, grid lines and a vertical axis (two CSS grid cells)."""
  grid = ''.join(polyline([(0, tick), (items, tick)], axis, 'grid') for tick in axis.ticks)
  labels = ''.join(f'<span style="top:{axis.position(tick):g}%">{axis.label(tick)}</span>' for tick in axis.ticks)
  return (f'<div class="y-axis">{labels}</div><svg role="img" aria-label="{html.escape(description)}" '
          f'viewBox="0 0 {items} 100" preserveAspectRatio="none">{grid}{marks}</svg>')


def step_axis(items: int, title: str) -> str:
  """Draw a horizontal axis over steps, at most 12 of them labelled."""
  every = next(step for step in _round_steps() if items <= 12 * step)
  return x_axis([(100 * (step + 0.5) / items, str(step)) for step in range(0, items, every)], title)


def x_axis(ticks: Iterable[tuple[float, str]], title: str) -> str:
  """Draw a horizontal axis with labels at (percent of the width, text)."""
  labels = ''.join(f'<span style="left:{left:.2f}%">{text}</span>' for left, text in ticks)
  return f'<div class="x-axis"><div class="ticks">{labels}</div>{html.escape(title)}</div>'


def legend(*entries: tuple[str, str]) -> str:
  """Draw a legend of (kind of line, text) entries."""
  lines = {kind: f'<path class="line {kind}" d="M0 6h30"/>' for kind in ('recorded', 'baseline', 'policy')}
  lines['policy'] += '<path class="dots" d="M15 6h0"/>'
  lines['wrong'] = lines['policy'] + '<path class="dots hollow" d="M15 6h0"/>'
  return '<div class="legend">' + ''.join(
      f'<span><svg viewBox="0 0 30 12" aria-hidden="true">{lines[kind]}</svg>{html.escape(text)}</span>'
      for kind, text in entries) + '</div>'


def density_class(items: int) -> str:
  """Return the CSS class that makes the dots of many items smaller."""
  return ' dense' if items > _DENSE else ''


def _items(values: Values) -> list[Point]:
  return [(index + 0.5, float(value)) for index, value in enumerate(values)]


def _round_steps() -> Iterable[int]:
  power = 1
  while True:
    yield from (power, 2 * power, 5 * power)
    power *= 10
