"""Tables of a report, rendered as HTML and as Markdown."""
import dataclasses
import html
from collections.abc import Sequence

from rtjax.runtime.html.formatting import breakable


@dataclasses.dataclass(frozen=True)
class Table:
  """Table of a report.

  Attributes:
    title: heading above it.
    head: names of the columns.
    rows: the texts of each row, as many as there are columns.
    note: explanation of the columns, shown below.
    gauges: (share, low, high) per row, drawn as a bar with its interval after the first column; HTML only.
    shades: per row, one share (0 to 1) for each column after the first, drawn as background; None is not shaded.
  """
  title: str
  head: Sequence[str]
  rows: Sequence[Sequence[str]]
  note: str = ''
  gauges: Sequence[tuple[float, float, float]] = ()
  shades: Sequence[Sequence[float | None]] = ()

  def html(self) -> str:
    first, *rest = self.head
    gauge = '<th class="gauge"></th>' if self.gauges else ''
    heads = ''.join(f'<th>{breakable(name)}</th>' for name in rest)
    rows = ''.join(self._html_row(index) for index in range(len(self.rows)))
    note = f'<figcaption>{html.escape(self.note)}</figcaption>' if self.note else ''
    return f"""
<h2>{html.escape(self.title)}</h2>
<figure>
<div class="scroll"><table>
<thead><tr><th>{breakable(first)}</th>{gauge}{heads}</tr></thead>
<tbody>{rows}</tbody>
</table></div>
{note}
</figure>"""

  def markdown(self) -> str:
    rows = [self.head, ['---'] + ['--:'] * (len(self.head) - 1), *self.rows]
    lines = ['| ' + ' | '.join(cell.replace('|', '\\|') for cell in row) + ' |' for row in rows]
    return '\n'.join([f'## {self.title}', '', *lines, '', *([self.note, ''] if self.note else [])])

  def _html_row(self, index: int) -> str:
    first, *rest = self.rows[index]
    shades = self.shades[index] if self.shades else [None] * len(rest)
    cells = ''.join(f'<td{_shade(shade)}>{html.escape(cell)}</td>' for cell, shade in zip(rest, shades, strict=True))
    return f'<tr><td>{breakable(first)}</td>{_gauge(*self.gauges[index]) if self.gauges else ""}{cells}</tr>'


def _gauge(share: float, low: float, high: float) -> str:
  return (f'<td class="gauge"><div role="img" aria-label="{100 * share:.0f} %, {100 * low:.0f} to {100 * high:.0f} %">'
          f'<i style="width:{100 * share:.2f}%"></i>'
          f'<s style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></s></div></td>')


def _shade(share: float | None) -> str:
  if not share:
    return ''
  return f' style="background:color-mix(in srgb, var(--policy) {35 * share:.0f}%, transparent)"'
