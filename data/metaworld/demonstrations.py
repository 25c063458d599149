"""Demonstrations of Meta-World's scripted experts.

The executed actions are disturbed, so that the episodes show mistakes and recoveries: noise, at times a push over
several steps, or a gripper that opens or closes at the wrong time. The recorded actions are the expert's. Only
successful episodes are kept: a failed one is repeated from another start. (seed, task, index) determines an episode
completely, so that MT10's are a part of MT50's.
"""
import dataclasses
from typing import Any

import numpy as np

from rtjax import envs
from rtjax.data.generation import disturbance, recording
from rtjax.data.generation.item_store import SplitRanges
from rtjax.envs.metaworld_tasks import TASKS

EPISODES_PER_FILE = 10
"""Raw episodes per file, the unit of resuming."""

_ATTEMPTS = 20
_EPISODES_PER_SEED = 10_000  # of a task; keeps the starts of all seeds below 2 ** 31
_NOISE = np.array([0.2, 0.2, 0.2, 0.0])
_PUSH = 0.02, (1, 10), 1.0
_SLIP = 0.004, (1, 4)


@dataclasses.dataclass(frozen=True)
class RecordingConfig:
  """Parameters that determine the episodes.

  Attributes:
    tasks: a suite, mt10 or mt50, or one task, such as reach-v3.
    episodes: training episodes of each task; a tenth as many more are held out.
    seed: random seed of the episodes, from 0 to 9999.
    image_size: (height, width).
    renderer: 'gl', or 'none' for black images.
    disturbance: strength of the disturbances; 0 is none.
  """
  tasks: str = 'mt10'
  episodes: int = 50
  seed: int = 0
  image_size: tuple[int, int] = (96, 96)
  renderer: str = 'gl'
  disturbance: float = 1.0

  def __post_init__(self) -> None:
    if not 1 <= self.episodes <= _EPISODES_PER_SEED // 2:
      raise ValueError(f'--episodes is {self.episodes}, expected 1 to {_EPISODES_PER_SEED // 2} for each task.')
    if not 0 <= self.seed < 10_000:
      raise ValueError(f'--seed is {self.seed}, expected 0 to 9999.')
    disturbance.check_strength(self.disturbance)

  @property
  def held_out(self) -> int:
    """Held-out episodes of each task."""
    return max(1, self.episodes // 10)

  def splits(self) -> SplitRanges:
    """Return the item numbers of the splits 'train' and 'val'."""
    train = len(self.task_names) * self.episodes
    return {'train': (0, train), 'val': (train, train + len(self.task_names) * self.held_out)}

  def episode(self, number: int) -> tuple[str, int]:
    """Return an item's task, and its index within the task."""
    train = self.splits()['train'][1]
    if number < train:
      return self.task_names[number // self.episodes], number % self.episodes
    place, index = divmod(number - train, self.held_out)
    return self.task_names[place], self.episodes + index

  @property
  def task_names(self) -> tuple[str, ...]:
    return envs.splits(f'metaworld/{self.tasks}')['seen']


class Recorder(recording.Recorder):
  """Recorder of episodes."""

  def __init__(self, config: RecordingConfig):
    self._config = config
    super().__init__(envs.make(f'metaworld/{config.tasks}', image_size=config.image_size, renderer=config.renderer))

  def record(self, number: int) -> dict[str, Any]:
    """Record a successful episode.

    Raises:
      RuntimeError: no attempt succeeded.
    """
    task, index = self._config.episode(number)
    rng = np.random.default_rng((self._config.seed, TASKS.index(task), index))
    first = (self._config.seed * _EPISODES_PER_SEED + index) * _ATTEMPTS
    for attempt in range(_ATTEMPTS):
      start = self._env.reset(seed=first + attempt, options={'skill': task})
      steps, info = self._follow_expert(start, make_disturbance(rng, self._config.disturbance))
      if info['success']:
        return {'steps': steps, 'episode_metadata': {
            'number': number, 'task': task, 'start': first + attempt, 'failed_attempts': attempt,
            'renderer': self._config.renderer}}
    raise RuntimeError(f'{task}: the expert failed from {_ATTEMPTS} starts (from seed {first} on). Set a lower '
                       '--disturbance.')


def make_disturbance(rng: np.random.Generator, strength: float = 1.0) -> disturbance.ArmDisturbance:
  """Create the random disturbance of an episode."""
  return disturbance.ArmDisturbance(rng, strength, _NOISE, _PUSH, _SLIP)


def record(config: RecordingConfig, first: int, end: int) -> list[dict[str, Any]]:
  """Record episodes [first, end)."""
  return Recorder(config).record_range(first, end)
