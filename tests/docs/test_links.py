"""Links, file paths and flags in the project's Markdown pages."""
import ast
import pathlib
import re
from collections.abc import Iterator

import pytest
from helpers.paths import ROOT

PATTERNS = '*.md', 'docs/**/*.md', 'bench/*.md', 'data/**/*.md', 'checkpoints/*.md', 'clients/**/*.md'
PAGES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern) if 'built' not in path.parts)
FOLDERS = ('rtjax', 'docs', 'tests', 'bench', 'data', 'clients', 'checkpoints', '.ci')
EXAMPLES = ('data/built', 'data/demo_0', 'checkpoints/', 'rtjax/models/mean_color.py', 'rtjax/configs/mean_color.py',
            'tests/models/test_mean_color.py')
"""Paths that a reader creates."""


def _id(page: pathlib.Path) -> str:
  return str(page.relative_to(ROOT))


@pytest.mark.parametrize('page', PAGES, ids=_id)
def test_relative_links_lead_somewhere(page: pathlib.Path) -> None:
  missing = []
  for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
    path, _, anchor = link.partition('#')
    if '://' in link:
      continue
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or (anchor and anchor not in _anchors(target)):
      missing.append(link)
  assert not missing


@pytest.mark.parametrize('page', PAGES, ids=_id)
def test_paths_in_backticks_exist(page: pathlib.Path) -> None:
  found = re.findall(rf'`((?:{"|".join(map(re.escape, FOLDERS))})/[\w./-]*)`', page.read_text())
  assert not [path for path in found if not (ROOT / path).exists() and not path.startswith(EXAMPLES)]


def _anchors(page: pathlib.Path) -> set[str]:
  headings = re.findall(r'^#+ (.+)$', page.read_text(), re.MULTILINE)
  return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def _known_flags() -> set[str]:
  """Return names of dataclass fields and of functions' arguments in the project, as flags write them."""
  names: set[str] = {'help', 'help-verbose', 'list'}
  for folder in ('rtjax', 'bench', 'data', 'clients'):
    for path in [*(ROOT / folder).rglob('*.py'), ROOT / 'train.py', ROOT / 'eval.py']:
      for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
          names.add(node.target.id)
        elif isinstance(node, ast.arg):
          names.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith('--'):
          names.add(node.value[2:])  # argparse
  return {name.replace('_', '-') for name in names} | {f'no-{name}'.replace('_', '-') for name in names}


def _flags(page: pathlib.Path) -> Iterator[str]:
  """Yield flags in commands and backticks; those of other programs stand on lines that name the program."""
  for line in page.read_text().replace('\\\n', ' ').splitlines():
    if not re.search(r'Runner|\b(pip|git|ssh|tmux|venv|pytest|tensorboard|qemu|gcloud|sbatch|docker|hf)\b', line):
      yield from re.findall(r'(?<![\w-])--([a-z][a-z0-9.-]*[a-z0-9])(?!\w)', line)  # Apache Beam's have underscores


@pytest.fixture(scope='module')
def known() -> set[str]:
  return _known_flags()


@pytest.mark.parametrize('page', PAGES, ids=_id)
def test_flags_exist(page: pathlib.Path, known: set[str]) -> None:
  assert not sorted({flag for flag in _flags(page) if not set(flag.split('.')) <= known})
