"""Environments to judge policies in: gymnasium environments, found by name."""
import difflib
import functools
import importlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import gymnasium

# Imported at first use: a simulator is an extra.
_ENVS = {'tabletop': ('rtjax.envs.tabletop.env', 'Tabletop')}


def names() -> list[str]:
  """The environments there are."""
  return sorted(_ENVS)


def make(name: str, **settings: Any) -> 'gymnasium.Env':
  """The environment called `name`: `make('tabletop', split='seen', image_size=(96, 96), renderer='rays', seed=0)`.

  Raises:
    ValueError: there is no such environment, split or renderer.
    ImportError: the simulator is not installed.
  """
  require_known('environment', name, names())
  module, cls = _ENVS[name]
  return getattr(_import(module, name), cls)(**settings)


def splits(name: str) -> dict[str, tuple[str, ...]]:
  """The splits of an environment, and the skills of each. Raises as `make`."""
  require_known('environment', name, names())
  found = _import(_ENVS[name][0].rpartition('.')[0] + '.splits', name).SPLITS
  return {split: settings.skills for split, settings in found.items()}


def require_known(what: str, name: str, known: Sequence[str]) -> None:
  """Raises ValueError unless `name` is one of `known`, and tells the nearest one."""
  if name not in known:
    close = difflib.get_close_matches(name, known, 1)
    raise ValueError(f'unknown {what} {name!r}, expected one of {list(known)}.'
                     + (f' Did you mean {close[0]!r}?' if close else ''))


def make_vector(name: str, count: int, **settings: Any) -> 'gymnasium.vector.VectorEnv':
  """`count` environments in as many processes; the settings are those of `make`.

  `reset(seed=[...])` takes one seed per environment. An episode that ended stays so until
  `reset(options={'reset_mask': bool [count]})` starts the masked ones anew.
  """
  require_known('environment', name, names())
  from gymnasium.vector import AsyncVectorEnv, AutoresetMode
  # gymnasium 1.4 loses texts in shared memory.
  return AsyncVectorEnv([functools.partial(make, name, **settings)] * count, shared_memory=False, context='spawn',
                        autoreset_mode=AutoresetMode.DISABLED)


def warn_of_other_renderer(statistics: dict[str, Any], renderer_name: str) -> None:
  """Warns if a policy was trained on another renderer's pictures than it is judged on.

  Args:
    statistics: the "statistics" of its checkpoint's metadata; datasets that no simulator made are ignored.
    renderer_name: of the environment.
  """
  others = {found.get('renderer') for found in statistics.values()} - {None, renderer_name}
  if others:
    warnings.warn(f'the policy was trained on pictures by the renderer {sorted(others)}, the environment shows those '
                  f'of {renderer_name!r}: success may be lower than it could be.', stacklevel=2)


def _import(module: str, name: str) -> Any:
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    if error.name not in ('mujoco', 'gymnasium'):
      raise
    raise ImportError(f"the environment {name!r} needs {error.name}: pip install 'rtjax[sim]'.") from error
