"""Demonstrations of the pushing oracle in Language-Table.

The executed actions are disturbed by noise, and at times by a push over several steps; the recorded actions are the
oracle's. (seed, number) determines an episode completely, and the five families take turns.
"""
import contextlib
import dataclasses
from typing import Any

import numpy as np

from rtjax import envs
from rtjax.data.generation import disturbance
from rtjax.data.generation.recording import encode_jpeg
from rtjax.data.windows import next_changes
from rtjax.envs.language_table import FULL_SIZE
from rtjax.envs.language_table_source import FAMILIES

EPISODES_PER_FILE = 10
"""Raw episodes per file, the unit of resuming."""

INSTRUCTION_LENGTH = 512
"""Numbers that hold the bytes of an instruction, as in the public datasets."""

_NOISE = 0.2  # standard deviation, of the action's length: the oracle waits until it is within 1 mm of some places
_PUSH_CHANCE, _PUSH_STEPS, _PUSH = 0.04, (1, 3), 0.02
_MOST = 0.035  # m that the oracle moves in a step
_MOST_STEPS = 120  # it succeeded in at most 100 of 200 steps, or not at all (36 of 40 episodes)


@dataclasses.dataclass(frozen=True)
class RecordingConfig:
  """Parameters that determine the episodes.

  Attributes:
    seed: random seed of the episodes.
    image_size: (height, width) of the images, at most 180 320.
    disturbance: strength of the disturbances; 0 is none.
    skills: families to record in turn.
  """
  seed: int = 0
  image_size: tuple[int, int] = (90, 160)
  disturbance: float = 1.0
  skills: tuple[str, ...] = FAMILIES

  def __post_init__(self) -> None:
    disturbance.check_strength(self.disturbance)
    for skill in self.skills:
      envs.require_known('skill', skill, FAMILIES)
    if any(not 0 < size <= full for size, full in zip(self.image_size, FULL_SIZE, strict=True)):
      raise ValueError(f'--image-size is {self.image_size}, expected height and width of at most {FULL_SIZE}.')


def record(config: RecordingConfig, path: str, first: int, end: int) -> list[dict[str, Any]]:
  """Record episodes [first, end); those that fail have no steps.

  Args:
    path: folder of the clone.
  """
  with contextlib.closing(envs.make('language_table', image_size=config.image_size, path=path)) as env:
    return [_episode(env, config, number) for number in range(first, end)]


def _episode(env: Any, config: RecordingConfig, number: int) -> dict[str, Any]:
  rng = np.random.default_rng((config.seed, number))
  skill = config.skills[number % len(config.skills)]
  observation, info = env.reset(seed=int(rng.integers(2 ** 31)), options={'skill': skill})
  oracle, disturb = env.expert(), Disturbance(rng, config.disturbance)
  steps: list[dict[str, Any]] = []
  pushing: list[bool] = []
  ended = False
  while not ended:
    action, state = oracle(env.state), env.state
    stored = {'rgb': encode_jpeg(observation['image']), 'instruction': encoded(observation['instruction']),
              'effector_translation': np.asarray(state['effector_translation'], np.float32),
              'effector_target_translation': np.asarray(state['effector_target_translation'], np.float32)}
    pushing.append(not env.phase.startswith('move_to_pre_block'))
    observation, reward, terminated, truncated, info = env.step(disturb(action))
    ended = terminated or truncated or len(steps) + 1 >= _MOST_STEPS
    steps.append({'observation': stored, 'action': action, 'reward': np.float32(reward), 'is_first': not steps,
                  'is_last': ended, 'is_terminal': terminated})
  for step, reached in zip(steps, next_changes(np.array(pushing)), strict=True):
    step['waypoint'] = steps[reached]['observation']['effector_translation']
  return {'steps': steps if info['success'] else [], 'episode_metadata': {
      'number': number, 'success': info['success'], 'skill': skill, 'task': info['task'],
      'dropped_starts': sum(info['dropped_starts'].values())}}


class Disturbance:
  """Random disturbance of executed actions: noise, and pushes of some steps."""

  def __init__(self, rng: np.random.Generator, strength: float):
    self._rng, self._strength = rng, strength
    self._push = disturbance.RandomEvent(rng, _PUSH_CHANCE * strength, _PUSH_STEPS,
                                         lambda: rng.uniform(-_PUSH, _PUSH, 2))

  def __call__(self, action: np.ndarray) -> np.ndarray:
    push = self._push()
    noise = self._strength * _NOISE * np.linalg.norm(action) * self._rng.normal(size=2)
    executed = action + noise + (0 if push is None else push)
    return np.clip(executed, -_MOST, _MOST).astype(np.float32)


def encoded(instruction: str) -> np.ndarray:
  """Return the UTF-8 bytes of a text, int32 [512], padded with zeros."""
  numbers = np.zeros(INSTRUCTION_LENGTH, np.int32)
  content = np.frombuffer(instruction.encode(), np.uint8)
  numbers[:len(content)] = content
  return numbers
