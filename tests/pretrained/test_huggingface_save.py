"""Writer of models as published: there and back, shards, transformers."""
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tracemalloc
import warnings

import jax
import numpy as np
import pytest
from flax import nnx
from helpers.paths import ROOT

import rtjax
from rtjax import models
from rtjax.models import parameters
from rtjax.models.backbones.pali import PaLIConfig
from rtjax.models.backbones.siglip import SigLIPConfig
from rtjax.models.backbones.t5 import T5Config
from rtjax.models.backbones.vit import ViTConfig
from rtjax.models.layers import lora
from rtjax.models.layers.lora import LoraConfig
from rtjax.pretrained import huggingface_config, huggingface_save
from tests.models.backbones import test_paligemma as paligemma
from tests.models.backbones import test_t5gemma2 as t5gemma2

safetensors_numpy = pytest.importorskip('safetensors.numpy')

CASES = ['vit_in21k', 'vit_classifier', 'siglip_head', 'siglip_nohead', 't5_v11', 't5_ul2', 'paligemma1', 'paligemma2',
         't5gemma2', 't5gemma2_norope8']
TINY = T5Config(vocab_size=128, width=64, head_size=16, mlp_width=128, encoder_layers=1, decoder_layers=2, heads=4)
GEMMA_2 = dataclasses.replace(paligemma.TINY, text=dataclasses.replace(
    paligemma.TEXT, post_norms=True, query_scale=8.0, attention_cap=3.0, logit_cap=5.0), image_id=39)
STACK = dataclasses.replace(t5gemma2.STACK, query_scale=8.0)
T5GEMMA = dataclasses.replace(
    t5gemma2.TINY, vision=dataclasses.replace(t5gemma2.TINY.vision, interpolation='linear'), encoder=STACK,
    decoder=STACK, image_begin=(108, 31), image_end=(32, 108), image_id=33)
VIT = ViTConfig(image_size=(16, 24), patch=8, width=32, layers=1, heads=2, mlp_width=48, classes=3)


def load(folder, **options):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of copies that are left out
    return rtjax.pretrained.load_huggingface(folder, **options)


def assert_equal(one, other):
  assert one.config == other.config
  one, other = parameters.named(one), parameters.named(other)
  assert one.keys() == other.keys()
  for name in one:
    np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def entries(folder):
  return flat(json.loads((folder / 'config.json').read_text()))


def flat(config, place=''):
  """Return the values of nested objects by place."""
  return {place: config} if not isinstance(config, dict) else {
      name: found for key, value in config.items() for name, found in flat(value, f'{place}.{key}').items()}


@pytest.mark.parametrize('case', CASES)
def test_the_file_comes_back_byte_by_byte(shared, tmp_path, case):
  source = shared / 'parity/vlm' / case
  model = load(source)
  rtjax.pretrained.save_huggingface(model, tmp_path / 'written')
  assert (tmp_path / 'written/model.safetensors').read_bytes() == (source / 'model.safetensors').read_bytes()
  assert_equal(load(tmp_path / 'written'), model)
  before, after = entries(source), entries(tmp_path / 'written')
  both = after.keys() & before.keys()
  assert {key: after[key] for key in both} == {key: before[key] for key in both}
  written_by_default = {'_token_id', '.tie_word_embeddings'}
  assert all(key.endswith(tuple(written_by_default)) for key in after.keys() - both)


