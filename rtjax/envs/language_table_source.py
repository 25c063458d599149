"""Import of the public source of Language-Table, which is no package.

    git clone https://github.com/google-research/language-table

Its modules name TensorFlow, TF-Agents and others that simulation and oracle never call. While they are imported, those
that are missing are replaced by stand-ins, of which a call raises an error. Later imports of these names are not
affected.
"""
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pathlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

REPOSITORY = 'https://github.com/google-research/language-table'

# Reward modules and classes of the five families, under the names that its eval/main.py reports.
_REWARDS = {
    'blocktoblock': ('block2block', 'BlockToBlockReward'),
    'blocktoabsolutelocation': ('block2absolutelocation', 'BlockToAbsoluteLocationReward'),
    'blocktoblockrelativelocation': ('block2block_relative_location', 'BlockToBlockRelativeLocationReward'),
    'blocktorelativelocation': ('block2relativelocation', 'BlockToRelativeLocationReward'),
    'separate': ('separate_blocks', 'SeparateBlocksReward')}
FAMILIES = tuple(_REWARDS)

_FOLDER = pathlib.Path('language_table', 'environments')
_STAND_INS = ('cv2', 'gin', 'gym', 'imageio', 'matplotlib', 'six', 'tensorflow', 'tf_agents')
# Loading them takes seconds and half a gigabyte in each process of a simulator, so they are replaced where installed.
_NEVER_LOADED = ('tensorflow', 'tf_agents')


@dataclasses.dataclass(frozen=True)
class Source:
  """Parts of the source.

  Attributes:
    simulator: the class LanguageTable.
    oracle: the class of the pushing oracle that plans by RRT.
    rewards: {family: class}.
    blocks: the set of eight blocks.
    version: hash of its Python files and assets.
  """
  simulator: Callable[..., Any]
  oracle: Callable[..., Any]
  rewards: Mapping[str, Any]
  blocks: Any
  version: str


def load(path: str = '') -> Source:
  """Import the source.

  Args:
    path: folder of the clone; '' finds it on sys.path, which PYTHONPATH extends.

  Raises:
    FileNotFoundError: there is no clone, or a part of it is missing.
    ImportError: PyBullet is not installed.
    ValueError: another clone has been imported before.
  """
  root = _root(path)
  imported = sys.modules.get('language_table')
  if imported is not None and root not in _locations(imported.__path__):
    raise ValueError(f'Language-Table is imported from {list(imported.__path__)} already, and a process can import one '
                     f'clone only, not {root} as well.')
  sys.path.insert(0, str(root))
  try:
    with _stand_ins(), warnings.catch_warnings():
      warnings.simplefilter('ignore')
      return _import(root)
  except ModuleNotFoundError as error:
    raise _missing(error, root) from error
  finally:
    sys.path.remove(str(root))


def _import(root: pathlib.Path) -> Source:
  def module(name: str) -> Any:
    return importlib.import_module(f'language_table.environments.{name}')

  rewards = {family: getattr(module(f'rewards.{name}'), cls) for family, (name, cls) in _REWARDS.items()}
  return Source(module('language_table').LanguageTable,
                module('oracles.push_oracle_rrt_slowdown').ObstacleOrientedPushOracleBoard2dRRT, rewards,
                module('blocks').LanguageTableBlockVariants.BLOCK_8, _version(root / _FOLDER))


def _root(path: str) -> pathlib.Path:
  """Find the folder of the clone, which holds the package."""
  candidates = [path] if path else [entry or '.' for entry in sys.path]
  for candidate in candidates:
    root = pathlib.Path(candidate).expanduser().resolve()
    if (root / _FOLDER / 'language_table.py').is_file():
      return root
  where = f'in {path}' if path else 'on PYTHONPATH'
  raise FileNotFoundError(f'there is no clone of Language-Table {where}: expected a folder that holds '
                          f'{_FOLDER}/language_table.py. Get it with git clone {REPOSITORY}, and name its folder with '
                          '--path CLONE or in PYTHONPATH.')


def _locations(paths: Any) -> list[pathlib.Path]:
  return [pathlib.Path(path).resolve().parent for path in paths]


def _missing(error: ModuleNotFoundError, root: pathlib.Path) -> Exception:
  name = error.name or ''
  if name.startswith('language_table'):
    return FileNotFoundError(f'the clone of Language-Table in {root} lacks {name.replace(".", "/")}.py. Restore '
                             f'it with git checkout, or clone {REPOSITORY} again.')
  return ModuleNotFoundError(f"the environment 'language_table' needs {name}: pip install 'rtjax[language_table]'.",
                             name=name)


def _version(folder: pathlib.Path) -> str:
  digest = hashlib.sha256()
  for file in sorted(file for file in folder.rglob('*') if file.suffix in ('.py', '.urdf', '.obj')):
    digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
  return digest.hexdigest()[:12]


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
  """Replace missing packages while the source is imported.

  Packages that are imported already, and all others that are installed, are left as they are.
  """
  replaced = {name for name in _STAND_INS if name not in sys.modules
              and (name in _NEVER_LOADED or importlib.util.find_spec(name) is None)}
  finder = _Finder(replaced)
  sys.meta_path.insert(0, finder)
  try:
    yield
  finally:
    sys.meta_path.remove(finder)
    for name in [name for name in sys.modules if name.partition('.')[0] in replaced]:
      del sys.modules[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Finder that makes every module of some packages a stand-in."""

  def __init__(self, packages: set[str]):
    self._packages = packages

  def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
    del path, target
    if fullname.partition('.')[0] not in self._packages:
      return None
    return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

  def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
    return _StandInModule(spec.name)

  def exec_module(self, module: types.ModuleType) -> None:
    if module.__name__ == 'gym':
      import gymnasium  # its successor, with the same spaces
      vars(module).update(Env=gymnasium.Env, spaces=gymnasium.spaces)


class _StandInModule(types.ModuleType):
  """Module whose names are all `_StandIn`."""

  def __getattr__(self, name: str) -> Any:
    if name.startswith('__'):
      raise AttributeError(name)
    return _StandIn


class _Names(type):
  def __getattr__(cls, name: str) -> Any:
    if name.startswith('__'):
      raise AttributeError(name)
    return _StandIn


class _StandIn(metaclass=_Names):
  """Base class, constant or function that the source names and never calls."""

  def __new__(cls, *args: Any, **kwargs: Any) -> Any:
    if cls is _StandIn:
      raise RuntimeError('Language-Table called a package that is replaced by a stand-in, one of '
                         f'{", ".join(_STAND_INS)}: its source differs from the one that rtjax was tested with. '
                         'Please report its commit.')
    return super().__new__(cls)

  def __init__(self, *args: Any, **kwargs: Any):
    pass
