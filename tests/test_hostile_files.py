"""Files of strangers at every reader: nothing of them runs, nothing outside of them is read, and each error is clear.

Each case ends in seconds and takes no memory to speak of; tests/test_fuzz_readers.py damages files at random.
"""
import json
import pathlib
import shutil
import struct
import sys
import tarfile
import zipfile

import h5py
import numpy as np
import pytest
import tensorflow as tf
from helpers import hostile_files, image_text_folders, robot_logs, saved_run, tiny_rlds
from helpers.tiny_rt1 import TINY

import rtjax
from rtjax import actions, checkpoints, models
from rtjax.checkpoints import CheckpointError
from rtjax.data.convert import logs
from rtjax.data.convert.episode import read_episode
from rtjax.data.convert.images import inspect
from rtjax.data.convert.logs import Problem
from rtjax.data.convert.options import Options
from rtjax.data.episodes.recorded_spec import recorded_spec
from rtjax.data.image_text.sources import open_source
from rtjax.data.rlds.episodes import Dataset
from rtjax.evaluation.closed_loop import external_log, report
from rtjax.language.instructions import Table
from rtjax.models import parameters
from rtjax.pretrained import load_huggingface, rt1_x
from rtjax.runtime.limits import BoundError, read_json


@pytest.fixture(scope='module')
def rlds(tmp_path_factory):
  return tiny_rlds.write_lengths(tmp_path_factory.mktemp('rlds'), [3, 2])


def changed_rlds(rlds, tmp_path, file, change):
  """Copy a dataset, with one JSON file changed in place by `change`."""
  folder = pathlib.Path(shutil.copytree(rlds, tmp_path / 'data'))
  content = json.loads((folder / file).read_text())
  change(content)
  (folder / file).write_text(json.dumps(content))
  return str(folder)


def read_rlds(folder):
  return list(Dataset(folder, 'train', actions.ARM_7D).read_all())


def in_steps(content):
  return content['featuresDict']['features']['steps']['sequence']['feature']['featuresDict']['features']


# Datasets.


LEGACY = {'type': 'stolen_features.Feature', 'content': {}}
NAMED = {
    'class': lambda c: in_steps(c)['action'].update(pythonClassName='stolen_features.Feature'),
    'snake case': lambda c: in_steps(c).update(x={'python_class_name': 'stolen_features.Feature'}),
    'legacy': lambda c: in_steps(c).update(x=LEGACY),
    'a feature called type': lambda c: in_steps(c).update(type=LEGACY),
    'json in json': lambda c: in_steps(c).update(x={
        'pythonClassName': 'tensorflow_datasets.core.features.sequence_feature.Sequence',
        'jsonFeature': {'json': json.dumps({'feature': LEGACY, 'length': None})}}),
    'another module of TFDS': lambda c: in_steps(c)['action'].update(pythonClassName='tensorflow_datasets.x.Feature')}


@pytest.mark.parametrize('change', NAMED.values(), ids=NAMED.keys())
def test_features_json_imports_nothing(rlds, tmp_path, monkeypatch, change):
  (tmp_path / 'stolen_features.py').write_text('raise SystemExit("executed")')
  monkeypatch.syspath_prepend(tmp_path)
  folder = changed_rlds(rlds, tmp_path, 'features.json', change)
  for read in (read_rlds, lambda name: open_source(name, 'train')):
    with pytest.raises(ValueError, match=r'features.json names the class .*expected one of tfds.features only'):
      read(folder)
  assert 'stolen_features' not in sys.modules


def test_a_prepared_dataset_imports_nothing_either(rlds, tmp_path, monkeypatch):
  """A dataset that is named, and found in TFDS's folder."""
  folder = pathlib.Path(changed_rlds(rlds, tmp_path, 'features.json', NAMED['class']))
  prepared = tmp_path / 'tensorflow_datasets/bridge_dataset/1.0.0'
  shutil.copytree(folder, prepared)
  from rtjax.data.tf import tfds
  monkeypatch.setattr(tfds.core.read_only_builder, '_find_builder_dir', lambda name: tfds.core.Path(prepared))
  with pytest.raises(ValueError, match='names the class'):
    read_rlds('bridge_dataset')


