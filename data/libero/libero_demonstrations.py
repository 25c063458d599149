"""Demonstrations of scripted experts in LIBERO.

Starts are drawn by LIBERO's samplers; the official ones, on which policies are evaluated, never occur. The executed
actions are disturbed as in the tabletop: noise, at times a push over several steps, or fingers that close or open at
the wrong moment. The recorded actions are the expert's. (seed, number) determines an episode completely.
"""
import dataclasses
from typing import Any, Literal

import numpy as np

from rtjax import envs
from rtjax.data.generation import disturbance, recording

EPISODES_PER_FILE = 10
"""Raw episodes per file, the unit of resuming."""
OWN_START = -1

# In shares of the largest action: 0.05 m, 0.5 rad.
_NOISE = np.array([0.1] * 3 + [0.04] * 3 + [0.0], np.float32)
_PUSH = 0.01, (2, 6), 0.8
_SLIP = 0.004, (2, 8)


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

  def __post_init__(self) -> None:
    disturbance.check_strength(self.disturbance)


class Recorder(recording.Recorder):
  """Recorder of episodes."""

  def __init__(self, config: RecordingConfig):
    self._config = config
    super().__init__(envs.make(f'libero/{config.suite}', image_size=config.image_size, cameras=config.cameras,
                               renderer=config.renderer))

  def record(self, number: int) -> dict[str, Any]:
    """Record an episode."""
    rng = np.random.default_rng((self._config.seed, number))
    skills = self._config.skills or tuple(self._env.tasks)
    seed = int(rng.integers(2 ** 31))
    start = self._env.reset(seed=seed, options={'skill': skills[number % len(skills)], 'start': OWN_START})
    disturb = disturbance.ArmDisturbance(rng, self._config.disturbance, _NOISE, _PUSH, _SLIP)
    steps, info = self._follow_expert(start, disturb)
    return {'steps': steps, 'episode_metadata': {
        'number': number, 'success': info['success'] and bool(steps), 'skill': info['skill'], 'seed': seed,
        'renderer': self._config.renderer}}


def record(config: RecordingConfig, first: int, end: int) -> list[dict[str, Any]]:
  """Record episodes [first, end)."""
  return Recorder(config).record_range(first, end)
