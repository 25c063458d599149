"""What runs in the processes of a vector environment: one episode after the other, none of which can break the rest."""
from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from rtjax.evaluation.closed_loop.protocol import Entry


class Guarded(gymnasium.Env):
  """An environment of any split whose errors are failed episodes.

  Before `reset`, set `entry` to the episode to start. An exception in an episode, or an observation that is not finite,
  ends it with `failure` and `message` among its facts. Once it has ended, steps cost nothing and change nothing.

  `info` holds one key, 'facts': a list with the environment's own info in it, which vector environments leave whole.

  Args:
    make: makes the environment, given `split`.
    split: the first one.
  """

  def __init__(self, make: Callable[..., gymnasium.Env], split: str):
    self._make, self._split, self._env = make, split, make(split=split)
    self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
    self.entry: Entry | None = None
    self._idle, self._last = True, self.observation_space.sample()

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    if self.entry is None:
      return self._last, {}
    try:
      self._choose(self.entry.split)
      chosen = {'skill': self.entry.skill} if self.entry.skill else None
      self._last, facts = self._env.reset(seed=self.entry.seed, options=chosen)
      self._idle = False
      problem = _problem(self._last)
    except Exception as error:  # whatever a simulator raises is one failed episode, not the end of all
      facts, problem = {}, ('error', f'{type(error).__name__}: {error}')
    return self._last, self._told(facts, problem)[0]

  def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    if self._idle:
      return self._last, 0.0, True, False, {}
    reward: SupportsFloat = 0.0
    terminated, truncated = True, False
    try:
      self._last, reward, terminated, truncated, facts = self._env.step(action)
      problem = _problem(self._last)
    except Exception as error:  # as in reset
      facts, problem = {}, ('error', f'{type(error).__name__}: {error}')
    told, failed = self._told(facts, problem)
    self._idle = failed or terminated or truncated
    return self._last, float(reward), terminated or failed, truncated, told

  def expert(self) -> np.ndarray:
    """The scripted expert's action in the present state; zeros where no episode runs."""
    if self._idle:
      return np.zeros(self.action_space.shape or (), np.float32)
    env: Any = self._env.unwrapped
    return env.expert()(env.state)

  def close(self) -> None:
    self._env.close()

  def _choose(self, split: str) -> None:
    if split != self._split:
      self._env.close()
      self._env, self._split = self._make(split=split), split

  def _told(self, facts: dict[str, Any], problem: tuple[str, str] | None) -> tuple[dict[str, Any], bool]:
    if problem is not None:
      self._idle = True
      self._last = self.observation_space.sample()  # of the right shape; nobody acts on it
      facts = facts | {'success': False, 'failure': problem[0], 'message': problem[1]}
    return {'facts': [facts]}, problem is not None


def _problem(observation: Any) -> tuple[str, str] | None:
  for name, value in observation.items():
    if isinstance(value, np.ndarray) and value.dtype.kind == 'f' and not np.isfinite(value).all():
      return 'physics', f'the observation {name!r} holds NaN or infinite numbers'
  return None
