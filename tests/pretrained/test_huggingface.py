"""Reader of published checkpoints: full-size names, forms of files, errors.

Outputs of the loaded models are tested in tests/models/backbones.
"""
import json
import pickle
import shutil
import tracemalloc
import warnings

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import golden_huggingface

import rtjax
from rtjax.language import tokenizer
from rtjax.models import parameters
from rtjax.models.backbones.siglip import SigLIP
from rtjax.models.backbones.t5 import T5
from rtjax.models.backbones.vit import ViT
from rtjax.pretrained import huggingface, huggingface_files

safetensors_numpy = pytest.importorskip('safetensors.numpy')

MODEL_TYPES = {'ViTModel': 'vit', 'ViTForImageClassification': 'vit', 'SiglipVisionModel': 'siglip_vision_model',
               'T5ForConditionalGeneration': 't5', 'MT5ForConditionalGeneration': 'mt5',
               'PaliGemmaForConditionalGeneration': 'paligemma', 'T5Gemma2ForConditionalGeneration': 't5gemma2'}
MANIFESTS = ['siglip-so400m-patch14-224-vision', 'vit-large-patch16-224']
# The same layouts in other sizes, and their relatives.
MANIFESTS_TOO = ['mt5-large', 'mt5-xl', 'paligemma-3b-pt-224', 'paligemma2-3b-pt-224',
                 'siglip-so400m-patch14-384-vision', 't5-v1_1-large', 't5-v1_1-xl', 't5-v1_1-xxl', 't5gemma-2-1b-1b',
                 't5gemma-2-270m-270m', 't5gemma-2-4b-4b', 'ul2', 'vit-huge-patch14-224-in21k']


@pytest.fixture
def copy(shared, tmp_path):
  """Copy a case's folder, with changes to its tensors and configuration."""
  def change(case, tensors=lambda t: t, config=lambda c: c, save=True):
    source, folder = shared / 'parity/vlm' / case, tmp_path / case
    folder.mkdir()
    changed_config = config(json.loads((source / 'config.json').read_text()))
    (folder / 'config.json').write_text(json.dumps(changed_config))
    changed = tensors(safetensors_numpy.load_file(source / 'model.safetensors'))
    if save:
      safetensors_numpy.save_file(changed, folder / 'model.safetensors')
    return folder if save else (folder, changed)
  return change


def values(model):
  return {name: np.asarray(value) for name, value in parameters.named(model).items()}


def assert_equal(one, other):
  assert one.config == other.config
  one, other = values(one), values(other)
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.mark.parametrize('name', [*MANIFESTS, *(pytest.param(n, marks=pytest.mark.slow) for n in MANIFESTS_TOO)])
def test_full_size(shared, name):
  """Every tensor of a real checkpoint is a variable, and every variable a tensor."""
  manifest = json.loads((shared / f'parity/vlm/manifests/manifest_{name}.json').read_text())
  shapes = {tensor: tuple(shape) for tensor, shape in manifest['params'].items()}
  copies = {copied: shapes.get('shared.weight', (1,)) for copied in manifest['tied_copies_that_may_also_be_present']}
  config = {'model_type': MODEL_TYPES[manifest['cls']], **manifest['config']}
  _, variables, names, ignored = huggingface.plan(config, shapes | copies, name, tied='lm_head.weight' in copies)
  assert sorted(place for places in names.values() for place in places) == sorted(variables)
  assert sum(int(np.prod(shape)) for shape in variables.values()) == manifest['total_params']
  assert set(names) == set(shapes) and set(ignored) == set(copies)
  golden_huggingface.MATCHED[name] = len(names), len(variables)


@pytest.mark.parametrize('case, model_class', [
    ('vit_in21k', ViT), ('vit_classifier', ViT), ('siglip_head', SigLIP), ('siglip_nohead', SigLIP), ('t5_v11', T5),
    ('t5_ul2', T5)])
def test_families(shared, case, model_class):
  with warnings.catch_warnings():
    warnings.simplefilter('error')  # nothing is ignored
    model = rtjax.pretrained.load_huggingface(shared / 'parity/vlm' / case)
  assert type(model) is model_class
  assert all(value.dtype == jnp.float32 for value in parameters.named(model).values())


