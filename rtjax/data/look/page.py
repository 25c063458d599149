"""HTML page of a dataset."""
import html
from collections.abc import Sequence

import numpy as np

from rtjax.data.look.summary import ShownEpisode, Summary
from rtjax.runtime.html import charts
from rtjax.runtime.html.document import Tile, definition_list, document, header, image, method, tiles
from rtjax.runtime.html.formatting import count, number, percent
from rtjax.runtime.html.tables import Table
from rtjax.runtime.numbers import unusable

_BINS = 48
_INSTRUCTIONS = 40  # rows of the table
_OPEN = 10  # numbers of a state whose curves are shown at once
_MARGIN = 0.15  # of a histogram beyond the bounds


def page(summary: Summary) -> str:
  """Build the complete HTML file; every text of the data is escaped."""
  name = summary.dataset.adapter.name
  subtitle = (f'{count(len(summary.lengths), "episode")} of split {summary.dataset.split}, '
              f'{count(int(summary.lengths.sum()), "step")}')
  body = (header(name, subtitle), tiles(_tiles(summary)), definition_list(_details(summary)), _findings(summary),
          _instructions(summary), _lengths(summary), _actions(summary), _state(summary), _episodes(summary),
          method(_METHOD))
  return document(f'{name}: {subtitle}', ''.join(body))


def _tiles(summary: Summary) -> list[Tile]:
  steps = int(summary.lengths.sum())
  clipped = summary.spec.clipped(summary.actions)
  return [
      ('', f'{len(summary.lengths):,}', f'episodes<br>{steps:,} steps'),
      ('', f'{len(summary.instructions):,}', 'different instructions'),
      ('baseline' if clipped.mean(0).max() > 0.01 else '', percent(float(clipped.any(-1).mean())),
       'of steps reach beyond the bounds,<br>where training clips'),
      ('', percent(summary.idle.sum() / steps),
       f'of steps do nothing<br>{percent(summary.still.sum() / steps)} do not move')]


def _details(summary: Summary) -> dict[str, str]:
  dataset, total = summary.dataset, summary.dataset.num_records
  sizes = {camera: 'of several sizes' if size is None else f'{size[0]} × {size[1]}'
           for camera, size in summary.cameras.items()}
  read = len(summary.lengths)
  part = '' if total == read else f'; {read:,} of the {total:,} of {dataset.split}, evenly spaced, are read'
  return {
      'Dataset': dataset.name,
      'Splits': ', '.join(f'{name} {size:,}' for name, size in summary.splits.items()) + part,
      'Cameras': ', '.join(f'{camera} {size}' for camera, size in sizes.items()),
      'State': 'none' if summary.state is None else f'{dataset.proprioception}, {summary.state.shape[1]} numbers',
      'Action fields': ', '.join(summary.spec.names),
      'Embeddings': f'{dataset.embedding_id}, {dataset.embedding_size} numbers' if dataset.embedding_size else 'none'}


def _findings(summary: Summary) -> str:
  if not summary.findings:
    return ''
  items = ''.join(f'<li>{html.escape(finding)}</li>' for finding in summary.findings)
  return f'\n<h2>Findings</h2>\n<ul>{items}</ul>'


def _instructions(summary: Summary) -> str:
  rows = [(text or '(empty)', f'{episodes:,}') for text, episodes in summary.instructions.most_common(_INSTRUCTIONS)]
  hidden = len(summary.instructions) - len(rows)
  note = f'The most frequent of {len(summary.instructions):,}; {hidden:,} are not shown.' if hidden else ''
  return Table('Instructions', ('Instruction', 'Episodes'), rows, note).html()


def _episodes(summary: Summary) -> str:
  if not summary.shown:
    return ''
  names, units = summary.spec.dimension_names, summary.spec.dimension_units
  low, high = summary.spec.bounds
  axes = _axes([shown.episode.actions for shown in summary.shown], (high - low) / 10)
  state_axes = [] if summary.state is None else _axes([e.episode.proprioception for e in summary.shown], None)
  blocks = []
  for shown in summary.shown:
    curves = ''.join(_row(*row) for row in zip(names, units, axes, shown.episode.actions.T, low, high, strict=True))
    blocks.append(_episode(shown, curves, state_axes))
  return f"""
<h2>Episodes</h2>
<p>{count(len(summary.shown), 'episode')}, evenly spaced. A number has the same vertical axis in all of them; the number
below an image is its step.</p>
{charts.legend(('policy', 'recorded'), ('baseline', 'bound of the action'))}{''.join(blocks)}"""


