"""Random disturbance of executed actions, so that demonstrations show mistakes and recoveries."""
from collections.abc import Callable
from typing import Any

import numpy as np


def check_strength(strength: float) -> None:
  """Raise ValueError unless the strength of a disturbance is usable."""
  if not 0 <= strength < float('inf'):
    raise ValueError(f'--disturbance is {strength}, expected a finite number of at least 0.')


class RandomEvent:
  """Event that begins by chance and lasts several steps.

  Args:
    chance: probability that it begins in a step without it.
    steps: least and most steps that it lasts beyond the first.
    draw: returns its value, drawn once at the beginning.
  """

  def __init__(self, rng: np.random.Generator, chance: float, steps: tuple[int, int],
               draw: Callable[[], Any] = lambda: True):
    self._rng, self._chance, self._steps, self._draw = rng, chance, steps, draw
    self._left, self._value = 0, None

  def __call__(self) -> Any:
    """Go on to the next step; return the event's value, or None."""
    self._left -= 1
    if self._left < 0 and self._rng.random() < self._chance:
      self._left = int(self._rng.integers(self._steps[0], self._steps[1] + 1))
      self._value = self._draw()
    return self._value if self._left >= 0 else None


class ArmDisturbance:
  """Disturbance of an arm.

  Its actions lie within -1 and 1, with the gripper last. Every step has noise. At times a push lasts several steps.
  Rarely the gripper does for some steps the opposite of what the expert wants.

  Args:
    noise: standard deviation of each number [A], at strength 1.
    push: chance at strength 1 and steps of a push, see RandomEvent, and the largest change of x y z.
    slip: chance at strength 1 and steps of the gripper's mistake.
  """

  def __init__(self, rng: np.random.Generator, strength: float, noise: np.ndarray,
               push: tuple[float, tuple[int, int], float], slip: tuple[float, tuple[int, int]]):
    chance, steps, most = push
    self._rng, self._strength, self._noise = rng, strength, noise
    self._push = RandomEvent(rng, strength * chance, steps, lambda: rng.uniform(-most, most, 3))
    self._slip = RandomEvent(rng, strength * slip[0], slip[1])

  def __call__(self, action: np.ndarray) -> np.ndarray:
    push, slip = self._push(), self._slip()
    executed = action + self._strength * self._noise * self._rng.normal(size=len(action))
    if push is not None:
      executed[:3] += push
    if slip:
      executed[-1] = -executed[-1]
    return np.clip(executed, -1, 1).astype(np.float32)
