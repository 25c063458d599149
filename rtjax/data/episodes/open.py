"""Datasets of episodes by their names, of whichever kind."""
from typing import Any

from rtjax.actions import ActionSpec
from rtjax.data import names
from rtjax.data.config import DataConfig
from rtjax.data.episode import EpisodeSource
from rtjax.data.language import open_vectors
from rtjax.data.rlds.episodes import Dataset


def open_dataset(name: str, split: str, action_spec: ActionSpec, **options: Any) -> EpisodeSource:
  """Open one split of a dataset.

  Args:
    name: folder of a LeRobot dataset, or a name that `rlds.episodes.Dataset` takes.
    split: in TFDS's split algebra.
    action_spec: the action fields to read, in its order.
    options: see `rlds.episodes.Dataset`.

  Raises:
    FileNotFoundError, ValueError: the dataset cannot be read with these settings.
  """
  names.require(name)
  if not names.is_lerobot(name):
    return Dataset(name, split, action_spec, **options)
  from rtjax.data.lerobot.episodes import LeRobotDataset  # imports pyarrow
  return LeRobotDataset(name, split, action_spec, **options)


def open_numbers(name: str, config: DataConfig, action_spec: ActionSpec) -> EpisodeSource:
  """Open `config.split` without images, for statistics."""
  return open_dataset(name, config.split, action_spec, images=False, views=config.views, camera=config.camera,
                      proprioception=None, vectors=open_vectors(config.encoder),
                      drop_unlabelled=config.drop_unlabelled, rt1_x_grippers=config.rt1_x_grippers)
