"""Accuracy of a model's answers on an image-text source."""
import types

import numpy as np
import pytest
from helpers import image_text_folders

from rtjax.checkpoints import PolicyMetadata
from rtjax.evaluation.language import answers
from rtjax.language.formats import TEXT
from rtjax.language.tokenizer import Tokenizer


class ConstantModel:
  """Model that gives one answer to every question."""
  config = types.SimpleNamespace(
      image_size=image_text_folders.SIZE, prompt_length=24, answer_length=8, prompt_format=TEXT)

  def __init__(self, answer: str):
    self.tokenizer, self._answer = Tokenizer(), answer

  def generate(self, images, prompts):
    assert images.shape[1:] == (*self.config.image_size, 3) and prompts.dtype == np.int32
    return self.tokenizer.encode([self._answer] * len(images), self.config.answer_length)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp('source')
  lines = [{'question': 'how many?', 'answer': answer} for answer in ('2', '3', '3')]
  image_text_folders.write_jsonl(folder, [*lines, {'caption': 'a can'}], 'val')
  return image_text_folders.write_jsonl(folder, lines, 'train', first=10)


def test_accuracy_without_captions(source):
  figures = answers.accuracy(ConstantModel('three'), [source])
  assert set(figures) == {'vqa'} and (figures['vqa']['correct'], figures['vqa']['count']) == (2, 3)


def test_blind_accuracy(source):
  assert answers.blind_accuracy([source])['vqa']['correct'] == 2


def test_before_and_after(source, tmp_path, monkeypatch):
  monkeypatch.setattr('rtjax.pretrained.load_model', lambda path: ConstantModel('2'))
  metadata = PolicyMetadata(lineage={'weights': str(tmp_path)})
  result = answers.evaluate_vqa(ConstantModel('3'), metadata, [source])
  assert result['init_from'] == str(tmp_path)
  assert [result[when]['vqa']['correct'] for when in ('before', 'after')] == [1, 2]
  missing = PolicyMetadata(lineage={'weights': str(tmp_path / 'gone')})
  assert answers.evaluate_vqa(ConstantModel('3'), missing, [source])['before'] is None
  assert answers.evaluate_vqa(ConstantModel('3'), PolicyMetadata(), [source])['init_from'] is None


def test_model_without_a_tokenizer(source):
  model = ConstantModel('2')
  model.tokenizer = None
  with pytest.raises(ValueError, match='has no tokenizer'):
    answers.accuracy(model, [source])
