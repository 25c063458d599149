"""Fenced code of the documentation: it parses, its names and flags exist, exports run as printed."""
import ast
import importlib
import pathlib
import re
import shlex
from collections.abc import Iterator

import numpy as np
import pytest
import tyro
from helpers import saved_run
from helpers.paths import ROOT
from helpers.snippets import PAGES, snippets
from helpers.tiny_rt1 import TINY

import rtjax
from rtjax import models, serve
from rtjax.__main__ import COMMANDS
from rtjax.data.convert.options import Options
from rtjax.export import __main__ as export
from rtjax.export import run as run_export

MODULES = {call: module for name in ('serve', 'export', 'convert')
           for module in [COMMANDS[name][0].removesuffix('.__main__')]
           for call in (f'rtjax {name}', f'python -m {module}')}
"""Calls of the commands whose flags are checked here; test_commands.py has train and eval."""


def commands() -> Iterator[str]:
  """Yield the commands of the package in fenced, indented and inline code, without comments."""
  pattern = '|'.join(map(re.escape, MODULES))
  for page in PAGES:
    text = re.sub(r'\s*\\\n\s*', ' ', page.read_text())
    spans = [' '.join(span.split()) for span in re.findall(rf'`((?:{pattern}) [^`]+)`', text)]
    lines = re.findall(rf'^\s*((?:{pattern}) .*?)(?:\s+#.*|\s{{4,}}.*)?$', text, re.MULTILINE)
    yield from (command for command in [*spans, *lines] if '`' not in command and '...' not in command)


@pytest.mark.parametrize('text', [pytest.param(text, id=name) for name, text in snippets()])
def test_python_parses_and_its_imports_exist(text: str) -> None:
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'rtjax':
      if node.module.endswith('mean_color'):  # the page's own, tested in test_add_a_model.py
        continue
      module = importlib.import_module(node.module)
      for alias in node.names:
        assert hasattr(module, alias.name) or importlib.import_module(f'{node.module}.{alias.name}')


CONFIGS = {'rtjax.serve': serve.Config, 'rtjax.export': export.Config, 'rtjax.data.convert': Options}


@pytest.mark.parametrize('command', sorted(set(commands())))
def test_commands_of_the_package_parse(command: str) -> None:
  name = next(name for name in MODULES if f'{command} '.startswith(f'{name} '))
  words = shlex.split(command.removeprefix(name))
  if '--help' not in words and words[0][0] != '-':  # an option in the text, without its checkpoint
    tyro.cli(CONFIGS[MODULES[name]], args=words)


@pytest.mark.slow
@pytest.mark.parametrize(('format', 'section'), [('stablehlo', 'StableHLO'), ('onnx', 'ONNX')])
def test_exports_run_as_printed(format: str, section: str, tmp_path: pathlib.Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
  pytest.importorskip('onnxruntime')
  run = saved_run.save(models.build(TINY, seed=0), tmp_path / 'run', 'hashed-ngrams/1')
  run_export.export(str(run), format, tmp_path / 'exported', image_size=(32, 40), frames=2)
  page = (ROOT / 'docs/guides/export.md').read_text()
  text, = re.findall(rf'## {section}\n.*?```python\n(.*?)```', page, re.DOTALL)
  image, embedding = np.zeros((32, 40, 3), np.uint8), np.ones(512, np.float32)
  names = {'image': image, 'embedding': embedding}
  monkeypatch.chdir(tmp_path / 'exported')
  exec(compile(text, section, 'exec'), names)
  policy = rtjax.load_policy(run)
  policy.reset(embedding=embedding)
  expected = policy.step(image)
  logits = names['out']['logits'] if format == 'stablehlo' else names['logits']
  np.testing.assert_allclose(logits[0], expected.logits, atol=1e-4)
