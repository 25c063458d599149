"""Conversion of LIBERO's official human demonstrations, on files of their structure."""
import sys

import numpy as np
import pytest
from helpers import libero_files

from rtjax import actions
from rtjax.data.convert import __main__ as command
from rtjax.data.convert import libero
from rtjax.data.convert.options import Options
from rtjax.data.rlds.episodes import Dataset
from rtjax.data.tf import tf

TASKS = {'pick_up_the_milk_and_place_it_in_the_basket': 'pick up the milk and place it in the basket',
         'KITCHEN_SCENE3_turn_on_the_stove': 'turn on the stove'}
DEMOS = {f'demo_{number}': libero_files.demonstration(number, 4 + number) for number in (0, 2, 10)}


@pytest.fixture
def folder(tmp_path):
  for task in TASKS:
    libero_files.write(tmp_path / f'libero_test/{task}_demo.hdf5', DEMOS)
  return tmp_path / 'libero_test'


def convert(monkeypatch, folder, *options):
  monkeypatch.setattr(sys, 'argv', ['convert', str(folder), '--layout', 'libero', '--name', 'human', '--out',
                                    str(folder.parent), '--val-share', '0', *options])
  command.main()
  return str(folder.parent / 'human/1.0.0')


def test_episodes_are_those_of_the_rlds_datasets(folder, monkeypatch):
  """Upright images, mirrored as a turn by 180 degrees leaves them; state of eight numbers; instruction of the name."""
  path = convert(monkeypatch, folder, '--views', 'wrist=wrist', '--image-format', 'png')
  dataset = Dataset(path, 'train', actions.LIBERO, views=('image', 'wrist'), proprioception=True)
  episodes = list(dataset.read_all())
  assert sorted({e.instructions[0] for e in episodes}) == sorted(TASKS.values()) and len(episodes) == 6
  by_length = {len(arrays['actions']): arrays for arrays in DEMOS.values()}
  for episode in episodes:
    arrays = by_length[len(episode.actions)]
    np.testing.assert_allclose(episode.actions, arrays['actions'], rtol=1e-6)
    state = np.concatenate([arrays['obs/ee_states'], arrays['obs/gripper_states']], 1)
    np.testing.assert_allclose(episode.proprioception, state, rtol=1e-6)
    for view, camera in enumerate(('agentview', 'eye_in_hand')):
      image = next(dataset.decoder(None)(episode, [1], view))
      np.testing.assert_array_equal(np.asarray(image).astype(np.uint8), arrays[f'obs/{camera}_rgb'][1, ::-1, ::-1])


def test_both_cameras_in_one_image(folder, monkeypatch):
  path = convert(monkeypatch, folder, '--image', 'both', '--image-format', 'png')
  episode = next(iter(Dataset(path, 'train', actions.LIBERO).read_all()))
  arrays = next(a for a in DEMOS.values() if len(a['actions']) == len(episode.actions))
  left, right = np.split(tf.io.decode_image(episode.images[0]).numpy(), 2, 1)
  np.testing.assert_array_equal(left, arrays['obs/agentview_rgb'][0, ::-1, ::-1])
  np.testing.assert_array_equal(right, arrays['obs/eye_in_hand_rgb'][0, ::-1, ::-1])


def test_idle_steps_of_the_controllers_numbers_are_found(folder, monkeypatch):
  """A repeated motion is none; nor is the step in which the gripper changes."""
  arrays = libero_files.demonstration(3)
  arrays['actions'][:] = [[0.5] + [0] * 5 + [-1]] * 2 + [[0] * 6 + [-1]] * 2 + [[0] * 6 + [1]] * 2
  for file in folder.iterdir():
    file.unlink()
  libero_files.write(folder / 'turn_on_the_stove_demo.hdf5', {'demo_0': arrays})
  (episode,) = Dataset(convert(monkeypatch, folder, '--drop-idle'), 'train', actions.LIBERO).read_all()
  np.testing.assert_array_equal(episode.actions[:, [0, 6]], [[0.5, -1], [0.5, -1], [0, 1], [0, 1]])


def test_wrong_files_and_options(tmp_path):
  arrays = libero_files.demonstration(0)
  (renamed,) = libero.find_logs(libero_files.write(tmp_path / 'stove.hdf5', {'demo_0': arrays}))
  with pytest.raises(ValueError, match=r'called stove\.hdf5, expected TASK_demo\.hdf5.*--task'):
    renamed.read('instruction')
  del arrays['obs/gripper_states']
  (partial,) = libero.find_logs(libero_files.write(tmp_path / 'a_demo.hdf5', {'demo_0': arrays}))
  with pytest.raises(ValueError, match=r"no 'obs/gripper_states'.*obs/joint_states.*without --layout libero"):
    partial.read('state')
  arrays['obs/eye_in_hand_rgb'] = arrays['obs/eye_in_hand_rgb'][:-1]
  (shorter,) = libero.find_logs(libero_files.write(tmp_path / 'b_demo.hdf5', {'demo_0': arrays}))
  with pytest.raises(ValueError, match=r'agentview_rgb \[6, 8, 8, 3\] and .*\[5, 8, 8, 3\] do not fit'):
    shorter.read('both')
  np.savez(tmp_path / 'c.npz', images=np.zeros((2, 8, 8, 3), np.uint8))
  with pytest.raises(ValueError, match=r'--layout libero reads HDF5 files'):
    libero.find_logs(tmp_path / 'c.npz')
  with pytest.raises(ValueError, match='leave out --action-spec and --poses'):
    Options(logs=tmp_path, layout='libero', action_spec='rt1')