def test_redundant_embeddings_are_reported(shared):
  with pytest.warns(UserWarning, match=r'2 tensors were ignored. a copy of shared.weight: .*decoder.embed_tokens'):
    rtjax.pretrained.load_huggingface(shared / 'parity/vlm/mt5')


def test_a_complete_siglip(shared, copy):
  """Its other parts are reported; the vision tower is the same."""
  folder = copy(
      'siglip_head', lambda t: t | {'text_model.final_layer_norm.weight': np.ones(3, np.float32),
                                    'logit_scale': np.ones(1, np.float32), 'logit_bias': np.ones(1, np.float32)},
      lambda c: {'model_type': 'siglip', 'vision_config': {k: v for k, v in c.items() if k != 'num_channels'}})
  with pytest.warns(UserWarning, match=r'3 tensors were ignored. of a complete SigLIP.*text_model.final_layer_norm'):
    model = rtjax.pretrained.load_huggingface(folder)
  assert_equal(model, rtjax.pretrained.load_huggingface(shared / 'parity/vlm/siglip_head'))


def test_shards(shared, copy):
  folder, tensors = copy('t5_v11', save=False)
  names, shards = sorted(tensors), ('model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors')
  for i, shard in enumerate(shards):
    safetensors_numpy.save_file({name: tensors[name] for name in names[i::2]}, folder / shard)
  index = {'metadata': {}, 'weight_map': {name: shards[i % 2] for i, name in enumerate(names)}}
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  assert_equal(rtjax.pretrained.load_huggingface(folder),
               rtjax.pretrained.load_huggingface(shared / 'parity/vlm/t5_v11'))
  first, second = (folder / shard for shard in shards)
  whole = second.read_bytes()
  second.write_bytes(whole[:-40])
  with pytest.raises(ValueError, match=rf'{shards[1]} cannot be read.*ends before the end of 1 of its tensors, the '
                                       r'first lm_head\.weight'):
    rtjax.pretrained.load_huggingface(folder)
  second.write_bytes(first.read_bytes())
  with pytest.raises(ValueError, match=rf'names tensors that are not there: decoder\..* in {shards[1]}'):
    rtjax.pretrained.load_huggingface(folder)
  second.unlink()
  with pytest.raises(FileNotFoundError, match=shards[1]):
    rtjax.pretrained.load_huggingface(folder)


def test_tensors_stream_one_by_one(shared):
  """Memory at the peak is that of a few tensors; unwanted ones are not read."""
  found, tensors = huggingface.open_folder(shared / 'parity/vlm/t5_v11')
  tracemalloc.start()
  try:
    size = sum(value.nbytes for _, value in huggingface.stream(found, tensors))
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert size > 700_000 and peak < 6 * max(4 * np.prod(tensor.shape) for tensor in tensors.values()) < size / 2
  one = 'encoder/norm/scale'
  alone = {'encoder.final_layer_norm.weight': tensors['encoder.final_layer_norm.weight']}
  (name, value), = huggingface.stream(found, alone | {
      name: tensor._replace(file=tensor.file / 'nowhere') for name, tensor in tensors.items() if name not in alone},
                                      wanted={one})
  assert name == one and value.shape == (48,)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_the_type_asked_for(shared, dtype):
  whole = values(rtjax.pretrained.load_huggingface(shared / 'parity/vlm/t5_v11'))
  for name, value in values(rtjax.pretrained.load_huggingface(shared / 'parity/vlm/t5_v11', dtype=dtype)).items():
    assert value.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(value, whole[name].astype(dtype), err_msg=name)
  with pytest.raises(ValueError, match=r"dtype is 'int8', expected one of \['float32', 'bfloat16', 'float16'\]"):
    rtjax.pretrained.load_huggingface(shared / 'parity/vlm/t5_v11', dtype='int8')


