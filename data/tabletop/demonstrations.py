"""Demonstrations of scripted experts in the tabletop simulator.

The executed actions are disturbed, so that the episodes show mistakes and recoveries: noise, at times a push over
several steps, an opening gripper, or a grasp at nothing, from which a policy that missed must learn to recover. The
recorded actions are the expert's. (seed, number) determines an episode completely.
"""
import dataclasses
from typing import Any

import numpy as np

from rtjax import envs
from rtjax.data.generation import encode_jpeg
from rtjax.envs.tabletop import splits
from rtjax.envs.tabletop.scene import CAMERAS
from rtjax.language.instructions import hashed_ngrams

EPISODES_PER_FILE = 20
"""Raw episodes per file, the unit of resuming."""

_NOISE = np.array([0.004] * 3 + [0.02] * 3 + [0.0])
_PUSH_CHANCE, _PUSH_STEPS, _PUSH = 0.04, 3, 0.03
_OPEN_CHANCE = 0.006
_GRASP_CHANCE, _GRASP_STEPS = 0.03, 6


@dataclasses.dataclass(frozen=True)
class RecordingConfig:
  """Parameters that determine the episodes.

  Attributes:
    seed: random seed of the episodes.
    image_size: (height, width) of all cameras.
    renderer: 'rays' or 'gl'.
    disturbance: strength of the disturbances: 0 is none, at 1 nearly all experts recover, at 5 half fail.
    wrist: whether to store the wrist camera besides the front one; without it, recording takes two thirds of the time.
    multiview: whether to store all six cameras of the simulator.
    split: split of the episodes; held-out tasks, objects and backgrounds are an error.
    skills: skills to record in turn; none samples all skills of the split.
  """
  seed: int = 0
  image_size: tuple[int, int] = (96, 96)
  renderer: str = 'rays'
  disturbance: float = 1.0
  wrist: bool = True
  multiview: bool = False
  split: str = 'seen'
  skills: tuple[str, ...] = ()

  @property
  def image_keys(self) -> list[str]:
    """Observation keys of the stored images."""
    keys = ['image', *(f'{name}_image' for name in CAMERAS[1:])]
    return keys if self.multiview else keys[:1 + self.wrist]


class Recorder:
  """Recorder of episodes."""

  def __init__(self, config: RecordingConfig):
    self._config = config
    self._env = envs.make('tabletop', split=config.split, image_size=config.image_size, renderer=config.renderer,
                          wrist=config.wrist, multiview=config.multiview)

  def record(self, number: int) -> dict[str, Any]:
    """Record an episode.

    Returns:
      {'steps': [...], 'episode_metadata': {...}}, images as JPEG bytes.

    Raises:
      ValueError: the episode contains a task, object or background that is held out of training data.
    """
    rng = np.random.default_rng((self._config.seed, number))
    env: Any = self._env.unwrapped
    skills = self._config.skills
    observation, _ = env.reset(seed=int(rng.integers(2 ** 31)),
                               options={'skill': skills[number % len(skills)]} if skills else None)
    start, scene = env.episode, env.episode.scene
    items = tuple(placed.item for placed in scene.objects)
    splits.require_seen(start.task, start.instruction, items, scene.appearance)
    expert, disturbance = env.expert(), Disturbance(rng, self._config.disturbance)
    embedding = hashed_ngrams(start.instruction)
    steps: list[dict[str, Any]] = []
    ended = False
    while not ended:
      action = expert(env.state)
      stored = self._stored(observation)
      observation, reward, terminated, truncated, info = env.step(disturbance(action))
      ended = terminated or truncated
      steps.append({
          'observation': stored,
          'action': action, 'reward': np.float32(reward), 'discount': np.float32(1),
          'language_instruction': start.instruction, 'language_embedding': embedding,
          'is_first': not steps, 'is_last': ended, 'is_terminal': terminated})
    return {'steps': steps, 'episode_metadata': {
        'number': number, 'success': info['success'], 'skill': info['skill'], 'task': info['task'],
        'split': self._config.split, 'renderer': self._config.renderer, 'objects': info['objects'],
        'table': scene.appearance.table, 'wall': scene.appearance.wall, 'dropped': info['dropped']}}

  def close(self) -> None:
    self._env.close()

  def _stored(self, observation: dict[str, Any]) -> dict[str, Any]:
    images = {key: encode_jpeg(observation[key]) for key in self._config.image_keys}
    return images | {'state': observation['proprioception']}


class Disturbance:
  """Random disturbance of executed actions.

  Every step has noise. At times a push lasts several steps, or the gripper closes and rises for some steps instead of
  following the expert. Rarely the gripper opens.
  """

  def __init__(self, rng: np.random.Generator, strength: float = 1.0):
    self._rng, self._strength = rng, strength
    self._push, self._push_steps = np.zeros(7), 0  # steps left
    self._lift, self._grasp_steps = 0.0, 0

  def __call__(self, action: np.ndarray) -> np.ndarray:
    self._push_steps, self._grasp_steps = self._push_steps - 1, self._grasp_steps - 1
    if self._push_steps < 0 and self._rng.random() < _PUSH_CHANCE * self._strength:
      self._push_steps = int(self._rng.integers(1, _PUSH_STEPS + 1))
      self._push = np.append(self._rng.uniform(-_PUSH, _PUSH, 3), np.zeros(4))
    if self._grasp_steps < 0 and self._rng.random() < _GRASP_CHANCE * self._strength:
      self._grasp_steps = int(self._rng.integers(2, _GRASP_STEPS + 1))
      self._lift = self._rng.uniform(0, 0.05)
    noise = self._strength * _NOISE * self._rng.normal(size=7)
    executed = action + noise + (self._push if self._push_steps >= 0 else 0)
    if self._rng.random() < _OPEN_CHANCE * self._strength:
      executed[6] = 1.0
    if self._grasp_steps >= 0:
      executed[2], executed[6] = self._lift + noise[2], 0.0
    limits = np.array([0.05] * 3 + [0.25] * 3)
    return np.append(np.clip(executed[:6], -limits, limits), executed[6]).astype(np.float32)


def record(config: RecordingConfig, first: int, end: int) -> list[dict[str, Any]]:
  """Record episodes [first, end)."""
  recorder = Recorder(config)
  try:
    return [recorder.record(number) for number in range(first, end)]
  finally:
    recorder.close()
