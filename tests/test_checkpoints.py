"""Checkpoints whose metadata is of wrong types."""
import json
import pathlib
import shutil

import numpy as np
import pytest
from helpers import saved_run
from helpers.tiny_rt1 import TINY

from rtjax import checkpoints, models
from rtjax.checkpoints import CheckpointError
from rtjax.models import parameters


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