@pytest.mark.parametrize('dtype', [ml_dtypes.bfloat16, np.float16])
def test_half_precision(shared, copy, dtype):
  folder = copy('vit_in21k', lambda t: {name: value.astype(dtype) for name, value in t.items()})
  half = values(rtjax.pretrained.load_huggingface(folder))
  for name, value in values(rtjax.pretrained.load_huggingface(shared / 'parity/vlm/vit_in21k')).items():
    np.testing.assert_array_equal(half[name], value.astype(dtype).astype(np.float32), err_msg=name)


def test_the_tensors_tell_whether_the_head_is_tied(copy, tmp_path):
  def load(case, **changes):
    shutil.rmtree(tmp_path / case, ignore_errors=True)
    return rtjax.pretrained.load_huggingface(copy(case, **changes))
  # transformers 5 writes this for separate heads too.
  assert not load('t5_v11', config=lambda c: c | {'tie_word_embeddings': True}).config.tied
  with pytest.warns(UserWarning, match='a copy of shared.weight: lm_head.weight'):
    assert load('t5_ul2', tensors=lambda t: t | {'lm_head.weight': t['shared.weight'].copy()}).config.tied
  assert not load('t5_ul2', tensors=lambda t: t | {'lm_head.weight': 2 * t['shared.weight']}).config.tied
  with pytest.raises(ValueError, match=r'missing: lm_head.weight \(211, 48\)'):
    load('t5_v11', tensors=lambda t: {name: value for name, value in t.items() if name != 'lm_head.weight'})


@pytest.mark.parametrize('case, change, message', [
    ('vit_in21k', lambda t: {k: v for k, v in t.items() if k != 'pooler.dense.bias'},
     r'in 1 variables:\n  missing: pooler.dense.bias \(48,\)'),
    ('vit_classifier', lambda t: t | {'vit.extra': np.ones(2, np.float32)}, r'unknown: vit.extra \(2,\)'),
    ('vit_in21k', lambda t: t | {'embeddings.patch_embeddings.projection.weight': np.ones((48, 3, 4, 16), np.float32)},
     r'shape \(48, 3, 4, 16\), expected \(48, 3, 8, 8\): embeddings.patch_embeddings.projection.weight'),
    ('siglip_head', lambda t: t | {'vision_model.head.attention.in_proj_weight': np.ones((143, 48), np.float32)},
     r'shape \(143, 48\), expected \(144, 48\): vision_model.head.attention.in_proj_weight'),
    ('t5_v11', lambda t: t | {'decoder.block.1.layer.1.EncDecAttention.o.weight': np.ones((60, 48), np.float32)},
     r'shape \(60, 48\), expected \(48, 60\): decoder.block.1.layer.1.EncDecAttention.o.weight'),
    ('t5_ul2', lambda t: t | {'encoder.block.2.layer.0.layer_norm.weight': np.ones(36, np.float32)},
     'unknown: encoder.block.2.layer.0.layer_norm.weight'),
    ('vit_in21k', lambda t: t | {'pooler.dense.bias': np.ones(48, np.int64)},
     r'pooler.dense.bias in .*model.safetensors has the type I64, expected'),
    ('vit_in21k', lambda t: t | {'pooler.dense.bias': np.full(48, np.inf, np.float32)},
     r'model.safetensors holds NaN or infinite numbers in 1 arrays:\n  pooler.dense.bias \(48 of 48')])
def test_tensors_that_do_not_fit(copy, case, change, message):
  with pytest.raises(ValueError, match=message):
    rtjax.pretrained.load_huggingface(copy(case, change))


