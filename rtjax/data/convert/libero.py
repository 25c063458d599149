"""Official human demonstrations of LIBERO: an HDF5 file for each task.

    TASK_demo.hdf5   data/demo_K/ actions [steps, 7], rewards and dones [steps], states, robot_states
                     data/demo_K/obs/ agentview_rgb, eye_in_hand_rgb uint8 [steps, 128, 128, 3], ee_states [steps, 6],
                     gripper_states [steps, 2], joint_states [steps, 7], ee_pos, ee_ori

(LIBERO, scripts/create_dataset.py). They become what OpenVLA's and Octo's RLDS datasets of them hold
(rlds_dataset_builder): images rotated by 180 degrees, since they are stored as OpenGL renders them; as state position,
axis-angle and finger positions; as instruction the task in the file's name. The sentence in its `problem_info` is
another one in some suites ("Pick the milk" for "pick up the milk").
"""
import dataclasses
import pathlib
import re

import numpy as np

from rtjax.data.convert import logs
from rtjax.data.convert.logs import Entry, Hdf5Log, Log, Problem

# Entry: its keys, joined along the last axis; of images side by side.
_KEYS = {'images': ['obs/agentview_rgb'], 'wrist': ['obs/eye_in_hand_rgb'],
         'both': ['obs/agentview_rgb', 'obs/eye_in_hand_rgb'], 'action': ['actions'],
         'state': ['obs/ee_states', 'obs/gripper_states'], 'reward': ['rewards']}
_IMAGES = ('images', 'wrist', 'both')


@dataclasses.dataclass(frozen=True)
class LiberoLog:
  """One demonstration, whose entries have the converter's default names.

  'both' is the agent's and the wrist camera side by side, as the environment's `cameras='both'`.
  """
  log: Hdf5Log

  @property
  def name(self) -> str:
    return self.log.name

  def names(self) -> list[str]:
    return [*_KEYS, 'instruction']

  def read(self, name: str) -> Entry:
    if name == 'instruction':
      return np.asarray(_instruction(self.log.path))
    parts = [self._array(key) for key in _KEYS[name]]
    if name in _IMAGES:
      parts = [part[:, ::-1, ::-1] if part.ndim == 4 else part for part in parts]
    try:
      return np.concatenate(parts, 2) if name == 'both' else np.concatenate(parts, -1)
    except ValueError as error:
      shapes = ' and '.join(f'{key} {list(part.shape)}' for key, part in zip(_KEYS[name], parts, strict=True))
      raise Problem('lengths differ', f'{shapes} do not fit together.') from error

  def _array(self, key: str) -> np.ndarray:
    try:
      return np.asarray(self.log.read(key))
    except KeyError:
      raise Problem('missing entry', f'there is no {key!r}, which the official demonstrations of LIBERO have; the '
                    f'entries are {", ".join(self.log.names())}. Read other files without --layout libero, and name '
                    'their entries with --image, --action and so on.') from None


def find_logs(path: pathlib.Path) -> list[Log]:
  """Find the demonstrations of a file, or of a folder of files.

  Raises as `logs.find_logs`, and ValueError if the files are not HDF5.
  """
  found = logs.find_logs(path, 'obs/agentview_rgb')
  if not all(isinstance(log, Hdf5Log) for log in found):
    raise ValueError(f'LOGS is {path}: --layout libero reads HDF5 files (TASK_demo.hdf5).')
  return [LiberoLog(log) for log in found if isinstance(log, Hdf5Log)]


def _instruction(path: pathlib.Path) -> str:
  """Return the instruction in the name of a file, without the scene."""
  found = re.fullmatch(r'(?:[A-Z_]+SCENE\d+_)?(.+)_demo', path.stem)
  if not found:
    raise Problem('wrong instruction', f'the file is called {path.name}, expected TASK_demo.hdf5 as LIBERO names it, '
                  'whose words are the instruction. Or give the instruction of all episodes with --task.')
  return found[1].replace('_', ' ')

