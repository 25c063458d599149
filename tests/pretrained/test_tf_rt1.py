"""Released TensorFlow checkpoints: every layout, every size, and errors for damaged ones."""
import json
import pathlib
import shutil

import numpy as np
import pytest
from helpers import golden_rt1, hostile_files

import rtjax
from rtjax import models
from rtjax.models import RT1Config, parameters
from rtjax.pretrained import tf_rt1

SUFFIX = '/.ATTRIBUTES/VARIABLE_VALUE'


def manifest(shared, name):
  return json.loads((shared / f'parity/rt1_tf/manifest_{name}.json').read_text())['variables']


def write(folder: pathlib.Path, tensors: dict[str, np.ndarray], name: str = 'ckpt-1') -> str:
  tf = pytest.importorskip('tensorflow')
  folder.mkdir(parents=True, exist_ok=True)
  keys = sorted(tensors)
  tf.raw_ops.SaveV2(prefix=str(folder / name), tensor_names=[key + SUFFIX for key in keys],
                    shape_and_slices=[''] * len(keys), tensors=[tf.constant(tensors[key]) for key in keys])
  return str(folder / name)


def numbered(specs, seed: int = 0) -> dict[str, np.ndarray]:
  """Return a distinct array for each variable of a manifest."""
  random = np.random.default_rng(seed)
  return {name: random.normal(size=spec['shape']).astype(spec['dtype']) for name, spec in specs.items()
          if spec.get('group', 'model') == 'model'}


def test_names_are_the_released_ones(shared):
  """The table names all 732 tensors, in the SavedModel's order, for the three released checkpoints."""
  for name, layers in [('rt1main', 8), ('rt1simreal', 8), ('rt1multirobot', 10)]:
    released = {key for key, spec in manifest(shared, name).items() if spec['group'] == 'model'}
    assert {golden_rt1.PREFIX + ours for ours, _ in tf_rt1.variables(layers)} == released
  saved = manifest(shared, 'rt1main_savedmodel')
  for number, (ours, _) in enumerate(tf_rt1.variables(8), start=1):
    assert saved[f'model_variables/{number}']['checkpoint_name'] == golden_rt1.PREFIX + ours


@pytest.mark.slow
def test_prefix_folder_and_index_file(shared):
  prefix = golden_rt1.checkpoint(shared)
  expected = parameters.named(golden_rt1.model(shared))
  for path in (pathlib.Path(prefix).parent, f'{prefix}.index'):
    loaded = parameters.named(rtjax.load_model(path))
    assert all(np.array_equal(loaded[name], expected[name]) for name in expected)


def test_normalisation_comes_from_the_checkpoint(shared):
  values = parameters.named(golden_rt1.model(shared))
  assert not np.allclose(values['image_encoder/mean'], (0.485, 0.456, 0.406), atol=1e-3)


@pytest.mark.parametrize('name,layers,width,count', [
    ('rt1simreal', 8, 512, 35_339_431),
    pytest.param('rt1multirobot', 10, 1024, 111_363_239, marks=pytest.mark.slow)])
def test_saved_model_folder(shared, tmp_path, name, layers, width, count):
  specs = manifest(shared, f'{name}_savedmodel')
  assert sum(int(np.prod(s['shape'])) for key, s in specs.items() if key != 'train_step') == count
  tensors = numbered(specs)
  write(tmp_path / name / 'variables', tensors, 'variables')
  model = rtjax.load_model(tmp_path / name)
  assert (model.config.layers, model.config.width, model.config.window) == (layers, width, 6)
  values = parameters.named(model)
  for number, (_, name) in enumerate(tf_rt1.variables(layers), start=1):
    if name:
      np.testing.assert_array_equal(np.ravel(values[name]), np.ravel(tensors[f'model_variables/{number}']))


def test_damaged_checkpoints(shared, tmp_path):
  tensors = {key: value for key, value in numbered(manifest(shared, 'rt1main')).items()}
  name = golden_rt1.PREFIX + '_transformer/_layers/3/ff/kernel'
  spare = tensors.pop(name)
  with pytest.raises(ValueError, match='missing: _transformer/_layers/3/ff/kernel'):
    rtjax.load_model(write(tmp_path / 'missing', tensors))
  with pytest.raises(ValueError, match=r'shape \(512, 511\), expected \(512, 512\): _transformer/_layers/3/ff/kernel'):
    rtjax.load_model(write(tmp_path / 'shape', tensors | {name: spare[:, :-1]}))
  with pytest.raises(ValueError, match='unknown: _transformer/_layers/3/gate'):
    rtjax.load_model(write(tmp_path / 'extra', tensors | {
        name: spare, golden_rt1.PREFIX + '_transformer/_layers/3/gate': spare}))
  with pytest.raises(ValueError, match='not of RT-1'):
    rtjax.load_model(write(tmp_path / 'other', {'model/dense/kernel': spare}))


def test_nothing_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='no such file'):
    rtjax.load_model(tmp_path / 'nowhere')
  (tmp_path / 'notes.txt').write_text('hello')
  with pytest.raises(FileNotFoundError, match=r'notes\.txt'):
    rtjax.load_model(tmp_path)


def test_metadata(shared):
  _, metadata = tf_rt1.load(golden_rt1.checkpoint(shared))
  assert metadata.embedding_id == 'universal-sentence-encoder-large/5'
  assert metadata.image_size is None and metadata.step is None


def test_parameter_count_of_the_abstract_model(shared):
  shapes = parameters.shapes(models.abstract(RT1Config()))
  assert sum(int(np.prod(shape)) for shape in shapes.values()) == 35_339_431 - 131_584 - 1


@pytest.fixture(scope='module')
def tensorflow_checkpoint(tmp_path_factory):
  tf = pytest.importorskip('tensorflow')
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
