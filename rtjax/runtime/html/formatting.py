"""Formats of numbers and names in reports."""
import html
from collections.abc import Sequence

MISSING = '–'
"""Shown in place of a value that does not exist."""


def percent(share: float | None) -> str:
  return MISSING if share is None else f'{100 * share:.1f}\N{NO-BREAK SPACE}%'


def number(value: float | None) -> str:
  return MISSING if value is None else f'{value:#.3g}'


def count(amount: int, noun: str) -> str:
  return f'{amount:,} {noun}{"" if amount == 1 else "s"}'


def percent_interval(interval: Sequence[float]) -> str:
  return f'{percent(interval[0])} to {percent(interval[1])}'


def short_interval(interval: Sequence[float]) -> str:
  """Format an interval of shares in whole percent, without the sign."""
  return f'{100 * interval[0]:.0f} to {100 * interval[1]:.0f}'


def points(difference: float) -> str:
  """Format a difference of shares as signed percentage points."""
  rounded = f'{100 * difference:+.1f}'.replace('-', '−')
  return '0.0' if rounded[1:] == '0.0' else rounded


def points_interval(interval: Sequence[float]) -> str:
  return f'{points(interval[0])} to {points(interval[1])}'


def timestamp(created: str) -> str:
  """Format an ISO 8601 time in UTC for reading."""
  return created.replace('T', ' ').replace('+00:00', ' UTC')


def breakable(name: str) -> str:
  """Escape a name for HTML, with line breaks allowed after underscores."""
  return html.escape(name).replace('_', '_<wbr>')