@pytest.mark.parametrize('lengths', [['1000000000000'], ['3'] * 2 + ['999999999'], ['-5']])
def test_a_number_of_episodes_that_the_files_cannot_hold(rlds, tmp_path, lengths):
  folder = changed_rlds(rlds, tmp_path, 'dataset_info.json', lambda c: c['splits'][0].update(
      shardLengths=lengths, filepathTemplate='{DATASET}-{SPLIT}.{FILEFORMAT}-00000-of-00001'))
  with pytest.raises(ValueError, match=r'can hold|no number negative'):
    read_rlds(folder)


@pytest.mark.parametrize(('key', 'value'), [
    ('name', '../x'), ('filepathTemplate', '/etc/passwd'), ('filepathTemplate', '../{DATASET}'), ('name', 3)])
def test_a_split_is_in_the_dataset_folder(rlds, tmp_path, key, value):
  folder = changed_rlds(rlds, tmp_path, 'dataset_info.json', lambda c: c['splits'][0].update({key: value}))
  with pytest.raises(ValueError, match=r'of a split in .*dataset_info.json is .*, expected a name'):
    read_rlds(folder)


@pytest.mark.parametrize('text', ['', 'null', '[]', '{', '[' * 100_000, '{"splits": 3, "version": {}}', '{"name": []}'])
@pytest.mark.parametrize('file', ['dataset_info.json', 'features.json'])
def test_damaged_descriptions(rlds, tmp_path, file, text):
  folder = pathlib.Path(shutil.copytree(rlds, tmp_path / 'data'))
  (folder / file).write_text(text)
  with pytest.raises(ValueError, match='json'):
    read_rlds(str(folder))


@pytest.mark.parametrize(('shape', 'words'), [
    (['6'], r"episode 0 of 'train' does not fit features.json: cannot reshape"),
    (['100000000000'], 'expected at most')])
def test_features_of_other_shapes(rlds, tmp_path, shape, words):
  name = 'action' if shape == ['6'] else 'language_embedding'
  folder = changed_rlds(rlds, tmp_path, 'features.json', lambda c: in_steps(c)[name]['tensor']['shape'].update(
      dimensions=shape))
  with pytest.raises(ValueError, match=words):
    read_rlds(folder)


def test_a_million_files(rlds, tmp_path):
  folder = changed_rlds(rlds, tmp_path, 'dataset_info.json', lambda c: c['splits'][0].update(
      shardLengths=['1'] * 10 ** 6))
  with pytest.raises(BoundError, match='1,000,000 files, expected at most 10,000'):
    read_rlds(folder)


@pytest.mark.parametrize('change', [{'size': 10 ** 9}, {'bins': 10 ** 9}, {'low': -1e308, 'high': 1e308},
                                    {'low': 1.0, 'high': 1.0 + 1e-9}, {'low': float('nan')}])
def test_action_specs_of_a_dataset(rlds, tmp_path, change):
  folder = pathlib.Path(shutil.copytree(rlds, tmp_path / 'data'))
  field = {'name': 'a', 'size': 3, 'low': 0.0, 'high': 1.0} | change
  (folder / 'metadata.json').write_text(json.dumps({'action_spec': {'fields': [field], 'vocab_size': 256}}))
  with pytest.raises(ValueError, match=r"metadata\.json.*ActionField 'a': .*" + next(iter(change))):
    recorded_spec([str(folder)])


def test_json_that_names_an_entry_twice(tmp_path):
  (tmp_path / 'a.json').write_text('{"a": {"success": true, "success": false}}')
  with pytest.raises(ValueError, match=r"a\.json is no JSON: it names 'success' twice"):
    read_json(tmp_path / 'a.json')


def test_a_record_that_declares_terabytes(rlds, tmp_path):
  """TensorFlow alone crashes on it: the checksum of the length is right."""
  folder = pathlib.Path(shutil.copytree(rlds, tmp_path / 'data'))
  (file,) = folder.glob('*.tfrecord*')
  file.write_bytes(struct.pack('<QI', 2 ** 40, 0xcfab3f6a) + bytes(1000))
  with pytest.raises(ValueError, match=r'record 0 of .*: the record has 1,099,511,627,776 bytes, expected at most'):
    read_rlds(str(folder))


