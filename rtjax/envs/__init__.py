"""Environments to judge policies in: gymnasium environments, found by name."""
import difflib
import functools
import importlib
import warnings
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
  if name not in _ENVS:
    close = difflib.get_close_matches(name, _ENVS, 1)
    raise ValueError(f'unknown environment {name!r}, expected one of {names()}.'
                     + (f' Did you mean {close[0]!r}?' if close else ''))
  module, cls = _ENVS[name]
  try:
    return getattr(importlib.import_module(module), cls)(**settings)
  except ModuleNotFoundError as error:
    if error.name not in ('mujoco', 'gymnasium'):
      raise
    raise ImportError(f"the environment {name!r} needs {error.name}: pip install 'rtjax[sim]'.") from error


def make_vector(name: str, count: int, **settings: Any) -> 'gymnasium.vector.VectorEnv':
  """`count` environments in as many processes; the settings are those of `make`.

  `reset(seed=[...])` takes one seed per environment. An episode that ended stays so until
  `reset(options={'reset_mask': bool [count]})` starts the masked ones anew.
  """
  if name not in _ENVS:
    make(name)  # raises
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
    warnings.warn(f'the policy was trained on pictures by the renderer {sorted(others)}, the environment shows those of '
                  f'{renderer_name!r}: success may be lower than it could be.', stacklevel=2)
