"""Gymnasium environments for closed-loop evaluation, found by name.

The folder stands beside `data`. It may import `rtjax.actions`, `rtjax.language` and `rtjax.runtime`, but no models,
data, training or evaluation. docs/add_an_environment.md lists the attributes, observations and info that evaluation
reads.
"""
import functools
import importlib
import pathlib
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rtjax.runtime.suggest import did_you_mean

if TYPE_CHECKING:
  import gymnasium

# Name: module, class, extra. Imported at first use, because a simulator is an extra.
_ENVS = {'tabletop': ('rtjax.envs.tabletop.env', 'Tabletop', 'sim'),
         'metaworld': ('rtjax.envs.metaworld', 'MetaWorld', 'metaworld'),
         'libero': ('rtjax.envs.libero.env', 'Libero', 'libero'),
         'language_table': ('rtjax.envs.language_table', 'LanguageTable', 'language_table')}
_FAMILIES = ('metaworld', 'libero')  # environments of several tasks or suites: NAME/TASK
_SIMULATORS = ('mujoco', 'gymnasium', 'metaworld', 'packaging', 'libero', 'robosuite', 'bddl', 'pybullet', 'scipy')
_registered: dict[str, Any] = {}

GL_HELP = ('Without a display set MUJOCO_GL to egl (on Debian apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri, or '
           "the driver's own libraries on a GPU) or to osmesa (libosmesa6).")
"""Hint for errors of OpenGL."""


def names() -> list[str]:
  """Return the names of all environments.

  'metaworld' has one for each task and suite, such as 'metaworld/reach-v3' and 'metaworld/mt10', 'libero'
  one for each suite, such as 'libero/object'.
  """
  return sorted({*_ENVS, *_registered})


def register(name: str, environment: 'type[gymnasium.Env]') -> None:
  """Register an environment class, for this process and the workers of `make_vector`.

  Raises:
    ValueError: the name is taken, or it contains a colon.
  """
  if ':' in name or name in _ENVS or _registered.get(name, environment) is not environment:
    raise ValueError(f'the environment name {name!r} is taken or contains a colon; known names: {names()}. Choose '
                     'another name.')
  _registered[name] = environment


def make(name: str, **settings: Any) -> 'gymnasium.Env':
  """Create an environment: `make('tabletop', split='seen', image_size=(96, 96), renderer='rays', seed=0)`.

  Args:
    name: one of `names()`. 'my_module:my_env' imports `my_module`, which registers 'my_env'.
    settings: arguments of the environment's class.

  Raises:
    ValueError: unknown environment, task, split or renderer.
    ImportError: the simulator is not installed.
  """
  environment, task = _resolve(name)
  return environment(**task, **settings)


def splits(name: str) -> dict[str, tuple[str, ...]]:
  """Return the skills of each split of an environment.

  A split without skills has episodes that the seed alone determines. Raises as `make`.
  """
  environment, task = _resolve(name)
  return dict(environment.skills_of(**task) if task else environment.skills)


def require_known(label: str, name: str, known: Sequence[str]) -> None:
  """Raise ValueError unless `name` is known, and suggest the nearest one."""
  if name not in known:
    raise ValueError(f'unknown {label} {name!r}, expected one of {list(known)}.{did_you_mean(name, known)}')


def make_vector(make_env: 'Callable[[], gymnasium.Env]', count: int) -> 'gymnasium.vector.AsyncVectorEnv':
  """Create `count` environments, each in its own process.

  `reset(seed=[...])` takes one seed per environment. A finished episode stays finished until
  `reset(options={'reset_mask': bool [count]})` restarts the environments of the mask.

  Args:
    make_env: picklable, such as `functools.partial(make, name)`.
    count: number of processes.

  Raises:
    EnvironmentDied: now or in a later call, the process of an environment ended; the error names both (envs/vector.py).
  """
  from gymnasium.vector import AutoresetMode

  from rtjax.envs.vector import VectorEnv
  make_env = functools.partial(_make_in_worker, _registered, make_env)
  # Shared memory loses texts in gymnasium 1.4; spawn, because JAX's threads do not survive a fork.
  return VectorEnv(
      [make_env] * count, shared_memory=False, context='spawn', autoreset_mode=AutoresetMode.DISABLED)


def warn_if_renderer_differs(statistics: dict[str, Any], renderer_name: str) -> None:
  """Warn if a policy was trained on images of another renderer.

  Args:
    statistics: the "statistics" of its checkpoint's metadata; datasets without a renderer are ignored.
    renderer_name: the environment's renderer.
  """
  others = {entry.get('renderer') for entry in statistics.values()} - {None, renderer_name}
  if others:
    warnings.warn(f'the policy was trained on images of the renderer {sorted(others)}, the environment uses '
                  f'{renderer_name!r}: the success rate may be lower than with the same renderer.', stacklevel=2)


def warn_if_skills_are_new(statistics: dict[str, Any], skills: Iterable[str]) -> None:
  """Warn if a policy saw no demonstration of some skills.

  Args:
    statistics: the "statistics" of its checkpoint's metadata; nothing follows if a dataset's skills are unknown.
    skills: those to evaluate.
  """
  recorded = [entry.get('skills') for entry in statistics.values()]
  learned = {skill for names in recorded for skill in names or ()}
  new = [skill for skill in skills if skill not in learned]
  if new and recorded and all(recorded):
    warnings.warn(f'the policy learned {", ".join(sorted(learned))}; {", ".join(new)} are new to it. Evaluate what it '
                  f'learned with --skills {" ".join(sorted(learned))}', stacklevel=2)


def _make_in_worker(registered: dict[str, Any], make_env: 'Callable[[], gymnasium.Env]') -> 'gymnasium.Env':
  _registered.update(registered)  # a spawned process starts without them
  return make_env()


def _resolve(name: str) -> tuple[Any, dict[str, str]]:
  """Class of an environment, and the task that its name selects."""
  module, _, name = name.rpartition(':')
  if module:
    importlib.import_module(module)
  if name in _registered:
    return _registered[name], {}
  family, _, task = name.partition('/')
  require_known('environment', name if task and family not in _FAMILIES else family, names())
  module, cls, extra = _ENVS[family]
  try:
    return getattr(importlib.import_module(module), cls), {'task': task} if family in _FAMILIES else {}
  except ModuleNotFoundError as error:
    missing = (error.name or '').partition('.')[0]
    if missing not in _SIMULATORS:
      raise
    raise ImportError(f"the environment {name!r} needs {missing}: pip install 'rtjax[{extra}]'.") from error
  except Exception as error:
    if not _raised_by_opengl(error):
      raise
    raise ImportError(f'the environment {name!r} needs OpenGL, which does not load here ({error}). {GL_HELP}'
                      ) from error


def _raised_by_opengl(error: Exception) -> bool:
  """Return whether the import of MuJoCo failed on its OpenGL bindings.

  They raise errors of many classes where a library is missing or MUJOCO_GL names none.
  """
  file = traceback.extract_tb(error.__traceback__)[-1].filename
  return bool({'OpenGL', 'egl', 'osmesa', 'gl_context.py'}.intersection(pathlib.Path(file).parts[-5:]))
