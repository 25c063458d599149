"""Numbers and names as a report prints them; what does not exist is a dash."""
import html


def percent(share: float | None) -> str:
  return '–' if share is None else f'{100 * share:.1f}\N{NO-BREAK SPACE}%'


def number(value: float | None) -> str:
  return '–' if value is None else f'{value:#.3g}'


def count(amount: int, noun: str) -> str:
  return f'{amount:,} {noun}{"" if amount == 1 else "s"}'


def breakable(name: str) -> str:
  """A name in HTML that may go on in the next line after an underscore."""
  return html.escape(name).replace('_', '_<wbr>')