@pytest.mark.parametrize('pattern', ['*.tfrecord*', 'dataset_info.json', 'features.json'])
def test_files_of_a_dataset_that_are_links(rlds, tmp_path, pattern):
  """Out of the folder they are refused; those of a Hugging Face cache lead to its blobs."""
  folder = pathlib.Path(shutil.copytree(rlds, tmp_path / 'datasets--lab--pick/snapshots/1f2e'))
  blobs = folder.parent.parent / 'blobs'
  blobs.mkdir()
  file = next(folder.glob(pattern))
  file.rename(blobs / 'abc')
  file.symlink_to('../../blobs/abc')
  assert len(read_rlds(str(folder))) == 2
  blobs.rename(tmp_path / 'elsewhere')
  file.unlink()
  file.symlink_to(tmp_path / 'elsewhere/abc')
  with pytest.raises(BoundError, match='leads out of the folder'):
    read_rlds(str(folder))


def test_git_lfs_pointers_in_a_dataset(rlds, tmp_path):
  for pattern in ('*.tfrecord*', 'features.json', 'dataset_info.json'):
    folder = pathlib.Path(shutil.copytree(rlds, tmp_path / pattern.strip('*.')))
    hostile_files.lfs_pointer(next(folder.glob(pattern)))
    with pytest.raises(ValueError, match='is a Git LFS pointer'):
      read_rlds(str(folder))


# Images with texts.


@pytest.mark.parametrize('image', ['/etc/passwd', '../secret.png', 'images/../../secret.png', 'link.png'])
def test_jsonl_stays_in_its_folder(tmp_path, image):
  (tmp_path / 'secret.png').write_bytes(image_text_folders.encoded(0))
  folder = tmp_path / 'data'
  image_text_folders.write_jsonl(folder, [json.dumps({'image': image, 'caption': 'x'})])
  (folder / 'link.png').symlink_to(tmp_path / 'secret.png')
  with pytest.raises(ValueError, match='leads out of the folder'):
    open_source(str(folder), 'train')


def test_a_jsonl_file_that_is_a_link_or_too_large(tmp_path):
  folder = pathlib.Path(image_text_folders.write_jsonl(tmp_path / 'a', [{'caption': 'x'}]))
  (folder / 'linked.jsonl').symlink_to('/etc/hostname')
  with pytest.raises(BoundError, match='leads out of the folder'):
    open_source(str(folder), 'linked')
  hostile_files.sparse(folder / 'train.jsonl', 2 ** 42)
  with pytest.raises(BoundError, match=r'train.jsonl has 4,398'):
    open_source(str(folder), 'train')
  image_text_folders.write_jsonl(tmp_path / 'b', ['{"a":' * 100_000])
  with pytest.raises(ValueError, match='more than 64 levels'):
    open_source(str(tmp_path / 'b'), 'train')


