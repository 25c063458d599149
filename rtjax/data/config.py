"""Settings of the input pipeline.

Imports nothing heavy, since the command line reads this module.
"""
import dataclasses
import math
import os
from collections.abc import Sequence

from rtjax.runtime.flags import Hidden

NO_VECTORS = 'none'
"""`DataConfig.encoder` of models that read the text of an instruction themselves."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Settings of the pipeline of episodes, except the list of datasets.

  Attributes:
    split: training episodes, in TFDS's split algebra: 'train', 'train[:90%]', 'train+val'.
    validation_split: validation episodes.
    weights: share of each dataset in a mixture, one number per dataset; empty takes the weight of each adapter.
    image_size: (height, width) to resize and pad images to, as RT-1-X does; None: as stored, equal in a mixture.
    stride: steps between windows; the window's length decodes each frame once per epoch.
    padding_in_loss: count the zero actions of the frames padded in front of an episode.
    proprioception: add the robot state to the batches.
    waypoints: add, for each frame, the position of the gripper when its opening is next commanded to change, or else
      at the end of the episode, or what the dataset's adapter names; for models that learn it
      (`model.waypoint_weight`). x, y and z are the first three numbers of proprioception.
    views: cameras, by their names in the adapters ('image' is an adapter's main one); images are then
      [B, T, views, H, W, 3] in this order. Empty takes one camera, [B, T, H, W, 3].
    camera: the only camera; empty takes the main one.
    encoder: instruction encoder for datasets without its vectors: 'hashed-ngrams/1' or another id, a folder, an .npz.
      Empty takes the stored vectors, 'none' reads none, as models that read prompts do.
    drop_unlabelled: leave out episodes without an instruction, with zero vectors, or with a text that is no UTF-8.
    rt1_x_grippers: take the gripper signs of RT-1-X's notebook for taco_play and toto, where an open gripper is 1.
    shuffle_episodes: encoded episodes in memory whose windows are shuffled; a mixture divides them. As many again are
      read ahead.
    allow_clipping: accept datasets of which more than 1 % of an action's numbers lie beyond the ActionSpec's bounds.
    cache_dir: folder for dataset statistics; empty means `$XDG_CACHE_HOME/rtjax` or `~/.cache/rtjax`.
    threads: threads that decode images; 0 means one per available core.
  """
  split: str = 'train'
  validation_split: str = 'val'
  weights: tuple[float, ...] = ()
  image_size: tuple[int, int] | None = None
  stride: int = 1
  padding_in_loss: Hidden[bool] = False
  proprioception: bool = False
  waypoints: Hidden[bool] = False
  views: tuple[str, ...] = ()
  camera: str = ''
  encoder: str = ''
  drop_unlabelled: bool = False
  rt1_x_grippers: Hidden[bool] = False
  shuffle_episodes: int = 512
  allow_clipping: Hidden[bool] = False
  cache_dir: Hidden[str] = ''
  threads: Hidden[int] = 0

  def __post_init__(self) -> None:
    if self.stride < 1 or self.shuffle_episodes < 1 or self.threads < 0:
      raise ValueError(f'DataConfig: stride is {self.stride}, shuffle_episodes {self.shuffle_episodes}, threads '
                       f'{self.threads}; expected at least 1, 1 and 0.')
    if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
      raise ValueError(f'DataConfig: image_size is {self.image_size}, expected (height, width) in pixels.')
    if len(set(self.views)) < len(self.views):
      raise ValueError(f'DataConfig: views are {self.views}, expected each camera once.')
    _check_weights('DataConfig', 'dataset', self.weights)

  def mixture_weights(self, datasets: list[str], defaults: list[float]) -> list[float]:
    """Return the share of each dataset, by `weights` or else `defaults`."""
    if self.weights and len(self.weights) != len(datasets):
      raise ValueError(f'DataConfig: {len(self.weights)} weights {self.weights} for {len(datasets)} datasets '
                       f'{datasets}; give one per dataset, or none to take the defaults.')
    weights = list(self.weights or defaults)
    return [w / sum(weights) for w in weights]

  def num_threads(self) -> int:
    return self.threads or available_cores()


@dataclasses.dataclass(frozen=True)
class TaskWeights:
  """Share of each task among image-text pairs.

  Only ratios count; 0 leaves a task out.
  """
  caption: Hidden[float] = 1.0
  vqa: Hidden[float] = 1.0
  match: Hidden[float] = 1.0
  point: Hidden[float] = 1.0


@dataclasses.dataclass(frozen=True)
class ImageTextConfig:
  """Settings of the image-text pipeline, except the list of sources.

  Attributes:
    split: training pairs: in TFDS's split algebra, or the prefix of file names.
    validation_split: validation pairs.
    tasks: the share of each task.
    weights: share of each source in the tasks that it has, one number per source; empty: all the same.
    shuffle_images: images held in memory, still encoded, to shuffle their texts together; divided by weight. As many
      again are read ahead.
    threads: threads that decode images; 0 means one per available core.
  """
  split: Hidden[str] = 'train'
  validation_split: Hidden[str] = 'val'
  tasks: TaskWeights = TaskWeights()
  weights: Hidden[tuple[float, ...]] = ()
  shuffle_images: Hidden[int] = 2048
  threads: Hidden[int] = 0

  def __post_init__(self) -> None:
    if self.shuffle_images < 1 or self.threads < 0:
      raise ValueError(f'ImageTextConfig: shuffle_images is {self.shuffle_images}, threads {self.threads}; '
                       'expected at least 1 and 0.')
    tasks = dataclasses.astuple(self.tasks)
    if not all(math.isfinite(w) and w >= 0 for w in tasks) or not any(tasks):
      raise ValueError(f'ImageTextConfig: tasks are {self.tasks}, expected numbers of 0 or more, one of them positive.')
    _check_weights('ImageTextConfig', 'source', self.weights)

  def num_threads(self) -> int:
    return self.threads or available_cores()


def available_cores() -> int:
  """Number of CPU cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _check_weights(config: str, item: str, weights: Sequence[float]) -> None:
  if not all(math.isfinite(w) and w > 0 for w in weights):
    raise ValueError(f'{config}: weights are {weights}, expected positive numbers; leave a {item} out instead of '
                     'giving it 0.')
