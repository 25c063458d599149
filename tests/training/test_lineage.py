"""Tokenizer, backbone weights and lineage of a run."""
import dataclasses
import re
import shutil

import numpy as np
import pytest
from helpers import checkpoint_files, rt2_training
from helpers.rt2_training import COLOURS, MODEL, config

import rtjax
from rtjax import models
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
