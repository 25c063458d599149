"""Robot logs in HDF5 that lead elsewhere, have no end or no value."""
import shutil
import struct

import h5py
import numpy as np
import pytest
from helpers import robot_logs

from rtjax.data.convert import logs
from rtjax.data.convert.logs import Problem


@pytest.fixture
def hdf5(tmp_path):
  """A valid file, to which a test adds."""
  arrays = robot_logs.episode(0)
  path = tmp_path / 'logs/a.h5'
  path.parent.mkdir()
  with h5py.File(path, 'w') as file:
    file['images'], file['action'] = arrays['images'], arrays['action']
  return path


def replace(path, make):
  with h5py.File(path, 'a') as file:
    del file['action']
    make(file)


def external(file):
  file.create_dataset('action', (6, 7), 'u1', external=[('/etc/passwd', 0, 42)])


def virtual(file):
  layout = h5py.VirtualLayout((6, 7), 'f4')
  layout[:] = h5py.VirtualSource('/etc/passwd', 'x', (6, 7))
  file.create_virtual_dataset('action', layout)


def linked_group(file):
  file['inner'] = h5py.ExternalLink('../secret.h5', '/')
  file['action'] = h5py.SoftLink('/inner/action')


HDF5 = {
    'external storage': (external, 'lies in other files'), 'virtual dataset': (virtual, 'lies in other files'),
    'external link': (lambda file: file.update(action=h5py.ExternalLink('../secret.h5', 'action')), 'another file'),
    'soft link to an external link': (linked_group, 'another file'),
    'cycle of links': (lambda file: file.update(action=h5py.SoftLink('/b'), b=h5py.SoftLink('/action')), 'in a cycle'),
    'terabytes': (lambda file: file.create_dataset('action', (10 ** 11, 7), 'f4', chunks=(6, 7)), 'expected at most'),
}


@pytest.mark.parametrize(('make', 'words'), HDF5.values(), ids=HDF5.keys())
def test_hdf5_files_stay_in_themselves(hdf5, make, words):
  shutil.copy(hdf5, hdf5.parent.parent / 'secret.h5')
  replace(hdf5, make)
  with pytest.raises(Problem, match=words):
    robot_logs.read_first(hdf5.parent)


def test_hdf5_groups_in_a_cycle_or_too_deep(hdf5):
  def cycle(file):
    file.create_group('a')['again'] = file['/']
    file['a/soft'] = h5py.SoftLink('/a')
  replace(hdf5, cycle)
  with pytest.raises(Problem, match="there is no 'action', the entries are images"):
    robot_logs.read_first(hdf5.parent)
  with h5py.File(hdf5, 'a') as file:
    file.create_group('/'.join('x' * 1000))
  with pytest.raises(Problem, match='more than 32 groups inside each other'):
    robot_logs.read_first(hdf5.parent)


@pytest.mark.parametrize('size', [0, 1, 2 ** 62, 2 ** 64 - 8])
def test_an_hdf5_heap_that_the_library_follows_for_ever(hdf5, size):
  replace(hdf5, lambda file: file.update(action=robot_logs.episode(0)['action'], text='a cube'))
  content = hdf5.read_bytes()
  free = content.index(b'GCOL') + 16 + 16 + 8  # behind the text
  assert content[free:free + 8] == bytes(8)  # the free space has the number 0
  hdf5.write_bytes(content[:free + 8] + struct.pack('<Q', size) + content[free + 16:])
  (log,) = logs.find_logs(hdf5.parent, 'action')
  with pytest.raises(Problem, match='does not fit into its global heap'):
    log.read('text')


def test_episodes_below_soft_links_are_still_found(hdf5):
  replace(hdf5, lambda file: file.update({'kept/action': robot_logs.episode(0)['action'],
                                          'action': h5py.SoftLink('/kept/action')}))
  assert len(robot_logs.read_first(hdf5.parent)) == 6


def null(name):
  def make(file):
    if name in file:
      del file[name]
    file[name] = h5py.Empty('S1' if name == 'text' else 'f4')
  return make


@pytest.mark.parametrize('name', ['action', 'images', 'state', 'text'])
def test_hdf5_datasets_without_a_value(hdf5, name):
  replace(hdf5, lambda file: file.update(action=np.zeros((6, 7))))
  with h5py.File(hdf5, 'a') as file:
    null(name)(file)
    file.attrs['empty'] = h5py.Empty('S1')
  for key in (name, '@empty'):
    with pytest.raises(Problem, match='has no value'):
      logs.find_logs(hdf5.parent, 'action')[0].read(key)
