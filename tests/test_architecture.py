"""Import direction of the package: an import points to a row above its own.

The allowed layers stand here alone; docs/architecture.md quotes them, which a test below checks.
"""
import ast
import pathlib
from collections.abc import Iterator

import pytest
from helpers.paths import ROOT

# A module may import its own package and the rows above. Names in one row, between bars, do not import each other.
LAYERS = '''
runtime
packaged
actions
observation
language
models
checkpoints
pretrained
data | envs
training
configs
policies
evaluation | export | serving
train | eval | serve
__main__
'''

# The same inside rtjax/models.
MODEL_LAYERS = '''
layers
parameters
registry
backbones
auxiliary
base
loss
rt1 | rt1_multiview | rt2
'''

# Simulators know actions and words only.
ENVS_MAY_IMPORT = {'runtime', 'actions', 'language', 'envs'}

# Loaded by `rtjax.NAME` at first use.
LAZY = {'load_model': 'rtjax.pretrained', 'load_policy': 'rtjax.policies.policy'}


def _name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {_name(path): path for path in sorted((ROOT / 'rtjax').rglob('*.py'))}


def imports(name: str) -> Iterator[tuple[str, int]]:
  """Yield the modules of rtjax that a module imports, in functions and for type checking too, with the line."""
  for node in ast.walk(ast.parse(MODULES[name].read_text())):
    if isinstance(node, ast.Import):
      yield from ((alias.name, node.lineno) for alias in node.names if alias.name.startswith('rtjax.'))
    elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'rtjax':
      for alias in node.names:
        submodule = f'{node.module}.{alias.name}'
        yield submodule if submodule in MODULES else str(node.module), node.lineno
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == 'rtjax':
      module = LAZY.get(node.attr, f'rtjax.{node.attr}')
      if module in MODULES:
        yield module, node.lineno


def violations(layers: str, package: str) -> list[str]:
  """Return the imports that point to the same row or to one below."""
  rows = [[unit.strip() for unit in row.split('|')] for row in layers.split('\n') if row]
  place = {unit: i for i, row in enumerate(rows) for unit in row}
  depth = package.count('.') + 1

  def unit(module: str) -> str:
    parts = module.split('.')
    return parts[depth] if module.startswith(f'{package}.') else ''

  found = []
  for name in MODULES:
    if not unit(name):
      continue
    assert unit(name) in place, f'{name} is in no row of the layers: add {unit(name)!r} to tests/test_architecture.py'
    for target, line in imports(name):
      inside = target == package or target.startswith(f'{package}.')
      if inside and unit(target) != unit(name) and place.get(unit(target), len(rows)) >= place[unit(name)]:
        found.append(f'{MODULES[name].relative_to(ROOT)}:{line} imports {target}')
  return found


@pytest.mark.parametrize(('layers', 'package'), [(LAYERS, 'rtjax'), (MODEL_LAYERS, 'rtjax.models')])
def test_imports_point_up(layers: str, package: str) -> None:
  found = violations(layers, package)
  assert not found, '\n'.join(found)


def test_envs_know_actions_and_words_only() -> None:
  found = [f'{MODULES[name].relative_to(ROOT)}:{line} imports {target}' for name in MODULES
           if name.startswith('rtjax.envs') for target, line in imports(name)
           if target.split('.')[1] not in ENVS_MAY_IMPORT]
  assert not found, '\n'.join(found)


@pytest.mark.parametrize('layers', [LAYERS, MODEL_LAYERS], ids=['rtjax', 'models'])
def test_the_documentation_quotes_the_layers(layers: str) -> None:
  assert layers in (ROOT / 'docs/architecture.md').read_text()


def test_the_check_detects_a_wrong_import(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  wrong = ROOT / 'rtjax/observation.py'
  copy = tmp_path / 'observation.py'
  copy.write_text(wrong.read_text() + '\n\ndef late():\n  from rtjax.models import rt1\n  return rt1\n')
  monkeypatch.setitem(MODULES, 'rtjax.observation', copy)
  found = [target for target, _ in imports('rtjax.observation') if target.startswith('rtjax.models')]
  assert found == ['rtjax.models.rt1']
