"""Short runs, shared by the tests of training."""
import pathlib
import shutil

import pytest
from helpers import rt2_training, tiny_training

from rtjax.training import loop


@pytest.fixture(scope='session')
def four_steps(tmp_path_factory):
  """An uninterrupted run of four steps; copy it before changing it."""
  run = tmp_path_factory.mktemp('runs') / 'complete'
  loop.train(tiny_training.config(run), data=tiny_training.data())
  return run


@pytest.fixture
def run(four_steps, tmp_path):
  return pathlib.Path(shutil.copytree(four_steps, tmp_path / 'run'))


@pytest.fixture(scope='session')
def questions(tmp_path_factory):
  """Folder of questions about the colour of images."""
  return rt2_training.write_questions(tmp_path_factory.mktemp('questions'))


@pytest.fixture(scope='session')
def stages(tmp_path_factory, questions):
  """Runs of RT-2: stage 1 on text, stage 2 on robots too; copy to change."""
  runs = tmp_path_factory.mktemp('stages')
  loop.train(rt2_training.config(runs / 'one', questions))
  loop.train(rt2_training.config(runs / 'two', questions, data=('colours',), weights=runs / 'one'),
             data=tiny_training.data())
  return runs