@pytest.mark.parametrize('case, change, message', [
    ('vit_in21k', {'model_type': 'vits'}, "model_type 'vits', expected one of .* Did you mean 'vit'"),
    ('t5_v11', {'model_type': 'umt5'}, "'umt5': another network than mT5"),
    ('t5_v11', {'model_type': 'mt6'}, "Did you mean 'mt5'"),
    ('paligemma1', {'model_type': 'gemma2'}, "'gemma2': a language model that sees no images. Use PaliGemma"),
    ('t5_v11', {'model_type': 'paligemma'}, "lacks an entry .*'text_config'"),
    ('t5_v11', {'model_type': 't5gemma2'}, "lacks an entry .*'encoder'"),
    ('siglip_head', {'model_type': 'siglip2'}, "siglip_head: .*NaFlex .*another network.*'siglip'"),
    ('siglip_head', {'model_type': 'siglip', 'vision_config': {'model_type': 'siglip2_vision_model'}}, 'NaFlex'),
    ('t5gemma2', {'model_type': 't5gemma'}, 'the first T5Gemma, another network'),
    ('paligemma1', {'text_config': {'model_type': 'gemma3_text'}}, "text_config.model_type 'gemma3_text', expected"),
    ('t5_v11', {'feed_forward_proj': 'relu'}, 'T5 1.0'),
    ('t5_v11', {'layer_norm_epsilon': 1e-5}, 'layer_norm_epsilon 1e-05'),
    ('vit_in21k', {'hidden_act': 'relu'}, "hidden_act 'relu'"),
    ('vit_in21k', {'qkv_bias': False}, 'qkv_bias False'),
    ('siglip_head', {'num_channels': 4}, 'num_channels 4')])
def test_unknown_architectures(copy, case, change, message):
  with pytest.raises(ValueError, match=message):
    rtjax.pretrained.load_huggingface(copy(case, config=lambda c: c | change))


def test_folders_without_a_model(tmp_path):
  with pytest.raises(FileNotFoundError, match='there is no such folder'):
    rtjax.pretrained.load_huggingface(tmp_path / 'nothing')
  (tmp_path / 'config.json').write_text('{"model_type": "vit"}')
  with pytest.raises(FileNotFoundError, match=r'no model.safetensors and no model.safetensors.index.json'):
    rtjax.pretrained.load_huggingface(tmp_path)
  (tmp_path / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(FileNotFoundError, match=r'Convert it once(.|\n)*torch.load'):
    rtjax.pretrained.load_huggingface(tmp_path)
  (tmp_path / 'model.safetensors').write_bytes(b'half a fi')
  with pytest.raises(ValueError, match='cannot be read'):
    rtjax.pretrained.load_huggingface(tmp_path)
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='is no JSON'):
    rtjax.pretrained.load_huggingface(tmp_path)


@pytest.mark.parametrize('name', ['model.safetensors', 'pytorch_model.bin', 'pytorch_model-00001-of-00001.bin',
                                  'model.pt', 'consolidated.pth', 'weights.bin', 'spiece.model', 'tokenizer.json'])
@pytest.mark.parametrize('model_type', ['vit', 't5gemma2'])
def test_pickle_is_never_executed(tmp_path, name, model_type):
  """Neither a file that is found nor one that an index names; nor a tokenizer."""
  class Attack:
    def __reduce__(self):
      return (tmp_path / 'executed').touch, ()
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': model_type}))
  (tmp_path / name).write_bytes(pickle.dumps(Attack()))
  if name in tokenizer.FILES:
    with pytest.raises(ValueError, match=rf'{name}: the vocabulary .* cannot be read'):
      tokenizer.Tokenizer.load(tmp_path)
  with pytest.raises((ValueError, FileNotFoundError), match='pytorch_model.bin' if 'pytorch' in name else name):
    rtjax.pretrained.load_huggingface(tmp_path)
  (tmp_path / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'a': name}}))
  with pytest.raises((ValueError, FileNotFoundError), match=name):
    rtjax.pretrained.load_huggingface(tmp_path)
  assert not (tmp_path / 'executed').exists()


def deep(config, place, value):
  """Return a configuration with one value changed, below objects: 'text_config.vocab_size'."""
  name, _, inner = place.partition('.')
  return config | {name: deep(config[name], inner, value) if inner else value}


