"""Tokenizer, backbone weights and lineage of a run."""
import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
  checkpoint_files,
  public_backbones,
  rt2_training,
  saved_run,
  tiny_rt2,
  tiny_tokenizers,
  tiny_training,
)
from helpers.rt2_training import COLOURS, MODEL, config

import rtjax
from rtjax import configs, models
from rtjax.export import safetensors as safetensors_export
from rtjax.export.step import Step
from rtjax.language.tokenizer import Tokenizer
from rtjax.pretrained import safetensors, save_huggingface
from rtjax.runtime import serialization
from rtjax.training import lineage, loop
from rtjax.training.config import TrainConfig, VisionLanguageInit


def test_another_tokenizer_is_refused(stages, questions, tmp_path):
  path = _own_tokenizer(tmp_path)
  with pytest.raises(ValueError, match=r'was trained with the tokenizer .* Leave --init\.tokenizer out'):
    loop.train(config(tmp_path / 'run', questions, weights=stages / 'one', init={'tokenizer': str(path)}))


def test_a_tokenizer_larger_than_the_network_is_refused(questions, tmp_path):
  with pytest.raises(ValueError, match='has 1536 tokens, the backbone has embeddings for 1000'):
    loop.train(config(tmp_path / 'run', questions, model=rt2_training.with_text_config(MODEL, vocab_size=1000)))


