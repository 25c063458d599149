"""Python in fenced blocks of the documentation."""
import re
from collections.abc import Iterator

from helpers.paths import ROOT

PAGES = [ROOT / name for name in ('README.md', 'data/README.md', 'clients/python/README.md')] + sorted(
    ROOT.glob('docs/**/*.md'))
_FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.DOTALL | re.MULTILINE)


def snippets() -> Iterator[tuple[str, str]]:
  """Yield PAGE:NUMBER and text of each; the number counts all blocks of the page."""
  for page in PAGES:
    for number, (language, text) in enumerate(_FENCE.findall(page.read_text())):
      if language == 'python':
        yield f'{page.relative_to(ROOT)}:{number}', text