def _episode(shown: ShownEpisode, curves: str, state_axes: Sequence[charts.Axis]) -> str:
  episode, length = shown.episode, len(shown.episode)
  texts = dict.fromkeys(episode.instructions if episode.paraphrases is None else episode.paraphrases[0])
  title = f'Episode {episode.number}: {" / ".join(list(texts)[:3]) or "no instruction"}'
  if not length:
    return f'<section class="episode"><h3>{html.escape(title)}</h3><div class="info">no steps</div></section>'
  density = charts.density_class(length)
  strips = ''.join(f'<div class="name">{html.escape(camera)}</div><div class="frames">{_frames(camera, frames)}</div>'
                   for camera, frames in shown.frames.items())
  state = ''
  if state_axes and episode.proprioception is not None:
    rows = ''.join(_row(f'state[{i}]', '', axis, values)
                   for i, (axis, values) in enumerate(zip(state_axes, episode.proprioception.T, strict=True)))
    state = (f'<details{" open" if len(state_axes) <= _OPEN else ""}><summary>Robot state</summary>'
             f'<div class="plots{density}">{rows}{charts.step_axis(length, "step")}</div></details>')
  return f"""
<section class="episode">
<h3>{html.escape(title)}</h3>
<div class="info">{count(length, 'step')}</div>
<div class="plots{density}">
{strips}{curves}
{charts.step_axis(length, 'step')}
</div>{state}
</section>"""


def _frames(camera: str, frames: Sequence[tuple[int, bytes]]) -> str:
  return ''.join(f'<figure>{image(content, "image/jpeg", f"{camera}, step {step}")}{step}</figure>'
                 for step, content in frames)


def _row(name: str, unit: str, axis: charts.Axis, values: np.ndarray, *bounds: float) -> str:
  points = [(step + 0.5, float(values[step])) for step in np.flatnonzero(~unusable(values))]
  lines = ''.join(charts.polyline([(0, bound), (len(values), bound)], axis, 'baseline')
                  for bound in bounds if axis.low <= bound <= axis.high)
  return (f'<div class="name">{html.escape(name)}<small>{html.escape(unit)}</small></div>'
          + charts.plot(lines + charts.polyline(points, axis, 'policy'), axis, len(values), name))


def _axes(parts: Sequence[np.ndarray | None], spans: np.ndarray | None) -> list[charts.Axis]:
  """Return an axis of at least a span for each column."""
  values = np.concatenate([part for part in parts if part is not None])
  columns = [column[~unusable(column)] for column in values.T]
  columns = [column if len(column) else np.zeros(1) for column in columns]
  if spans is None:
    spans = np.array([max(1e-3, 0.01 * float(np.abs(column).max())) for column in columns])
  return [charts.value_axis(column, float(span)) for column, span in zip(columns, spans, strict=True)]


def _actions(summary: Summary) -> str:
  spec = summary.spec
  low, high = spec.bounds
  clipped = spec.clipped(summary.actions).mean(0)
  rows = [(f'{name} {unit}'.strip(), *_quantiles(column), number(a), number(b), percent(share))
          for name, unit, column, a, b, share in zip(
              spec.dimension_names, spec.dimension_units, summary.actions.T, low, high, clipped, strict=True)]
  head = ('Number', *_QUANTILES, 'Low', 'High', 'Clipped')
  table = Table('Actions', head, rows, 'Low and high are the bounds of the ActionSpec. Clipped: share of the steps '
                'beyond them; training refuses more than 1 %.').html()
  figures = ''.join(_histogram(name, unit, column, (a, b)) for name, unit, column, a, b in zip(
      spec.dimension_names, spec.dimension_units, summary.actions.T, low, high, strict=True))
  return f'{table}<div class="pair">{figures}</div>'


