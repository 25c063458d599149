"""Demonstrations of scripted experts in the tabletop simulator.

The executed actions are disturbed, so that the episodes show mistakes and recoveries: noise, at times a push over
several steps, an opening gripper, or a grasp at nothing, from which a policy that missed must learn to recover. The
recorded actions are the expert's. (seed, number) determines an episode completely.
"""
import dataclasses
from typing import Any

import numpy as np

from rtjax import envs
from rtjax.data.generation import disturbance, recording
from rtjax.envs.tabletop import splits
from rtjax.envs.tabletop.scene import CAMERAS

EPISODES_PER_FILE = 20
"""Raw episodes per file, the unit of resuming."""

_NOISE = np.array([0.004] * 3 + [0.02] * 3 + [0.0])
_LIMITS = np.array([0.05] * 3 + [0.25] * 3 + [np.inf])
_PUSH_CHANCE, _PUSH_STEPS, _PUSH = 0.04, (1, 3), 0.03
_OPEN_CHANCE = 0.006
_GRASP_CHANCE, _GRASP_STEPS = 0.03, (2, 6)


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

  def __post_init__(self) -> None:
    disturbance.check_strength(self.disturbance)

  @property
  def image_keys(self) -> list[str]:
    """Observation keys of the stored images."""
    keys = ['image', *(f'{name}_image' for name in CAMERAS[1:])]
    return keys if self.multiview else keys[:1 + self.wrist]


class Recorder(recording.Recorder):
  """Recorder of episodes."""

  def __init__(self, config: RecordingConfig):
    self._config = config
    env = envs.make('tabletop', split=config.split, image_size=config.image_size, renderer=config.renderer,
                    wrist=config.wrist, multiview=config.multiview)
    super().__init__(env, config.image_keys)

  def record(self, number: int) -> dict[str, Any]:
    """Record an episode.

    Raises:
      ValueError: the episode contains a task, object or background that is held out of training data.
    """
    rng = np.random.default_rng((self._config.seed, number))
    skills = self._config.skills
    start = self._env.reset(seed=int(rng.integers(2 ** 31)),
                            options={'skill': skills[number % len(skills)]} if skills else None)
    episode, scene = self._env.episode, self._env.episode.scene
    style, items = scene.appearance, tuple(placed.item for placed in scene.objects)
    splits.require_seen(episode.task, episode.instruction, items, style)
    steps, info = self._follow_expert(start, Disturbance(rng, self._config.disturbance))
    return {'steps': steps, 'episode_metadata': {
        'number': number, 'success': info['success'], 'skill': info['skill'], 'task': info['task'],
        'split': self._config.split, 'renderer': self._config.renderer, 'objects': info['objects'],
        'table': style.table, 'wall': style.wall, 'dropped': info['dropped']}}


class Disturbance:
  """Random disturbance of executed actions.

  Every step has noise. At times a push lasts several steps, or the gripper closes and rises for some steps instead of
  following the expert. Rarely the gripper opens.
  """

  def __init__(self, rng: np.random.Generator, strength: float = 1.0):
    self._rng, self._strength = rng, strength
    self._push = disturbance.RandomEvent(rng, _PUSH_CHANCE * strength, _PUSH_STEPS,
                                         lambda: rng.uniform(-_PUSH, _PUSH, 3))
    self._lift = disturbance.RandomEvent(rng, _GRASP_CHANCE * strength, _GRASP_STEPS, lambda: rng.uniform(0, 0.05))

  def __call__(self, action: np.ndarray) -> np.ndarray:
    push, lift = self._push(), self._lift()
    noise = self._strength * _NOISE * self._rng.normal(size=7)
    executed = action + noise
    if push is not None:
      executed[:3] += push
    if self._rng.random() < _OPEN_CHANCE * self._strength:
      executed[6] = 1.0
    if lift is not None:
      executed[2], executed[6] = lift + noise[2], 0.0
    return np.clip(executed, -_LIMITS, _LIMITS).astype(np.float32)


def record(config: RecordingConfig, first: int, end: int) -> list[dict[str, Any]]:
  """Record episodes [first, end)."""
  return Recorder(config).record_range(first, end)