@pytest.mark.parametrize('case, place, value, message', [
    ('t5_v11', 'd_ff', 100, r'by its config.json, the tensors of .* shape \(104, 48\), expected \(100, 48\): '
                            r'encoder.block.0.layer.1.DenseReluDense.wi_0.weight'),
    ('t5_v11', 'num_layers', 4, r'missing: encoder.block.3.layer.0.layer_norm.weight \(48,\)'),
    ('siglip_head', 'num_hidden_layers', 2, r'unknown: vision_model.encoder.layers.2.layer_norm1.bias \(48,\)'),
    ('vit_in21k', 'image_size', 48, r'shape \(1, 26, 48\), expected \(1, 37, 48\): embeddings.position_embeddings'),
    ('vit_in21k', 'hidden_size', '48', 'config.json of .* one of a wrong type|hidden_size|expected int'),
    ('paligemma1', 'text_config.vocab_size', 257216,
     r'shape \(307, 40\), expected \(257216, 40\): language_model.model.embed_tokens.weight'),
    ('paligemma1', 'text_config.num_hidden_layers', 4, 'missing: language_model.model.layers.3.input_layernorm.weight'),
    ('paligemma1', 'text_config.model_type', 'gemma2', 'missing: .*layers.0.pre_feedforward_layernorm.weight'),
    ('paligemma2', 'text_config.model_type', 'gemma', 'unknown: .*layers.0.pre_feedforward_layernorm.weight'),
    ('paligemma2', 'text_config.head_dim', 16, r'shape \(48, 40\), expected \(64, 40\): .*self_attn.q_proj.weight'),
    ('paligemma2', 'text_config.num_key_value_heads', 3, 'kv_heads is 3, expected a divisor of the 4 heads'),
    ('paligemma2', 'text_config.layer_types', ['full_attention'], 'layer_types of 1 layers .*expected 3'),
    ('paligemma2', 'text_config.hidden_activation', 'relu', "hidden_activation 'relu'"),
    ('paligemma2', 'vision_config.image_size', 32, r'shape \(9, 48\), expected \(16, 48\): vision_tower.vision_model.'
                                                   'embeddings.position_embedding.weight'),
    ('paligemma2', 'vision_config', None, 'paligemma2 lacks an entry or has one of a wrong type'),
    ('t5gemma2', 'decoder.num_hidden_layers', 1, 'layer_types of 2 layers .*expected 1'),
    ('t5gemma2', 'decoder.hidden_size', 40, 'different widths'),
    ('t5gemma2', 'encoder.text_config.intermediate_size', 96, r'shape \(104, 48\), expected \(96, 48\): model.encoder.'
                                                              'layers.0.mlp.gate_proj.weight'),
    ('t5gemma2', 'encoder.mm_tokens_per_image', 5, 'pooled_tokens is 5, expected the square'),
    ('t5gemma2', 'encoder.text_config.rope_parameters', {'full_attention': {'rope_type': 'yarn'}}, 'rope_type'),
    ('t5_ul2', 'pad_token_id', 2, 'config.json has pad_token_id 2, expected 0'),
    ('t5_v11', 'decoder_start_token_id', 3, 'decoder_start_token_id 3, expected 0'),
    ('paligemma1', 'text_config.bos_token_id', 1, 'bos_token_id 1, expected 2'),
    ('t5gemma2', 'encoder.text_config.eos_token_id', [106, 107], r'eos_token_id \[106, 107\], expected 1'),
    ('t5gemma2', 'decoder.pad_token_id', 4, 'pad_token_id 4, expected 0'),
    ('t5gemma2', 'encoder', [], 't5gemma2 lacks an entry or has one of a wrong type')])
def test_a_configuration_that_contradicts_the_weights(shared, case, place, value, message):
  folder = shared / 'parity/vlm' / case
  config = deep(json.loads((folder / 'config.json').read_text()), place, value)
  shapes = {name: tensor.shape for name, tensor in huggingface_files.find_tensors(folder).items()}
  with pytest.raises(ValueError, match=f'(?s){message}') as caught:
    huggingface.plan(config, shapes, str(folder))
  assert str(folder) in str(caught.value)


@pytest.mark.parametrize('case, tensor', [
    ('paligemma1', 'multi_modal_projector.linear.bias'), ('paligemma2', 'language_model.model.norm.weight'),
    ('t5gemma2', 'model.encoder.embed_tokens.eoi_embedding')])