@pytest.mark.parametrize('case', ['mt5', 'paligemma2'])
def test_configuration_names_and_companions_of_the_source(shared, tmp_path, case):
  """Fine-tuned weights in another type, beside everything else that was published."""
  source, written = tmp_path / 'source', tmp_path / 'written'
  shutil.copytree(shared / 'parity/vlm' / case, source)
  config = json.loads((source / 'config.json').read_text())
  del config['dtype']
  (source / 'config.json').write_text(json.dumps(config | {'torch_dtype': 'float32', 'note': 'kept'}))
  tensors = safetensors_numpy.load_file(source / 'model.safetensors')
  renamed = {re.sub('^(vision_tower|multi_modal)', r'model.\1', name.replace(
      'language_model.model.', 'model.language_model.')): value for name, value in tensors.items()}
  safetensors_numpy.save_file(renamed, source / 'model.safetensors')
  (source / 'tokenizer.json').write_text('{}')
  (source / 'README.md').write_text('of the published model alone')
  written.mkdir()
  (written / 'generation_config.json').write_text('mine')
  (source / 'generation_config.json').write_text('theirs')
  rtjax.pretrained.save_huggingface(load(source, dtype='bfloat16'), written, source=source)
  assert entries(written) == entries(source) | {'.torch_dtype': 'bfloat16'}
  assert {p.name for p in written.iterdir()} == {'config.json', 'generation_config.json', 'model.safetensors',
                                                 'tokenizer.json'}
  assert (written / 'generation_config.json').read_text() == 'mine'
  copies = {name for name in renamed if name.endswith('coder.embed_tokens.weight') and case == 'mt5'}
  assert safetensors_numpy.load_file(written / 'model.safetensors').keys() == renamed.keys() - copies
  assert_equal(load(written), load(source, dtype='bfloat16'))


def test_a_source_of_another_network(shared, tmp_path):
  model = load(shared / 'parity/vlm/paligemma1')
  with pytest.raises(ValueError, match=r'source .*paligemma2 holds another network than this PaliGemma: .*text\.'
                                       r'mlp_width 88 \(not 84\)'):
    rtjax.pretrained.save_huggingface(model, tmp_path, source=shared / 'parity/vlm/paligemma2')
  with pytest.raises(FileNotFoundError, match='there is no such folder'):
    rtjax.pretrained.save_huggingface(model, tmp_path, source=tmp_path / 'nowhere')
  assert not list(tmp_path.iterdir())


def test_adapters_are_folded_in(tmp_path):
  model = models.build(GEMMA_2, seed=0)
  plain = parameters.named(model)
  lora.adapt(model, LoraConfig(rank=2, alpha=4.0), rngs=nnx.Rngs(1))
  layer = model.text.decoder.layers.stacked.attention.query
  layer.lora_b[...] = jax.random.normal(jax.random.key(2), layer.lora_b.shape)
  rtjax.pretrained.save_huggingface(model, tmp_path)
  saved = parameters.named(load(tmp_path))
  names = [f'text/decoder/layers/{i}/attention/query/kernel' for i in range(GEMMA_2.text.layers)]
  for i, name in enumerate(names):
    np.testing.assert_allclose(saved[name], plain[name] + 2 * (layer.lora_a[i] @ layer.lora_b[i]).reshape(
        plain[name].shape), atol=1e-6)
  for other in plain.keys() - {*names}:
    np.testing.assert_array_equal(saved[other], plain[other], err_msg=other)


def test_copies_of_the_embeddings_are_left_out(shared, tmp_path):
  source = shared / 'parity/vlm/mt5'
  rtjax.pretrained.save_huggingface(load(source), tmp_path)
  before, after = (safetensors_numpy.load_file(folder / 'model.safetensors') for folder in (source, tmp_path))
  assert before.keys() - after.keys() == {'encoder.embed_tokens.weight', 'decoder.embed_tokens.weight'}
  for name, value in after.items():
    np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.parametrize('config', [
    TINY, dataclasses.replace(TINY, tied=True, activation='silu'), VIT,
    dataclasses.replace(VIT, pooler=True, classes=0),
    SigLIPConfig(image_size=(28, 28), width=32, layers=1, heads=2, mlp_width=48, pooler=True), GEMMA_2, T5GEMMA])
def test_there_and_back_in_shards(tmp_path, config):
  model = models.build(config, seed=3)
  rtjax.pretrained.save_huggingface(model, tmp_path, shard_bytes=20_000)
  weight_map = json.loads((tmp_path / 'model.safetensors.index.json').read_text())['weight_map']
  files = sorted(set(weight_map.values()))
  assert len(files) > 2 and not (tmp_path / 'model.safetensors').exists()
  for file in files:
    tensors = safetensors_numpy.load_file(tmp_path / file)
    assert tensors.keys() == {name for name, where in weight_map.items() if where == file}
    assert len(tensors) == 1 or sum(value.nbytes for value in tensors.values()) <= 20_000
  index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
  assert index['metadata']['total_size'] == sum(value.nbytes for value in parameters.named(model).values())
  assert_equal(rtjax.pretrained.load_huggingface(tmp_path), model)


