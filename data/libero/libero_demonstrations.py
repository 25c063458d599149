"""Demonstrations of scripted experts in LIBERO.

Starts are drawn by LIBERO's samplers; the official ones, on which policies are evaluated, never occur. The executed
actions are disturbed as in the tabletop: noise, at times a push over several steps, or fingers that close or open at
the wrong moment. The recorded actions are the expert's. (seed, number) determines an episode completely.
"""
import dataclasses
from typing import Any, Literal

import numpy as np

from rtjax import envs
from rtjax.data.generation import encode_jpeg
from rtjax.language.instructions import hashed_ngrams

EPISODES_PER_FILE = 10
"""Raw episodes per file, the unit of resuming."""
OWN_START = -1

# In shares of the largest action: 0.05 m, 0.5 rad.
_NOISE = np.array([0.1] * 3 + [0.04] * 3 + [0.0], np.float32)
_PUSH_CHANCE, _PUSH_STEPS, _PUSH = 0.01, 6, 0.8
_SLIP_CHANCE, _SLIP_STEPS = 0.004, 8


@dataclasses.dataclass(frozen=True)
class RecordingConfig:
  """Parameters that determine the episodes.

  Attributes:
    suite: suite of LIBERO.
    skills: its tasks to record, in turn; none are all ten.
    seed: random seed of the episodes.
    image_size: (height, width) of an image, all cameras together.
    cameras: cameras of an image: agent, wrist, or both side by side.
    renderer: 'gl', or 'gl_full' with LIBERO's own settings.
    disturbance: strength of the disturbances; 0 is none.
  """
  suite: Literal['object', 'spatial', 'goal', 'long'] = 'object'
  skills: tuple[str, ...] = ()
  seed: int = 0
  image_size: tuple[int, int] = (96, 192)
  cameras: Literal['agent', 'wrist', 'both'] = 'both'
  renderer: str = 'gl'
  disturbance: float = 1.0


class Recorder:
  """Recorder of episodes."""

  def __init__(self, config: RecordingConfig):
    self._config = config
    self._env: Any = envs.make(f'libero/{config.suite}', image_size=config.image_size, cameras=config.cameras,
                               renderer=config.renderer)

  def record(self, number: int) -> dict[str, Any]:
    """Record an episode; return {'steps': [...], 'episode_metadata': {...}}, images as JPEG bytes."""
    rng = np.random.default_rng((self._config.seed, number))
    skills = self._config.skills or tuple(self._env.tasks)
    seed = int(rng.integers(2 ** 31))
    observation, info = self._env.reset(seed=seed, options={'skill': skills[number % len(skills)], 'start': OWN_START})
    instruction, expert = observation['instruction'], self._env.expert()
    disturbance, embedding = Disturbance(rng, self._config.disturbance), hashed_ngrams(instruction)
    steps: list[dict[str, Any]] = []
    ended = info['success']
    while not ended:
      action = expert(self._env.state)
      stored = {'image': encode_jpeg(observation['image']), 'state': observation['proprioception']}
      observation, reward, terminated, truncated, info = self._env.step(disturbance(action))
      ended = terminated or truncated
      steps.append({
          'observation': stored, 'action': action, 'reward': np.float32(reward), 'discount': np.float32(1),
          'language_instruction': instruction, 'language_embedding': embedding,
          'is_first': not steps, 'is_last': ended, 'is_terminal': terminated})
    return {'steps': steps, 'episode_metadata': {
        'number': number, 'success': info['success'] and bool(steps), 'skill': info['skill'], 'seed': seed,
        'renderer': self._config.renderer}}

  def close(self) -> None:
    self._env.close()


class Disturbance:
  """Random disturbance of executed actions.

  Every step has noise. At times a push lasts several steps, or the fingers do for some steps the opposite of what the
  expert wants.
  """

  def __init__(self, rng: np.random.Generator, strength: float = 1.0):
    self._rng, self._strength = rng, strength
    self._push, self._push_steps, self._slip_steps = np.zeros(7), 0, 0

  def __call__(self, action: np.ndarray) -> np.ndarray:
    self._push_steps, self._slip_steps = self._push_steps - 1, self._slip_steps - 1
    if self._push_steps < 0 and self._rng.random() < _PUSH_CHANCE * self._strength:
      self._push_steps = int(self._rng.integers(2, _PUSH_STEPS + 1))
      self._push = np.append(self._rng.uniform(-_PUSH, _PUSH, 3), np.zeros(4))
    if self._slip_steps < 0 and self._rng.random() < _SLIP_CHANCE * self._strength:
      self._slip_steps = int(self._rng.integers(2, _SLIP_STEPS + 1))
    executed = action + self._strength * _NOISE * self._rng.normal(size=7)
    if self._push_steps >= 0:
      executed = executed + self._push
    if self._slip_steps >= 0:
      executed[6] = -executed[6]
    return np.clip(executed, -1, 1).astype(np.float32)


def record(config: RecordingConfig, first: int, end: int) -> list[dict[str, Any]]:
  """Record episodes [first, end)."""
  recorder = Recorder(config)
  try:
    return [recorder.record(number) for number in range(first, end)]
  finally:
    recorder.close()
