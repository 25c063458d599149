"""Episodes from logs: actions from poses, and parts of entries."""
import h5py
import numpy as np
import pytest
from helpers import robot_logs
from scipy.spatial.transform import Rotation

from rtjax.data.convert import logs
from rtjax.data.convert.episode import read_episode
from rtjax.data.convert.options import Options


def first(path, **changed):
  """Read the first episode of a folder."""
  options = Options(logs=path, **changed)
  return read_episode(logs.find_logs(path, options.action)[0], options, options.spec())


@pytest.mark.parametrize('quaternions', [False, True])
def test_actions_from_poses(tmp_path, quaternions):
  """Each action turns its pose into the next one."""
  draw = np.random.default_rng(0)
  places, angles = draw.normal(size=(5, 3)), draw.uniform(-1.4, 1.4, (5, 3))
  rotations = Rotation.from_euler('xyz', angles)
  orientation = rotations.as_quat() if quaternions else np.degrees(angles)
  poses = np.concatenate([places * 1000, orientation], 1)
  opening = np.linspace(0.08, 0, 5)
  arrays = robot_logs.episode(0, 5) | {'pose': poses, 'grip': opening}
  del arrays['action']
  episode = first(robot_logs.write_npz(tmp_path, {'a': arrays}), poses='pose', gripper='grip', translation_unit='mm',
                  rotation_unit='deg', gripper_range=(0, 0.08))
  assert len(episode) == len(episode.images) == len(episode.state) == len(episode.instructions) == 4
  np.testing.assert_allclose(places[:-1] + episode.actions[:, :3], places[1:], atol=1e-6)
  turned = Rotation.from_euler('xyz', episode.actions[:, 3:6]) * rotations[:-1]
  np.testing.assert_allclose(turned.as_matrix(), rotations[1:].as_matrix(), atol=1e-6)
  np.testing.assert_allclose(episode.actions[:, 6], opening[1:] / 0.08, atol=1e-6)
  np.testing.assert_array_equal(episode.images, arrays['images'][:-1])


def test_keys_take_parts_and_join(tmp_path):
  arrays = robot_logs.episode(0)
  arrays['both'] = np.concatenate([np.zeros((6, 7)), arrays['action'][:, :6]], 1)
  arrays['closed'] = 1 - arrays.pop('action')[:, 6]
  path = robot_logs.write_npz(tmp_path, {'a': arrays})
  episode = first(path, action='both[7:],closed', gripper_range=(1, 0))
  np.testing.assert_allclose(episode.actions, robot_logs.episode(0)['action'], rtol=1e-6)
  np.testing.assert_allclose(first(path, action='both[7:],closed', state='both[-1]').state, arrays['both'][:, -1:])


@pytest.mark.parametrize(('stored', 'read'), [
    ('\ufeffpick  up'.encode(), 'pick up'), ('ｐｉｃｋ\n', 'pick'), ('🍎', ''), ('', '')])
def test_instructions_are_stored_in_normal_form(stored, read, tmp_path):
  path = robot_logs.write_npz(tmp_path, {'a': robot_logs.episode(0) | {'instruction': np.array(stored)}})
  assert set(first(path).instructions) == {read}


def test_undecodable_instructions_are_named(tmp_path):
  raw = np.array('grün'.encode('latin-1'))
  path = robot_logs.write_npz(tmp_path / 'npz', {'a': robot_logs.episode(0) | {'instruction': raw}})
  with h5py.File(tmp_path / 'a.hdf5', 'w') as file:
    file['instruction'] = raw
  for read in (lambda: first(path), lambda: logs.Hdf5Log('a', tmp_path / 'a.hdf5').read('instruction')):
    with pytest.raises(logs.Problem, match=r"b'gr\\xfcn' is no UTF-8.*latin-1"):
      read()