def test_a_model_in_bfloat16_stays_so(tmp_path):
  rtjax.pretrained.save_huggingface(models.build(TINY, seed=0), tmp_path / 'wide')
  half = load(tmp_path / 'wide', dtype='bfloat16')
  rtjax.pretrained.save_huggingface(half, tmp_path / 'half')
  assert json.loads((tmp_path / 'half/config.json').read_text())['dtype'] == 'bfloat16'
  assert_equal(load(tmp_path / 'half', dtype='bfloat16'), half)
  sizes = [(tmp_path / folder / 'model.safetensors').stat().st_size for folder in ('wide', 'half')]
  assert sizes[1] < 0.6 * sizes[0]


def test_weights_on_a_mesh(tmp_path):
  """Shards go to eight devices as the table of training/sharding.py has it."""
  rtjax.pretrained.save_huggingface(models.build(TINY, seed=0), tmp_path, shard_bytes=50_000)
  script = ROOT / 'tests/helpers/weights_on_a_mesh.py'
  done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-3000:]
  found = json.loads(done.stdout.splitlines()[-1])
  assert found.keys() == parameters.shapes(models.abstract(TINY)).keys()
  assert all(dtype == 'bfloat16' and equal for dtype, _, equal in found.values())
  assert found['encoder/layers/0/attention/query/kernel'][1] == [16, 2, 16]  # 64 by fsdp, 4 heads by tensor
  assert found['token_embedding/embedding'][1] == [64, 16]
  assert found['encoder/norm/scale'][1] == [64]


@pytest.mark.parametrize('config, message', [
    (dataclasses.replace(VIT, class_token=False, classes=0), r'cannot express class_token False \(not True\)'),
    (dataclasses.replace(GEMMA_2, text=dataclasses.replace(GEMMA_2.text, head_norms=True)),
     r'cannot express text\.head_norms True \(not False\) of this PaliGemmaConfig'),
    (dataclasses.replace(T5GEMMA, image_begin=(31,)), r'cannot express image_begin \[31\] \(not \[108, 31\]\)'),
    (PaLIConfig(VIT, TINY), 'a PaLIConfig cannot be written, .* its parts `vision` and `text`'),
    (models.RT1Config(), "a RT1Config cannot be written, expected one of .*'T5Config'")])
def test_models_that_the_format_cannot_express(tmp_path, config, message):
  with pytest.raises(ValueError, match=message):
    huggingface_config.describe(config)


def test_numbers_that_mean_the_same_are_no_difference():
  """A scale of 0 is the head's size, and no list of local layers is one of global ones."""
  text = dataclasses.replace(GEMMA_2.text, query_scale=0.0, local=())
  written, names = huggingface_config.describe(dataclasses.replace(GEMMA_2, text=text))
  assert written['text_config']['query_pre_attn_scalar'] == 8 and names
  assert written['text_config']['layer_types'] == ['full_attention'] * 2


def test_a_folder_with_a_model_is_left_alone(tmp_path):
  (tmp_path / 'model-00001-of-00002.safetensors').touch()
  with pytest.raises(ValueError, match='holds a model already'):
    rtjax.pretrained.save_huggingface(models.abstract(TINY), tmp_path)
  with pytest.raises(ValueError, match='shard_bytes is 0'):
    rtjax.pretrained.save_huggingface(models.abstract(TINY), tmp_path / 'new', shard_bytes=0)


def test_nothing_is_left_of_a_model_that_was_not_written_to_its_end(tmp_path, monkeypatch):
  (tmp_path / 'notes.txt').touch()

  def fail(*_):
    raise OSError('No space left on device')
  monkeypatch.setattr(huggingface_save, '_write_json', fail)  # the index, after the shards
  with pytest.raises(OSError, match='No space left'):
    rtjax.pretrained.save_huggingface(models.build(TINY, seed=0), tmp_path, shard_bytes=20_000)
  assert [p.name for p in tmp_path.iterdir()] == ['notes.txt']