def _state(summary: Summary) -> str:
  if summary.state is None:
    return ''
  names = [f'state[{i}]' for i in range(summary.state.shape[1])]
  rows = [(name, *_quantiles(column)) for name, column in zip(names, summary.state.T, strict=True)]
  figures = ''.join(_histogram(name, '', column, ()) for name, column in zip(names, summary.state.T, strict=True))
  return Table('Robot state', ('Number', *_QUANTILES), rows).html() + f'<div class="pair">{figures}</div>'


_QUANTILES = ('Min', '1 %', 'Mean', '99 %', 'Max')


def _quantiles(column: np.ndarray) -> list[str]:
  usable = column[~unusable(column)].astype(np.float64)
  if not len(usable):
    return [number(None)] * len(_QUANTILES)
  q01, q99 = np.quantile(usable, (0.01, 0.99))
  return [number(float(value)) for value in (usable.min(), q01, usable.mean(), q99, usable.max())]


def _histogram(name: str, unit: str, column: np.ndarray, bounds: Sequence[float]) -> str:
  """Draw the distribution of a number; the outermost bars hold all beyond."""
  usable = column[~unusable(column)]
  if not len(usable):
    return ''
  low, high = bounds or np.quantile(usable, (0.005, 0.995))
  span = (high - low) or max(1e-3, 0.1 * abs(high))
  first, last = float(low - _MARGIN * span), float(high + _MARGIN * span)
  counts, _ = np.histogram(np.clip(usable, first, last), _BINS, (first, last))
  marks = ''.join(charts.vertical_line(_BINS * (bound - first) / (last - first), 'baseline') for bound in bounds)
  ticks = [(100 * (tick - first) / (last - first), f'{tick:.4g}'.replace('-', '−'))
           for tick in charts.round_ticks(first, last)]
  return _bars(counts / len(usable), ticks, f'{name} {unit}'.strip(), marks)


def _bars(shares: np.ndarray, ticks: Sequence[tuple[float, str]], title: str, marks: str = '') -> str:
  top = 1.05 * float(shares.max())
  axis = charts.Axis(0, top, charts.round_ticks(0, top), percent=True)
  return f"""
<figure>
<div class="plots">
{charts.plot(charts.bars(shares, axis) + marks, axis, len(shares), title)}
{charts.x_axis(ticks, title)}
</div>
</figure>"""


def _lengths(summary: Summary) -> str:
  lengths = summary.lengths
  shortest, longest = int(lengths.min()), int(lengths.max())
  room = max(0, 5 - (longest - shortest))  # so that a bar is not as wide as the figure
  counts, edges = np.histogram(lengths, min(_BINS, longest - shortest + 2 * room + 1),
                               (shortest - room - 0.5, longest + room + 0.5))
  span = edges[-1] - edges[0]
  ticks = [(100 * (tick - edges[0]) / span, f'{tick:g}') for tick in _whole_ticks(edges[0], edges[-1])]
  idle, _ = np.histogram(summary.idle / np.maximum(lengths, 1), 20, (0, 1))
  percents = [(share, f'{share}\N{NO-BREAK SPACE}%') for share in (0, 25, 50, 75, 100)]
  return f"""
<h2>Lengths and idle steps</h2>
<p>Episodes have {shortest:,} to {longest:,} steps, {float(np.median(lengths)):g} in the median.
{int(summary.idle.sum()):,} steps do nothing, {int(summary.still.sum()):,} do not move. Bars: share of the episodes.</p>
<div class="pair">{_bars(counts / len(lengths), ticks, 'steps of an episode')}
{_bars(idle / len(lengths), percents, 'steps of an episode that do nothing')}</div>"""


def _whole_ticks(low: float, high: float) -> list[float]:
  return [tick for tick in charts.round_ticks(low, high) if float(tick).is_integer()]


_METHOD = """A step does not move if every number with a unit is within half a bin of zero. It does nothing if, besides,
every other number (a gripper, a class) is within half a bin of the step before. Both are meant for actions that are
changes. Histograms: orange lines are the bounds of the ActionSpec, and the outermost bars hold all numbers beyond the
axis. Numbers that are NaN, infinite or absurdly large are listed as findings and left out of every figure but the share
beyond the bounds. An episode with several instructions counts for each of them."""
