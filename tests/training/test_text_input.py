"""Prompts and image-text pairs as the trainer takes them."""
import dataclasses
import json

import numpy as np
import pytest
from helpers import rt2_training
from PIL import Image

from rtjax.data.config import ImageTextConfig
from rtjax.language.tokenizer import Tokenizer
from rtjax.models.auxiliary.config import GroundingConfig
from rtjax.models.backbones.conv_stem import ConvStemConfig
from rtjax.training import loop
from rtjax.training.config import ValidationConfig
from rtjax.training.text_input import TextInput


def text_input(tmp_path, source):
  return TextInput(rt2_training.config(tmp_path / 'run', source, batch_size=2), Tokenizer(), (0, 1))


def test_few_validation_batches_hold_every_task(questions, tmp_path):
  text = text_input(tmp_path, questions)
  text.stream.close()
  tasks = [batch.tasks.tolist() for batch in text.validation()]
  assert tasks == [[1, -1], [2, 2], [2, 2]]


def test_prompts_are_token_ids_and_padding_without_a_window(questions, tmp_path):
  text = text_input(tmp_path, questions)
  text.stream.close()
  prompts = text.prompts({'instructions': np.array(['pick up the red cube', '', 'go'], object)})
  expected = Tokenizer().encode(['What action should the robot take to pick up the red cube?'], 20)
  assert prompts.dtype == np.int32 and prompts.shape == (3, 20)
  np.testing.assert_array_equal(prompts[0], expected[0])
  assert not prompts[1].any() and prompts[2].any()


def test_points_come_with_their_grid(tmp_path):
  Image.new('RGB', (16, 16)).save(tmp_path / 'black.png')
  line = {'image': 'black.png', 'point': 'the hole', 'answer': '2 0', 'grid': 3}
  (tmp_path / 'train.jsonl').write_text(json.dumps(line))
  text = text_input(tmp_path, str(tmp_path))
  batch = text.next()
  text.stream.close()
  assert batch.points.tolist() == [[2, 0], [2, 0]] and batch.grid.tolist() == [3, 3]


def test_a_point_without_a_grid_stops_a_run_with_a_pointing_loss(tmp_path):
  Image.new('RGB', (16, 16)).save(tmp_path / 'black.png')
  line = {'image': 'black.png', 'point': 'the hole', 'answer': '2 0'}
  (tmp_path / 'train.jsonl').write_text(json.dumps(line))
  model = rt2_training.MODEL
  auxiliary = GroundingConfig(language_tokens=1, pointing_weight=1.0, stem=ConvStemConfig(patch=4))
  with pytest.raises(ValueError, match=r'grid of \[0\] cells across.*Give the grid in the data'):
    loop.train(rt2_training.config(tmp_path / 'run', str(tmp_path), validation=ValidationConfig(every=0),
                                   model=dataclasses.replace(model, auxiliary=auxiliary)))


def test_a_missing_split_fails_before_training(questions, tmp_path):
  with pytest.raises(FileNotFoundError, match="no split 'test'"):
    loop.train(rt2_training.config(tmp_path / 'run', questions, text={
        'pipeline': ImageTextConfig(validation_split='test')}))
  assert not (tmp_path / 'run').exists()


def test_a_batch_size_that_does_not_divide(questions, tmp_path):
  with pytest.raises(ValueError, match=r'text\.batch_size 6 does not divide into 4'):
    loop.train(rt2_training.config(tmp_path / 'run', questions, data=('colours',), grad_accum_steps=4,
                                   text={'batch_size': 6}))