def test_sparse_and_endless_tar_members(tmp_path):
  for kind in (tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
    info = tarfile.TarInfo('a.png')
    info.size, info.type = 10 ** 13, kind
    (tmp_path / 'train-0.tar').write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(ValueError, match='cannot be read'):
      open_source(str(tmp_path), 'train')


# Robot logs.


def convert(path, **options):
  """Read the first episode of logs."""
  options = Options(path, task='x', **options)
  log = logs.find_logs(path, 'action')[0]
  return read_episode(log, options, options.spec())


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
    convert(hdf5.parent)


def test_hdf5_groups_in_a_cycle_or_too_deep(hdf5):
  def cycle(file):
    file.create_group('a')['again'] = file['/']
    file['a/soft'] = h5py.SoftLink('/a')
  replace(hdf5, cycle)
  with pytest.raises(Problem, match="there is no 'action', the entries are images"):
    convert(hdf5.parent)
  with h5py.File(hdf5, 'a') as file:
    file.create_group('/'.join('x' * 1000))
  with pytest.raises(Problem, match='more than 32 groups inside each other'):
    convert(hdf5.parent)


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
  assert len(convert(hdf5.parent)) == 6


@pytest.mark.parametrize('name', ['0.npz', '0.h5', 'episode'])
def test_logs_that_are_links_out_of_their_folder(tmp_path, name):
  (tmp_path / 'logs').mkdir()
  (tmp_path / 'logs' / name).symlink_to(tmp_path / 'elsewhere')
  with pytest.raises(BoundError, match='leads out of the folder'):
    logs.find_logs(tmp_path / 'logs', 'action')


def test_an_image_folder_stays_in_itself(tmp_path):
  (tmp_path / 'secret.png').write_bytes(image_text_folders.encoded(0))
  folder = robot_logs.write_folders(tmp_path / 'logs', {'a': robot_logs.episode(0)})
  image = folder / 'a/000003.png'
  image.unlink()
  image.symlink_to(tmp_path / 'secret.png')
  (folder / 'a/again').symlink_to('..')  # a cycle of folders
  with pytest.raises(Problem, match='leads out of the folder'):
    convert(folder)
  for file in ('steps.csv', 'instruction.txt'):
    (folder / 'a' / file).unlink()
    (folder / 'a' / file).symlink_to('/etc/passwd')
  (log,) = logs.find_logs(folder, 'action')
  for entry in ('action', 'instruction'):
    with pytest.raises(Problem, match='leads out of the folder'):
      log.read(entry)


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


def npy(description, shape, data=b''):
  header = f"{{'descr': {description!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
  return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header + data


@pytest.mark.parametrize(('members', 'words'), [
    ({'action.npy': npy('|S0', (10 ** 10,))}, r'declares 10,000,000,000 bytes'),
    ({'action.npy': npy('<f4', (10 ** 20, 7))}, 'expected|declares'),
    ({'action.npy': npy('<f4', (6, 0))}, 'at least one number'),
    ({'images.npy': npy('|u1', (6, 0, 0, 3))}, 'at least one pixel'),
    ({'instruction.npy': npy('<U20000', (), bytes(80000).replace(b'\0\0\0\0', b'a\0\0\0'))}, '20,000 characters')])
def test_npz_arrays_of_no_use(tmp_path, members, words):
  stored = robot_logs.episode(0)
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
    for name, array in stored.items():
      if f'{name}.npy' not in members:
        with archive.open(f'{name}.npy', 'w') as file:
          np.save(file, array)
    for name, content in members.items():
      archive.writestr(name, content)
  options = Options(tmp_path)
  with pytest.raises(Problem, match=words):
    read_episode(logs.find_logs(tmp_path, 'action')[0], options, options.spec())


@pytest.mark.filterwarnings('ignore:Duplicate name')
def test_two_arrays_or_columns_of_one_name(tmp_path):
  robot_logs.write_npz(tmp_path / 'npz', {'a': robot_logs.episode(0)})
  with zipfile.ZipFile(tmp_path / 'npz/a.npz', 'a') as archive:
    archive.writestr('action.npy', npy('<f4', (6, 7), bytes(168)))
  with pytest.raises(Problem, match='two arrays of one name'):
    convert(tmp_path / 'npz')
  folder = robot_logs.write_folders(tmp_path / 'folder', {'a': robot_logs.episode(0)})
  table = folder / 'a/steps.csv'
  table.write_text(table.read_text().replace('action_y', 'action_x'))
  with pytest.raises(Problem, match='two columns of one name: action_x'):
    convert(folder)


def test_git_lfs_pointers_in_logs(tmp_path):
  for name in ('a.npz', 'b.h5'):
    hostile_files.lfs_pointer(tmp_path / name / name)
    with pytest.raises(Problem, match='Git LFS pointer'):
      convert(tmp_path / name)
  folder = robot_logs.write_folders(tmp_path / 'folder', {'a': robot_logs.episode(0)})
  for name, entry in (('000002.png', 'images'), ('steps.csv', 'action')):
    hostile_files.lfs_pointer(folder / 'a' / name)
    with pytest.raises(Problem, match=rf'{name} is a Git LFS pointer'):
      logs.find_logs(folder, 'action')[0].read(entry)


def test_postscript_in_an_episode_is_not_run():
  for encoded in (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', hostile_files.png(50_000, 50_000)):
    with pytest.raises(Problem, match=r'of another format|expected at most'):
      inspect(encoded)


# Weights.


@pytest.mark.filterwarnings('error')
def test_a_huge_folder_and_cycles_of_links_hold_no_model(tmp_path):
  for number in range(3000):
    (tmp_path / f'{number:05d}').touch()
  for number in range(8):
    (tmp_path / f'link{number}').symlink_to('.')
  (tmp_path / 'loop').symlink_to('loop')
  (tmp_path / 'a/b/c/d/e').mkdir(parents=True)
  (tmp_path / 'a/b/c/d/e/checkpoint').write_bytes(b'\x80')
  with pytest.raises(FileNotFoundError, match='no model'):
    rtjax.load_model(tmp_path)
  assert rt1_x.find(tmp_path) is None  # five folders down


@pytest.mark.parametrize('name', ['model.safetensors', 'checkpoint', 'ckpt-1.index', 'saved_model.pb', 'inner/weights'])
def test_git_lfs_pointers_in_place_of_weights(tmp_path, name):
  hostile_files.lfs_pointer(tmp_path / name)
  with pytest.raises(ValueError, match=r'is a Git LFS pointer.*git lfs pull'):
    rtjax.load_model(tmp_path)
  if '/' not in name and not name.endswith('.pb'):
    with pytest.raises(ValueError, match='Git LFS pointer'):
      rtjax.load_model(tmp_path / name)


def test_git_lfs_pointers_of_hugging_face(tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "vit"}')
  hostile_files.lfs_pointer(tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match='Git LFS pointer'):
    load_huggingface(tmp_path)
  (tmp_path / 'model.safetensors').unlink()
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text('{"weight_map": {"a": "../other/model.safetensors"}}')
  with pytest.raises(ValueError, match=r"the file of 'a' in .* expected a name"):
    load_huggingface(tmp_path)


def test_git_lfs_pointers_of_other_weights(tmp_path):
  from rtjax.language.tokenizer import Tokenizer
  from rtjax.training.initialize import start_from
  model = models.abstract(models.RT1Config())
  for name, load in (('table.npz', Table.load), ('spiece.model', Tokenizer.load),
                     ('b3.h5', lambda path: start_from(model, path))):
    with pytest.raises(ValueError, match='Git LFS pointer'):
      load(hostile_files.lfs_pointer(tmp_path / name))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  shapes = parameters.shapes(models.abstract(TINY))
  model = models.from_values(TINY, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
  return saved_run.save(model, tmp_path_factory.mktemp('run') / 'run', 'hashed-ngrams/1')


METADATA = [None, [], {}, 3, {'config': None}, {'config': []}, {'embedding_id': 3}, {'train': None}, {'train': []},
            {'train': {'pipeline': None}}, {'train': {'pipeline': {'image_size': 'ab', 'views': []}}}, {'step': 'x'},
            {'train': {'pipeline': {'image_size': None, 'views': [3]}}}, {'statistics': []}, {'tokenizer': 3}]


@pytest.mark.parametrize('change', METADATA)
@pytest.mark.filterwarnings('ignore:the checkpoint')
def test_metadata_of_wrong_types(run, tmp_path, change):
  folder = pathlib.Path(shutil.copytree(run, tmp_path / 'run'))
  file = folder / 'checkpoints/0/metadata/metadata'
  complete = json.loads(file.read_text())
  file.write_text(json.dumps({**complete, **change} if isinstance(change, dict) and change else change))
  with pytest.raises((ValueError, CheckpointError)):
    checkpoints.load(folder)


def test_a_pointer_in_a_run(run, tmp_path):
  folder = pathlib.Path(shutil.copytree(run, tmp_path / 'run'))
  hostile_files.lfs_pointer(next(p for p in (folder / 'checkpoints/0/state').rglob('*') if p.is_file()))
  with pytest.raises(ValueError, match='Git LFS pointer'):
    rtjax.load_model(folder)


@pytest.fixture(scope='module')
def tensorflow_checkpoint(tmp_path_factory):
  path = tmp_path_factory.mktemp('tf')
  tf.train.Checkpoint(a=tf.Variable(np.zeros((50, 50), np.float32))).write(str(path / 'ckpt'))
  return path


def test_noise_in_a_tensorflow_index(tensorflow_checkpoint, tmp_path):
  folder = pathlib.Path(shutil.copytree(tensorflow_checkpoint, tmp_path / 'tf'))
  (index,) = folder.glob('*.index')
  good = index.read_bytes()
  for content in (np.random.default_rng(0).bytes(500), good[:-10], b'', good[:20] + bytes(20) + good[40:]):
    index.write_bytes(content)
    with pytest.raises(ValueError, match=r'the TensorFlow checkpoint .* is damaged'):
      rtjax.load_model(folder)


def test_a_truncated_data_file_of_a_tensorflow_checkpoint(tensorflow_checkpoint, tmp_path):
  folder = pathlib.Path(shutil.copytree(tensorflow_checkpoint, tmp_path / 'tf'))
  (data,) = folder.glob('*.data-*')
  data.write_bytes(data.read_bytes()[:100])
  with pytest.raises(ValueError, match='Is the copy complete'):
    rtjax.load_model(folder)
  hostile_files.lfs_pointer(data)
  with pytest.raises(ValueError, match='Git LFS pointer'):
    rtjax.load_model(folder)


# Evaluation logs.


HEADER = {'env': 'simpler', 'policy': 'mine', 'control_hz': 3, 'max_steps': 80}
RECORD = {'split': 'seen', 'skill': 'pick', 'seed': 0, 'success': True, 'steps': 31}
SCRIPT = '<script>alert(1)</script>'
WRONG = [('split', '../x'), ('split', 'a/b'), ('split', 3), ('skill', None), ('seed', True), ('seed', -1),
         ('seed', 1.5), ('success', 1), ('steps', '3'), ('steps', 81), ('steps', 0), ('steps', 10 ** 12), ('task', 3),
         ('jerk', 'x'),
         ('instruction', []), ('message', {}), ('wrong_object', 1), ('failure', 2), ('outcome', []), ('clipped', 'x'),
         ('confidence', '0.5'), ('confidence', float('nan')), ('interventions', None), ('latency_ms', 3), ('info', []),
         ('latency_ms', ['x']), ('filmstrip', [SCRIPT]), ('filmstrip', 'ab'), ('info', {'moved': 'x'}),
         ('info', {'touched': 3}), ('info', {'displaced': []}), ('info', {'grasped': []}), ('info', {'failure': []})]
WRONG_HEADER = [('threshold', SCRIPT), ('step', 'x'), ('demonstrations', []), ('settings', 3), ('versions', []),
                ('control_hz', 0), ('control_hz', float('inf')), ('max_steps', 3.5), ('max_steps', True), ('env', 3)]


def write_log(path, header, records):
  path.write_text(''.join(json.dumps(line) + '\n' for line in (header, *records)))
  return str(path)


@pytest.mark.parametrize(('key', 'value'), WRONG)
def test_fields_of_wrong_types(tmp_path, key, value):
  with pytest.raises(ValueError, match=r'line 2.*expected'):
    external_log.build([write_log(tmp_path / 'a.jsonl', HEADER, [RECORD | {key: value}])])


@pytest.mark.parametrize(('key', 'value'), WRONG_HEADER)
def test_header_fields_of_wrong_types(tmp_path, key, value):
  with pytest.raises(ValueError, match=f"line 1: '{key}' is .*, expected"):
    external_log.build([write_log(tmp_path / 'a.jsonl', HEADER | {key: value}, [RECORD])])


def test_texts_are_escaped(tmp_path):
  header = HEADER | {'env': SCRIPT, 'policy': SCRIPT, 'settings': {SCRIPT: SCRIPT}, 'versions': {SCRIPT: SCRIPT}}
  record = RECORD | dict.fromkeys(('task', 'instruction', 'message', 'outcome', 'wrong_object', 'failure'), SCRIPT) | {
      'split': SCRIPT.replace('/', ''), 'skill': SCRIPT.replace('/', ''), 'filmstrip': [3], 'success': False}
  built = external_log.build([write_log(tmp_path / 'a.jsonl', header, [record, record | {'seed': 1}])])
  films = tmp_path / 'films'
  films.mkdir()
  (films / f'{record["split"]}-{record["skill"]}-0.jpg').write_bytes(hostile_files.jpeg(8, 8))
  report.write(tmp_path, built, 2)
  page = (tmp_path / 'report.html').read_text()
  assert 'data:image/jpeg' in page and '<script' not in page.lower()


def test_films_are_of_the_report_folder(tmp_path):
  (tmp_path / 'secret.jpg').write_bytes(b'secret')
  films = tmp_path / 'report/films'
  films.mkdir(parents=True)
  (films / 'seen-pick-0.jpg').symlink_to(tmp_path / 'secret.jpg')
  built = external_log.build([write_log(tmp_path / 'a.jsonl', HEADER, [RECORD])])
  with pytest.raises(BoundError, match='leads out of the folder'):
    report.write(tmp_path / 'report', built, 1)


@pytest.mark.parametrize('text', ['null', '{}', '[]', '{"format": 2, "policies": 3, "protocol": null}', '[' * 10 ** 5])
def test_damaged_reports_to_compare_with(tmp_path, text):
  (tmp_path / 'report.json').write_text(text)
  with pytest.raises(ValueError, match=r'report.json'):
    report.read_first_policy(tmp_path / 'report.json', {'env': 'x', 'settings': {}, 'control_hz': 3, 'max_steps': 80})
