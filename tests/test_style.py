"""House style: the part of CONTRIBUTING.md that a program can check."""
import ast
import re
from collections.abc import Iterator

import pytest
from helpers.paths import ROOT

CODE = [*(path for folder in ('rtjax', 'data', 'bench', 'clients') for path in sorted((ROOT / folder).rglob('*.py'))),
        ROOT / 'train.py', ROOT / 'eval.py']
TESTS = sorted(ROOT.joinpath('tests').rglob('*.py'))
DOCS = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'data/README.md', ROOT / 'bench/RESULTS.md',
        ROOT / 'clients/python/README.md', *sorted(ROOT.joinpath('docs').rglob('*.md'))]

MOST_WORDS = 12
# These have a standard term (docs/glossary.md): image, evaluate, instruction, fix, memorise, ...
PRIVATE_WORDS = re.compile(
    r'\b(pictures?|judg(e|es|ed|ing)|told|mend(s|ed)?|by heart|anew|deeds?|micro[_-]batch(es)?|queried[ _-]tokens?'
    r'|empty_history|run_again|stand_out|vqa[_-]weight|words[_-]weight)\b', re.IGNORECASE)
# Prompts are data: trained networks know their words.
PROMPTS = re.compile(r'(Describe|describe) the picture')


def docstrings(path) -> Iterator[tuple[str, str]]:
  """Yield place and text of the docstrings of a module, its classes and functions."""
  for node in ast.walk(ast.parse(path.read_text())):
    documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    if documented and (text := ast.get_docstring(node)):
      yield f'{path.relative_to(ROOT)}:{node.body[0].lineno}', text


def words(line: str) -> int:
  """Count the words of a line without its shapes, citations and example commands."""
  plain = re.sub(r'\[[^\]]*\]|\([^)]*\)|: python .*', '', line)
  return sum(any(map(str.isalpha, word)) for word in plain.split())


def test_docstrings_begin_with_a_short_line():
  long = [f'{place}: {text.splitlines()[0]}' for path in CODE for place, text in docstrings(path)
          if words(text.splitlines()[0]) > MOST_WORDS]
  assert not long, '\n'.join(long)


def test_sentences_do_not_begin_as_questions():
  found = [f'{place}: {match[0]}' for path in CODE + TESTS for place, text in docstrings(path)
           for match in re.finditer(r'(?:^|[.!] |\n\n)(?:What|Who|Where|Of|How) [^.]*', text)]
  assert not found, '\n'.join(found)


@pytest.mark.parametrize('files', [CODE, TESTS, DOCS], ids=['code', 'tests', 'docs'])
def test_one_word_for_one_thing(files):
  found = [f'{path.relative_to(ROOT)}:{number}: {line.strip()}' for path in files if path.name != 'test_style.py'
           for number, line in enumerate(path.read_text().splitlines(), 1)
           if PRIVATE_WORDS.search(PROMPTS.sub('', line))]
  assert not found, '\n'.join(found)