def test_a_damaged_tokenizer_is_refused(stages, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(stages / 'one', run)
  for step in (run / 'checkpoints').iterdir():
    checkpoint_files.change_metadata(step, lambda text: re.sub(r'rtjax/[0-9a-f]{12}', 'rtjax/000000000000', text))
  with pytest.raises(ValueError, match="expected 'rtjax/000000000000': the file was changed"):
    rtjax.load_model(run)


def _start(folder, family, init=None, **files):
  """Open the tokenizer of a run that starts from a public backbone, whose folder gets other files."""
  settings = public_backbones.write(family, folder)
  where = Path(settings.get('backbone') or settings['text'])
  for name, content in files.items():
    (where / name.replace('_', '.')).write_bytes(content)
  preset = configs.get(f'rt2_{family}').model
  model = dataclasses.replace(preset, backbone=public_backbones.CONFIGS[family], action_spec=tiny_training.SPEC)
  run = TrainConfig(model=model, output='nowhere', init=VisionLanguageInit(**settings | (init or {})))
  tokenizer = lineage.open_tokenizer(run)
  return lineage.with_backbone(run).with_tokenizer(tokenizer), tokenizer


@pytest.mark.parametrize('family', public_backbones.CONFIGS)
def test_the_tokenizer_in_the_folder_fits(family, tmp_path):
  config, tokenizer = _start(tmp_path, family)
  assert config.action_ids and str(tmp_path) in str(tokenizer)


@pytest.mark.parametrize('family, content, message', [
    # As many tokens as the backbone has embeddings, but for other tokens.
    ('t5gemma2', lambda: tiny_tokenizers.gemma_json(256), r"has '<unused0>' at id 4, .* needs '<start_of_image>'"),
    ('paligemma', lambda: tiny_tokenizers.gemma_json(1152, version=3), r"at id 108, this backbone needs '\\n'"),
    # Fewer: Gemma's without coordinates, T5's for mT5.
    ('paligemma', lambda: tiny_tokenizers.gemma_json(), 'has 420 tokens, .*config.json .* embeddings for 1576'),
    ('pali_mt5', lambda: tiny_tokenizers.gemma_model(500), 'has 920 tokens, .* has embeddings for 1536'),
    ('pali_mt5', lambda: tiny_tokenizers.gemma_model(1024), 'has 1572 tokens, .* has embeddings for 1536')])
def test_a_tokenizer_of_another_backbone_is_refused(family, content, message, tmp_path):
  pytest.importorskip('tokenizers', reason="needs the extra 'language'")
  name = 'spiece_model' if family == 'pali_mt5' else 'tokenizer_json'
  with pytest.raises(ValueError, match=f'{name.replace("_", ".")}.*{message}'):
    _start(tmp_path, family, **{name: content()})


def test_an_image_id_that_contradicts_the_tokenizer(tmp_path):
  pytest.importorskip('tokenizers', reason="needs the extra 'language'")
  public_backbones.write('paligemma', tmp_path)
  content = json.loads((tmp_path / 'paligemma/config.json').read_text()) | {'image_token_index': 1262}
  with pytest.raises(ValueError, match=r"tokenizer.json has '<loc0001>' at id 110, this backbone needs '<loc0000>'"):
    _start(tmp_path / 'other', 'paligemma', config_json=json.dumps(content).encode())


def test_a_given_tokenizer_must_be_that_of_the_embeddings(tmp_path):
  """The same vocabulary in another kind of file is."""
  pytest.importorskip('tokenizers', reason="needs the extra 'language'")
  same, other = tmp_path / 'same.model', tmp_path / 'other.model'
  same.write_bytes(tiny_tokenizers.gemma_model(1024))
  other.write_bytes(tiny_tokenizers.gemma_model(1024, words='sort the yellow blocks by their size'))
  config, tokenizer = _start(tmp_path / 'a', 'paligemma', {'tokenizer': str(same)})
  assert config.action_ids and not tokenizer.is_json
  with pytest.raises(ValueError, match=r'other\.model has other tokens than .*tokenizer\.json'):
    _start(tmp_path / 'b', 'paligemma', {'tokenizer': str(other)})


def _exported(model, folder):
  safetensors_export.save(Step(model, (16, 16)), folder, False)
  return folder


def _packed(model, folder):
  run = saved_run.save(model, folder / 'run', '', train=serialization.to_json(config(folder, '')))
  safetensors.pack(run, folder / 'packed.safetensors')
  return folder / 'packed.safetensors'


@pytest.mark.parametrize('write', [_exported, _packed])
def test_exports_and_packaged_weights_hand_on_tokenizer_and_codec(write, tmp_path):
  pytest.importorskip('tokenizers', reason="needs the extra 'language'")
  own, fast = Tokenizer(tiny_tokenizers.gemma_model(), 'own'), tiny_rt2.fast()
  wide = rt2_training.with_text_config(fast, vocab_size=own.size)
  model = models.build(dataclasses.replace(wide, action_ids=()).with_tokenizer(own), seed=0)
  model.set_tokenizer(own)
  weights = write(model, tmp_path)
  run = TrainConfig(output='nowhere', data=('robot',), init=VisionLanguageInit(weights=str(weights)),
                    model=dataclasses.replace(wide, action_codec=None, action_ids=()))
  tokenizer = lineage.open_tokenizer(run)
  assert tokenizer.id == own.id
  found = lineage.with_codec(run, None)  # no data to fit another on
  assert found.action_codec == fast.action_codec
  assert found.with_tokenizer(tokenizer).action_ids == model.config.action_ids
  assert lineage.describe(run)['weights'] == str(weights)
  assert ('step' in lineage.describe(run)) == (write is _packed)
  with pytest.raises(ValueError, match=r'was trained with the tokenizer .* Leave --init\.tokenizer out'):
    lineage.open_tokenizer(dataclasses.replace(run, init=dataclasses.replace(
        run.init, tokenizer=str(_written(tmp_path / 'package.model', Tokenizer().model)))))


def _written(file, content):
  file.write_bytes(content)
  return file


def _own_tokenizer(folder):
  import sentencepiece
  text = folder / 'text.txt'
  text.write_text('\n'.join(f'pick up the {colour} {number} {item}' for colour in COLOURS for number in range(300)
                            for item in ('cube', 'ball', 'cup')))
  sentencepiece.SentencePieceTrainer.train(
      input=str(text), model_prefix=str(folder / 'own'), vocab_size=330, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
      hard_vocab_limit=False, minloglevel=2)
  return folder / 'own.model'


def test_parts_from_hugging_face(shared):
  """Variables of the folder are loaded, others stay, and all are reported."""
  from rtjax.pretrained import huggingface
  folders = {part: shared / 'parity/vlm' / case for part, case in (('vision', 'vit_classifier'), ('text', 't5_v11'))}
  if not all(folder.is_dir() for folder in folders.values()):
    pytest.skip('no published checkpoints in the folder of reference data')
  held = {part: huggingface.read(folder) for part, folder in folders.items()}
  # A network without the classifier, and of one layer more in the decoder.
  text = dataclasses.replace(held['text'].config, decoder_layers=held['text'].config.decoder_layers + 1)
  vision = dataclasses.replace(held['vision'].config, classes=0, pooler=False)
  backbone = dataclasses.replace(MODEL.backbone, vision=vision, text=text)
  model = models.build(dataclasses.replace(MODEL, backbone=backbone), seed=0)
  before = models.parameters.named(model)
  reports = [lineage.fill_backbone_part(model, part, folder) for part, folder in folders.items()]
  after = models.parameters.named(model)
  theirs = {f'backbone/{part}/{name}': value for part, found in held.items() for name, value in found.values.items()}
  for name, value in after.items():
    np.testing.assert_array_equal(value, theirs.get(name, before[name]), err_msg=name)
  new = f'backbone/text/decoder/layers/{text.decoder_layers - 1}/attention/query/kernel'
  assert 'new: 14 variables' in reports[1] and new in reports[1]
  assert 'left out: 2 variables' in reports[0] and 'vision/classifier/kernel' in reports[0]
  with pytest.raises(ValueError, match='it holds a ViT, expected a T5'):
    lineage.fill_backbone_part(model, 'text', folders['vision'])
  with pytest.raises(ValueError, match='it holds a T5, expected a ViT or SigLIP'):
    lineage.fill_backbone_part(model, 'vision', folders['text'])
  with pytest.raises(ValueError, match=r'none of its .* variables fits the text part'):
    lineage.fill_backbone_part(models.build(MODEL, seed=0), 'text', folders['text'])
  with pytest.raises(FileNotFoundError, match=r'holds no spiece\.model'):
    lineage.open_tokenizer(TrainConfig(model=MODEL, output='nowhere',
                                       init=VisionLanguageInit(text=str(folders['text']))))


def _siglip(folder, **changes):
  """A published SigLIP of 2x2 patches, as a folder and as a network."""
  network = models.build(dataclasses.replace(public_backbones.CONFIGS['pali_mt5'].vision, **changes), seed=7)
  save_huggingface(network, folder)
  return network


def _larger(**changes):
  """RT-2 on that SigLIP, for images of 4x3 patches."""
  backbone = public_backbones.CONFIGS['pali_mt5']
  vision = dataclasses.replace(backbone.vision, image_size=(32, 24), **changes)
  return dataclasses.replace(MODEL, backbone=dataclasses.replace(backbone, vision=vision))


def test_positions_are_interpolated_for_the_models_image_size(tmp_path):
  published, model = _siglip(tmp_path), models.build(_larger(), seed=0)
  report = lineage.fill_backbone_part(model, 'vision', tmp_path)
  assert 'interpolated: positions of (2, 2) patches for (4, 3)' in report and 'new: 0 variables' in report
  pixels = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 32, 24, 3)), jnp.float32)
  np.testing.assert_allclose(model.backbone.vision(pixels), published(pixels), atol=1e-5)


@pytest.mark.parametrize('changes, message', [
    ({'class_token': True}, r"class_token False, model.backbone.vision has True"),
    ({'activation': 'gelu'}, r"activation 'gelu_tanh', .* has 'gelu'"),
    ({'patch': 4}, r'patch 8, .* has 4.*--model.backbone.vision.patch accordingly')])
def test_another_computation_than_the_weights_are_for_is_refused(tmp_path, changes, message):
  _siglip(tmp_path)
  with pytest.raises(ValueError, match=message):
    lineage.fill_backbone_part(models.build(_larger(**changes), seed=0), 'vision', tmp_path)


def test_images_are_resized_as_for_the_published_vision(tmp_path, questions):
  _siglip(tmp_path)
  (tmp_path / 'preprocessor_config.json').write_text('{"resample": 2}')
  settings = config(tmp_path / 'run', questions, init={'vision': str(tmp_path)}, model=_larger())
  for weights in (True, False):
    model = lineage.with_backbone(settings, weights=weights)
    assert model.backbone.vision.interpolation == 'linear'
    assert model == dataclasses.replace(settings.model, backbone=model.backbone)
  assert settings.model.backbone.vision.interpolation == 'cubic'
