"""Training input from datasets that store texts, but no instruction vectors."""
import dataclasses
import types

import numpy as np
import pytest
from helpers import rlds_layouts, rt2_training

from rtjax import actions, data
from rtjax.data.config import DataConfig
from rtjax.language.tokenizer import Tokenizer
from rtjax.training import sharding
from rtjax.training.config import ValidationConfig
from rtjax.training.input import TrainingInput


def step(t: int) -> dict:
  image = np.zeros((16, 16, 3), np.uint8)
  return {'action': np.float32([0.1, 0, 0, 0, 0, 0, -1]), 'is_last': np.bool_(t == 2), 'language_instruction': 'go on',
          'observation/image': image, 'observation/wrist_image': image, 'observation/state': np.zeros(8, np.float32)}


@pytest.fixture
def config(tmp_path):
  folder = rlds_layouts.write(tmp_path, 'libero_10_no_noops', 3, step, count=2)
  model = dataclasses.replace(rt2_training.MODEL, action_spec=actions.ARM_7D)
  run = rt2_training.config(tmp_path / 'run', 'no questions', model=model, validation=ValidationConfig(every=0))
  return dataclasses.replace(run, data=(folder,), text=None, batch_size=4,
                             pipeline=DataConfig(cache_dir=str(tmp_path / 'cache'), shuffle_episodes=2))


def first_batch(config, tokenizer):
  mesh, model = sharding.make_mesh((1, 1, 1)), types.SimpleNamespace(check=lambda observation: None)
  with TrainingInput(config, data, mesh, model, tokenizer) as batches:
    return batches.embedding_id, batches.next().observation


def test_rt2_reads_the_texts(config):
  tokenizer = Tokenizer()
  encoder, observation = first_batch(config, tokenizer)
  assert encoder == tokenizer.id and observation.instruction is None
  expected = tokenizer.encode(['What action should the robot take to go on?'], config.model.prompt_length)
  np.testing.assert_array_equal(observation.prompt, np.repeat(expected, 4, 0))


def test_others_need_the_name_of_an_encoder(config):
  with pytest.raises(ValueError, match=r'stores no instruction vectors.*--pipeline\.encoder hashed-ngrams/1'):
    first_batch(config, None)
  pipeline = dataclasses.replace(config.pipeline, encoder='hashed-ngrams/1')
  encoder, observation = first_batch(dataclasses.replace(config, pipeline=pipeline), None)
  assert encoder == 'hashed-ngrams/1' and observation.instruction.shape[-1] == 512
