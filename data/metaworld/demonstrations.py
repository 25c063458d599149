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
from rtjax.data.generation import encode_jpeg
from rtjax.data.item_store import SplitRanges
from rtjax.envs.metaworld_tasks import TASKS
from rtjax.language.instructions import hashed_ngrams

EPISODES_PER_FILE = 10
"""Raw episodes per file, the unit of resuming."""

_ATTEMPTS = 20
_EPISODES_PER_SEED = 10_000  # of a task; keeps the starts of all seeds below 2 ** 31
_NOISE = np.array([0.2, 0.2, 0.2, 0.0])
_PUSH_CHANCE, _PUSH_STEPS = 0.02, 10
_SLIP_CHANCE, _SLIP_STEPS = 0.004, 4


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
    if not 0 <= self.disturbance < float('inf'):
      raise ValueError(f'--disturbance is {self.disturbance}, expected a finite number of at least 0.')

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


class Recorder:
  """Recorder of episodes."""

  def __init__(self, config: RecordingConfig):
    self._config = config
    self._env: Any = envs.make(f'metaworld/{config.tasks}', image_size=config.image_size, renderer=config.renderer)

  def record(self, number: int) -> dict[str, Any]:
    """Record a successful episode.

    Returns:
      {'steps': [...], 'episode_metadata': {...}}, images as JPEG bytes.

    Raises:
      RuntimeError: no attempt succeeded.
    """
    task, index = self._config.episode(number)
    rng = np.random.default_rng((self._config.seed, TASKS.index(task), index))
    first = (self._config.seed * _EPISODES_PER_SEED + index) * _ATTEMPTS
    for attempt in range(_ATTEMPTS):
      steps = self._attempt(task, first + attempt, rng)
      if steps[-1]['is_terminal']:
        return {'steps': steps, 'episode_metadata': {
            'number': number, 'task': task, 'start': first + attempt, 'failed_attempts': attempt,
            'renderer': self._config.renderer}}
    raise RuntimeError(f'{task}: the expert failed from {_ATTEMPTS} starts (from seed {first} on). Set a lower '
                       '--disturbance.')

  def close(self) -> None:
    self._env.close()

  def _attempt(self, task: str, start: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    env = self._env
    observation, _ = env.reset(seed=start, options={'skill': task})
    expert, disturbance = env.expert(), Disturbance(rng, self._config.disturbance)
    embedding = hashed_ngrams(observation['instruction'])
    steps: list[dict[str, Any]] = []
    ended = False
    while not ended:
      action = expert(env.state).astype(np.float32)
      stored = {'image': encode_jpeg(observation['image']), 'state': observation['proprioception']}
      observation, _, terminated, truncated, _ = env.step(disturbance(action))
      ended = terminated or truncated
      steps.append({
          'observation': stored, 'action': action, 'reward': np.float32(terminated), 'discount': np.float32(1),
          'language_instruction': observation['instruction'], 'language_embedding': embedding,
          'is_first': not steps, 'is_last': ended, 'is_terminal': terminated})
    return steps


class Disturbance:
  """Random disturbance of executed actions.

  Every step has noise. At times a push lasts several steps. Rarely the gripper does the opposite for some steps.
  """

  def __init__(self, rng: np.random.Generator, strength: float = 1.0):
    self._rng, self._strength = rng, strength
    self._push, self._push_steps, self._slip_steps = np.zeros(4), 0, 0  # steps left

  def __call__(self, action: np.ndarray) -> np.ndarray:
    self._push_steps, self._slip_steps = self._push_steps - 1, self._slip_steps - 1
    if self._push_steps < 0 and self._rng.random() < _PUSH_CHANCE * self._strength:
      self._push_steps = int(self._rng.integers(1, _PUSH_STEPS + 1))
      self._push = np.append(self._rng.uniform(-1, 1, 3), 0)
    if self._slip_steps < 0 and self._rng.random() < _SLIP_CHANCE * self._strength:
      self._slip_steps = int(self._rng.integers(1, _SLIP_STEPS + 1))
    executed = action + self._strength * _NOISE * self._rng.normal(size=4)
    if self._push_steps >= 0:
      executed = executed + self._push
    if self._slip_steps >= 0:
      executed[3] = -executed[3]
    return np.clip(executed, -1, 1).astype(np.float32)


def record(config: RecordingConfig, first: int, end: int) -> list[dict[str, Any]]:
  """Record episodes [first, end)."""
  recorder = Recorder(config)
  try:
    return [recorder.record(number) for number in range(first, end)]
  finally:
    recorder.close()
