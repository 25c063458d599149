"""The settings of the input pipeline. Imports nothing heavy: the command line reads them."""
import dataclasses
import math
import os


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Everything about the input pipeline except which datasets it reads.

  Attributes:
    split: episodes to train on, in TFDS's split algebra: 'train', 'train[:90%]', 'train+val'.
    validation_split: episodes to validate on.
    weights: share of each dataset in a mixture, one number per dataset; empty takes each adapter's own weight.
    image_size: (height, width) that the host brings images to, keeping their aspect and padding with black as RT-1-X
      does; None leaves them as stored (all datasets of a mixture must then agree).
    stride: steps between neighbouring windows; 1 uses each step as the newest once, the window's length uses
      (and decodes) each frame once per epoch.
    padding_in_loss: count the zero actions of the frames padded in front of an episode.
    proprioception: add the robot's state to the batches.
    waypoints: add, for each frame, where the gripper is when its opening is next commanded to change, or else at the
      episode's end; for networks that learn it (`model.waypoint_weight`). Its x, y and z are the first three numbers
      of proprioception.
    views: the cameras of a step, by the names that the adapters give them ('image' is an adapter's main one); images
      are then [B, T, V, H, W, 3] in this order. Empty takes the main one, [B, T, H, W, 3].
    shuffle_episodes: how many episodes are in memory, still encoded, to have their windows shuffled together; in a
      mixture shared out by weight. As many again are read ahead.
    allow_clipping: accept datasets of which more than 1 % of an action's numbers lie beyond the ActionSpec's bounds.
    cache_dir: folder for dataset statistics; empty means `$XDG_CACHE_HOME/rtjax` or `~/.cache/rtjax`.
    threads: threads that decode images; 0 means one per available core.
  """
  split: str = 'train'
  validation_split: str = 'val'
  weights: tuple[float, ...] = ()
  image_size: tuple[int, int] | None = None
  stride: int = 1
  padding_in_loss: bool = False
  proprioception: bool = False
  waypoints: bool = False
  views: tuple[str, ...] = ()
  shuffle_episodes: int = 512
  allow_clipping: bool = False
  cache_dir: str = ''
  threads: int = 0

  def __post_init__(self) -> None:
    if self.stride < 1 or self.shuffle_episodes < 1 or self.threads < 0:
      raise ValueError(f'DataConfig: stride is {self.stride}, shuffle_episodes {self.shuffle_episodes}, threads '
                       f'{self.threads}; expected at least 1, 1 and 0.')
    if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
      raise ValueError(f'DataConfig: image_size is {self.image_size}, expected (height, width) in pixels.')
    if len(set(self.views)) < len(self.views):
      raise ValueError(f'DataConfig: views are {self.views}, expected each camera once.')
    if not all(math.isfinite(w) and w > 0 for w in self.weights):
      raise ValueError(f'DataConfig: weights are {self.weights}, expected positive numbers; '
                       'leave a dataset out instead of giving it 0.')

  def mixture_weights(self, datasets: list[str], defaults: list[float]) -> list[float]:
    """The share of each dataset, summing to 1: the weights given, or the adapters' own."""
    if self.weights and len(self.weights) != len(datasets):
      raise ValueError(f'DataConfig: {len(self.weights)} weights {self.weights} for {len(datasets)} datasets '
                       f'{datasets}; give one per dataset, or none to take the defaults.')
    weights = list(self.weights or defaults)
    return [w / sum(weights) for w in weights]

  def num_threads(self) -> int:
    return self.threads or _cores()


@dataclasses.dataclass(frozen=True)
class KindWeights:
  """The share of each kind of task among pictures with texts; only their ratios count, and 0 leaves a kind out."""
  caption: float = 1.0
  vqa: float = 1.0
  match: float = 1.0
  point: float = 1.0


@dataclasses.dataclass(frozen=True)
class ImageTextConfig:
  """How pictures with texts are read, except which.

  Attributes:
    split: what to train on: in TFDS's split algebra, or the beginning of the files' names.
    validation_split: what to validate on.
    kinds: the share of each kind of task.
    weights: the share of each source in the kinds that it has, one number per source; empty: all the same.
    shuffle_pictures: how many pictures are in memory, still encoded, to have their texts shuffled together; shared out
      by weight. As many again are read ahead.
    threads: threads that decode pictures; 0 means one per available core.
  """
  split: str = 'train'
  validation_split: str = 'val'
  kinds: KindWeights = KindWeights()
  weights: tuple[float, ...] = ()
  shuffle_pictures: int = 2048
  threads: int = 0

  def __post_init__(self) -> None:
    if self.shuffle_pictures < 1 or self.threads < 0:
      raise ValueError(f'ImageTextConfig: shuffle_pictures is {self.shuffle_pictures}, threads {self.threads}; '
                       'expected at least 1 and 0.')
    kinds = dataclasses.astuple(self.kinds)
    if not all(math.isfinite(w) and w >= 0 for w in kinds) or not any(kinds):
      raise ValueError(f'ImageTextConfig: kinds are {self.kinds}, expected numbers of 0 or more, one of them positive.')
    if not all(math.isfinite(w) and w > 0 for w in self.weights):
      raise ValueError(f'ImageTextConfig: weights are {self.weights}, expected positive numbers; '
                       'leave a source out instead of giving it 0.')

  def num_threads(self) -> int:
    return self.threads or _cores()


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
