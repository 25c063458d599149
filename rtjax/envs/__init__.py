"""Environments to judge policies in: gymnasium environments, found by name."""
import difflib
import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import gymnasium

# Name: module, class, extra. Imported at first use: a simulator is an extra.
_ENVS = {'tabletop': ('rtjax.envs.tabletop.env', 'Tabletop', 'sim'),
         'metaworld': ('rtjax.envs.metaworld', 'MetaWorld', 'metaworld')}
_SIMULATORS = ('mujoco', 'gymnasium', 'metaworld', 'packaging')


def names() -> list[str]:
  """The environments there are; 'metaworld' has one for each of its tasks, such as 'metaworld/reach-v3'."""
  return sorted(_ENVS)


def make(name: str, **settings: Any) -> 'gymnasium.Env':
  """The environment called `name`: `make('tabletop', split='seen', image_size=(96, 96), renderer='rays', seed=0)`.

  Raises:
    ValueError: there is no such environment, task, split or renderer.
    ImportError: the simulator is not installed.
  """
  task = name.partition('/')[2]
  return _class(name)(**({'task': task} if task else {}), **settings)


def splits(name: str) -> dict[str, tuple[str, ...]]:
  """The splits of an environment, and the skills of each; none where the seed alone decides. Raises as `make`."""
  return dict(_class(name).skills)


def require_known(what: str, name: str, known: Sequence[str]) -> None:
  """Raises ValueError unless `name` is one of `known`, and tells the nearest one."""
  if name not in known:
    close = difflib.get_close_matches(name, known, 1)
    raise ValueError(f'unknown {what} {name!r}, expected one of {list(known)}.'
                     + (f' Did you mean {close[0]!r}?' if close else ''))


def make_vector(make_one: 'Callable[[], gymnasium.Env]', count: int) -> 'gymnasium.vector.AsyncVectorEnv':
  """`count` environments in as many processes; `make_one` must be picklable, such as `functools.partial(make, name)`.

  `reset(seed=[...])` takes one seed per environment. An episode that ended stays so until
  `reset(options={'reset_mask': bool [count]})` starts the masked ones anew.
  """
  from gymnasium.vector import AsyncVectorEnv, AutoresetMode
  # Shared memory loses texts in gymnasium 1.4; spawn, because JAX's threads do not survive a fork.
  return AsyncVectorEnv(
      [make_one] * count, shared_memory=False, context='spawn', autoreset_mode=AutoresetMode.DISABLED)


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


def _class(name: str) -> Any:
  """The class of an environment."""
  family, _, task = name.partition('/')
  require_known('environment', name if task and family != 'metaworld' else family, names())
  module, cls, extra = _ENVS[family]
  try:
    return getattr(importlib.import_module(module), cls)
  except ModuleNotFoundError as error:
    if error.name not in _SIMULATORS:
      raise
    raise ImportError(f"the environment {name!r} needs {error.name}: pip install 'rtjax[{extra}]'.") from error
