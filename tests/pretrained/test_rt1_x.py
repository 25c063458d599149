"""Released RT-1-X checkpoints: every layout, both sizes, and errors for damaged ones."""
import numpy as np
import pytest
from flax import serialization
from helpers import golden_rt1_x

import rtjax
from rtjax.models import RT1_X, parameters
from rtjax.pretrained import rt1_x


def test_msgpack_folder_and_file(shared):
  folder = golden_rt1_x.checkpoint(shared)
  model = rtjax.load_model(folder)
  assert model.config == RT1_X
  assert sum(np.prod(s) for s in parameters.shapes(model).values()) == 56_896_809 + 87_296 + 6
  assert rt1_x.find(folder / 'checkpoint') == rt1_x.find(folder) == rt1_x.find(folder.parent) == folder / 'checkpoint'


@pytest.mark.parametrize('layout', ['ocdbt', pytest.param('zarr', marks=pytest.mark.slow)])
def test_orbax_layouts(shared, tmp_path, layout):
  """Every variable is read under its name, and other parts of the training state are ignored."""
  tree = golden_rt1_x.variables(shared)
  golden_rt1_x.script(shared).write({**tree, 'step': np.int64(7)}, tmp_path / layout, layout)
  loaded = parameters.named(rtjax.load_model(tmp_path / layout))
  theirs = golden_rt1_x.flat(tree)
  pairs = rt1_x.variables(RT1_X)
  assert len(pairs) == len(theirs) == 735
  for name, ours in pairs:
    expected = theirs.get(f'params/{name}', theirs.get(f'batch_stats/{name}'))
    np.testing.assert_array_equal(np.ravel(loaded[ours]), np.ravel(expected), err_msg=name)


def test_plain_rt1_of_the_same_code(shared, tmp_path):
  golden_rt1_x.script(shared).write(golden_rt1_x.variables(shared, 'rt1_flax'), tmp_path / 'plain', 'checkpoint')
  config = rtjax.load_model(tmp_path / 'plain').config
  assert (config.image_tokens, config.head_size, config.window) == (8, 128, 15)
  assert config.action_spec.vocab_size == 256 and config.action_spec.fields[1].high == (1.0, 1.0, 1.0)
  assert config.action_spec.fields[0].fallback == 2


@pytest.fixture
def tree(shared):
  return {part: dict(values) for part, values in golden_rt1_x.variables(shared).items()}


def write(tree, folder):
  folder.mkdir()
  (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(tree))
  return folder


def test_a_variable_is_missing(tree, tmp_path):
  transformer = dict(tree['params']['Transformer_0'])
  del transformer['Dense_2']
  tree['params'] |= {'Transformer_0': transformer}
  with pytest.raises(ValueError, match=r'Transformer_0/Dense_2/kernel'):
    rtjax.load_model(write(tree, tmp_path / 'damaged'))


def test_a_weight_that_is_not_finite(tree, tmp_path):
  kernel = np.array(tree['params']['Transformer_0']['Dense_2']['kernel'])
  kernel[0, 0] = np.nan
  dense = tree['params']['Transformer_0']['Dense_2'] | {'kernel': kernel}
  tree['params'] |= {'Transformer_0': tree['params']['Transformer_0'] | {'Dense_2': dense}}
  with pytest.raises(ValueError, match=r'NaN or infinite numbers in 1 arrays:\n  transformer/output/kernel \(1 of '):
    rtjax.load_model(write(tree, tmp_path / 'damaged'))


def test_a_variable_of_another_shape_and_an_unknown_one(tree, tmp_path):
  conv = {'kernel': np.zeros((1, 1, 1536, 500), np.float32), 'extra': np.zeros(3, np.float32)}
  tree['params'] |= {'image_tokenizer': tree['params']['image_tokenizer'] | {'Conv_0': conv}}
  with pytest.raises(ValueError, match=r'(?s)unknown: image_tokenizer/Conv_0/extra.*1536, 500'):
    rtjax.load_model(write(tree, tmp_path / 'damaged'))


def test_no_batch_statistics(tree, tmp_path):
  with pytest.raises(ValueError, match='batch_stats'):
    rtjax.load_model(write({'params': tree['params']}, tmp_path / 'damaged'))


def test_a_truncated_file(shared, tmp_path):
  content = (golden_rt1_x.checkpoint(shared) / 'checkpoint').read_bytes()
  (tmp_path / 'checkpoint').write_bytes(content[:len(content) // 2])
  with pytest.raises(ValueError, match='complete'):
    rtjax.load_model(tmp_path)


def test_nothing_there(tmp_path):
  (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "ckpt-1"\n')
  with pytest.raises(FileNotFoundError, match='RT-1-X'):
    rtjax.load_model(tmp_path)
  with pytest.raises(FileNotFoundError, match='RT-1-X'):
    rt1_x.load(tmp_path)
