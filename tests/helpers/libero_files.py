"""Tiny files in the layout of LIBERO's official human demonstrations (LIBERO, scripts/create_dataset.py)."""
import json
import pathlib
from typing import Any

import h5py
import numpy as np

SIZE = 8


def demonstration(number: int, length: int = 6) -> dict[str, np.ndarray]:
  """Return the arrays of a demonstration, by their paths."""
  draw = np.random.default_rng(number)
  actions = draw.uniform(-0.9, 0.9, (length, 7))
  actions[:, 6] = np.where(np.arange(length) < length // 2, -1, 1)
  poses, last = draw.normal(size=(length, 6)), (np.arange(length) == length - 1).astype(np.uint8)
  return {
      'actions': actions, 'states': draw.normal(size=(length, 77)), 'robot_states': draw.normal(size=(length, 9)),
      'rewards': last, 'dones': last, 'obs/agentview_rgb': draw.integers(0, 256, (length, SIZE, SIZE, 3), np.uint8),
      'obs/eye_in_hand_rgb': draw.integers(0, 256, (length, SIZE, SIZE, 3), np.uint8), 'obs/ee_states': poses,
      'obs/ee_pos': poses[:, :3], 'obs/ee_ori': poses[:, 3:], 'obs/gripper_states': draw.normal(size=(length, 2)),
      'obs/joint_states': draw.normal(size=(length, 7))}


def write(path: pathlib.Path, demonstrations: dict[str, dict[str, Any]]) -> pathlib.Path:
  """Write the file of a task."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(path, 'w') as file:
    data = file.create_group('data')
    data.attrs['problem_info'] = json.dumps({
        'problem_name': 'libero_floor_manipulation', 'domain_name': 'robosuite',
        'language_instruction': 'Another sentence than the name of the file'})
    data.attrs['macros_image_convention'] = 'opengl'
    data.attrs['env_name'], data.attrs['bddl_file_name'] = 'Libero_Floor_Manipulation', 'bddl_files/task.bddl'
    data.attrs['bddl_file_content'], data.attrs['env_args'] = '(define (problem LIBERO))', json.dumps({'type': 1})
    data.attrs['num_demos'], data.attrs['total'] = len(demonstrations), sum(
        len(arrays['actions']) for arrays in demonstrations.values())
    for name, arrays in demonstrations.items():
      group = data.create_group(name)
      for key, values in arrays.items():
        group[key] = values
      group.attrs['num_samples'], group.attrs['model_file'] = len(arrays['actions']), '<mujoco/>'
      group.attrs['init_state'] = arrays['states'][0]
  return path
