"""Suggestions for misspelt names in error messages."""
import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
  """Return " Did you mean 'x'?" for the nearest name, or ''."""
  nearest = difflib.get_close_matches(str(name)[:80], list(known), 1)
  return f' Did you mean {nearest[0]!r}?' if nearest else ''