def test_tensors_of_gemma_that_do_not_fit(copy, case, tensor):
  """Missing, of another shape, of another type, not finite."""
  folder, tensors = copy(case, save=False)
  value = tensors[tensor]
  infinite = value.copy()
  infinite[0] = np.inf
  for changed, message in ((None, f'missing: {tensor}'),
                           (np.ones(7, np.float32), rf'shape \(7,\), expected.*: {tensor}'),
                           (value.astype(np.int32), f'{tensor} in .*model.safetensors has the type I32'),
                           (infinite, rf'model.safetensors holds NaN or infinite(.|\n)*{tensor} \(1 of')):
    written = {name: v for name, v in (tensors | {tensor: changed}).items() if v is not None}
    safetensors_numpy.save_file(written, folder / 'model.safetensors')
    with pytest.raises(ValueError, match=message):
      huggingface.read(folder)


@pytest.mark.parametrize('case', ['vit_in21k', 'siglip_head', 't5_v11', 'paligemma1', 'paligemma2', 't5gemma2'])
def test_shards_that_are_missing_or_truncated(copy, case):
  folder, tensors = copy(case, save=False)
  names = sorted(tensors)
  shards = {f'model-0000{i}-of-00003.safetensors': names[i - 1::3] for i in (1, 2, 3)}
  for file, part in shards.items():
    safetensors_numpy.save_file({name: tensors[name] for name in part}, folder / file)
  (folder / 'model.safetensors.index.json').write_text(json.dumps(
      {'weight_map': {name: file for file, part in shards.items() for name in part}}))
  huggingface.open_folder(folder)
  file, last = folder / 'model-00002-of-00003.safetensors', shards['model-00002-of-00003.safetensors'][-1]
  whole = file.read_bytes()
  for content, message in ((whole[:-1], rf'{file} cannot be read.*the end of 1 of its tensors, the first {last}'),
                           (whole[:100], f'{file} cannot be read'), (b'', f'{file} cannot be read')):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message.replace('.safetensors', r'\.safetensors')):
      huggingface.open_folder(folder)
  file.unlink()
  with pytest.raises(FileNotFoundError, match='names shards that are missing: model-00002-of-00003'):
    huggingface.open_folder(folder)


def test_siglip_2_of_one_size(shared, copy):
  """The layout is SigLIP's, with a vocabulary of Gemma and linear interpolation of the images."""
  folder = copy(
      'siglip_head', lambda t: t | {'text_model.embeddings.token_embedding.weight': np.ones((256, 3), np.float32)},
      lambda c: {'model_type': 'siglip', 'text_config': {'model_type': 'siglip_text_model', 'vocab_size': 256000},
                 'vision_config': c})
  processor = {'image_mean': [0.5] * 3, 'image_std': [0.5] * 3, 'do_rescale': True, 'do_normalize': True, 'resample': 2}
  (folder / 'preprocessor_config.json').write_text(json.dumps(processor))
  found, _ = huggingface.open_folder(folder)
  plain, _ = huggingface.open_folder(shared / 'parity/vlm/siglip_head')
  assert plain.config.interpolation == 'cubic' and found.config.interpolation == 'linear'
  assert found.names == plain.names and found.variables == plain.variables
  assert set(found.ignored) == {'text_model.embeddings.token_embedding.weight'}


@pytest.mark.parametrize('case, settings, message', [
    ('paligemma1', {'resample': 1}, r"has \{'resample': 1\}, expected .*resample 2 \(linear\) or 3"),
    ('vit_in21k', {'image_mean': [0.485, 0.456, 0.406]}, r"has \{'image_mean': \[0.485, 0.456, 0.406\]\}"),
    ('t5gemma2', {'do_normalize': False}, 'do_normalize')])
def test_an_image_processor_that_is_not_ours(copy, case, settings, message):
  folder = copy(case)
  (folder / 'processor_config.json').write_text(json.dumps({'image_processor': settings}))
  with pytest.raises(ValueError, match=f'the image processor in .*{case} .*{message}'):
    huggingface.open_folder(folder)