def test_tensors_are_written_one_by_one(tmp_path):
  """The memory at the peak is that of a few tensors."""
  model = models.build(TINY, seed=0)
  sizes = [value.nbytes for value in parameters.named(model).values()]
  rtjax.pretrained.save_huggingface(model, tmp_path / 'first')  # what is imported and cached counts no more
  tracemalloc.start()
  try:
    rtjax.pretrained.save_huggingface(model, tmp_path / 'second')
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < 4 * max(sizes) + 100_000 < sum(sizes)


def inputs_and_outputs(case, golden):
  """Return the inputs of transformers, and the names of golden outputs with a mask of what counts."""
  names = ['pixel_values', 'input_ids', 'attention_mask', 'token_type_ids', 'labels']
  outputs = ['logits', 'loss', 'pooler_output', 'last_hidden_state']
  inputs = {name: golden[name] for name in names if name in golden}
  mask = golden['attention_mask'] == 1 if case.startswith('paligemma') else ...
  return inputs, {name: mask if name == 'logits' else ... for name in outputs if name in golden}


def tensors_of(torch, arrays):
  return {name: torch.tensor(a if a.dtype == np.float32 else a.astype(np.int64)) for name, a in arrays.items()}


@pytest.mark.slow
@pytest.mark.parametrize('case', [*CASES, 'mt5'])
def test_transformers_opens_it(shared, tmp_path, case):
  """transformers finds every tensor, computes the golden outputs, and writes a folder that loads here."""
  torch = pytest.importorskip('torch', reason='needs PyTorch and transformers, in an environment of their own')
  transformers = pytest.importorskip('transformers')
  source, saved, again = shared / 'parity/vlm' / case, tmp_path / 'saved', tmp_path / 'again'
  ours = load(source)
  rtjax.pretrained.save_huggingface(ours, saved, shard_bytes=100_000)
  model_class = getattr(transformers, json.loads((saved / 'config.json').read_text())['architectures'][0])
  model, info = model_class.from_pretrained(saved, output_loading_info=True, attn_implementation='eager')
  assert not any(info[kind] for kind in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info
  with np.load(source / 'golden.npz') as arrays:
    golden = dict(arrays)
  inputs, compared = inputs_and_outputs(case, golden)
  with torch.no_grad():
    outputs = model.eval()(**tensors_of(torch, inputs))
  compared = {key: mask for key, mask in compared.items() if key in outputs}
  assert compared
  for key, mask in compared.items():
    np.testing.assert_allclose(np.asarray(outputs[key])[mask], golden[key][mask], atol=1e-4, rtol=0, err_msg=key)
  model.save_pretrained(again)
  assert_equal(load(again), ours)


@pytest.mark.slow
@pytest.mark.parametrize('case', ['paligemma1', 'paligemma2', 't5gemma2', 't5gemma2_norope8'])
def test_transformers_generates_the_same_ids(shared, tmp_path, case):
  torch = pytest.importorskip('torch', reason='needs PyTorch and transformers, in an environment of their own')
  transformers = pytest.importorskip('transformers')
  source = shared / 'parity/vlm' / case
  rtjax.pretrained.save_huggingface(load(source), tmp_path)
  model_class = getattr(transformers, json.loads((tmp_path / 'config.json').read_text())['architectures'][0])
  model = model_class.from_pretrained(tmp_path, attn_implementation='eager')
  with np.load(source / 'golden.npz') as arrays:
    golden = dict(arrays)
  prompt = {name: golden[f'gen_{name}'] if f'gen_{name}' in golden else golden[name]
            for name in ('input_ids', 'attention_mask', 'pixel_values')}
  if case.startswith('paligemma'):
    prompt['token_type_ids'] = np.zeros_like(prompt['input_ids'])
  model.generation_config.eos_token_id = None
  with torch.no_grad():
    ids = model.eval().generate(**tensors_of(torch, prompt), max_new_tokens=8, do_sample=False)
  np.testing.assert_array_equal(ids, golden['generate_ids'])
