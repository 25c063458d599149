"""Environment wrapper that turns errors into failed episodes."""
from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from rtjax.evaluation.closed_loop.protocol import EpisodeId


class ErrorCatchingEnv(gymnasium.Env):
  """Environment that survives errors, in a process of a vector environment.

  Set `episode` to the episode to start before `reset`. An exception, or an action or observation that is not finite,
  ends the episode with `failure` and `message` in its info. Steps after the end have no effect. The environment is made
  again where the next episode is of another split.

  The returned info has one key, 'info': a list that holds the environment's info, since vector environments do not
  split up lists.

  Args:
    make: creates the environment, given `split`.
    split: the first one.
  """

  def __init__(self, make: Callable[..., gymnasium.Env], split: str):
    self._make, self._split, self._env = make, split, make(split=split)
    self.observation_space, self.action_space = self._env.observation_space, self._env.action_space
    self.episode: EpisodeId | None = None
    self._ended, self._last = True, self.observation_space.sample()

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    if self.episode is None:
      return self._last, {}
    info: dict[str, Any] = {}
    try:
      self._open_split(self.episode.split)
      skill = {'skill': self.episode.skill} if self.episode.skill else None
      self._last, info = self._env.reset(seed=self.episode.seed, options=skill)
      failure = _non_finite(self._last)
    except Exception as error:  # any error of a simulator is one failed episode, not the end of the evaluation
      failure = _caught(error)
    self._ended = failure is not None
    return self._last, self._wrapped(info, failure)

  def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    if self._ended:
      return self._last, 0.0, True, False, {}
    info: dict[str, Any] = {}
    reward: SupportsFloat = 0.0
    terminated, truncated = True, False
    try:
      if not np.isfinite(action).all():
        raise ValueError('the action holds NaN or infinite numbers')
      self._last, reward, terminated, truncated, info = self._env.step(action)
      failure = _non_finite(self._last)
    except Exception as error:  # as in reset
      failure = _caught(error)
    terminated = terminated or failure is not None
    self._ended = terminated or truncated
    wrapped = self._wrapped(info, failure)
    return self._last, float(reward), terminated, truncated, wrapped

  def expert(self) -> np.ndarray:
    """Return the scripted expert's action, zeros after the end."""
    if self._ended:
      return np.zeros(self.action_space.shape or (), np.float32)
    env: Any = self._env.unwrapped
    return env.expert()(env.state)

  def close(self) -> None:
    self._env.close()

  def _open_split(self, split: str) -> None:
    if split != self._split:
      self._env.close()
      self._env, self._split = self._make(split=split), split

  def _wrapped(self, info: dict[str, Any], failure: dict[str, Any] | None) -> dict[str, Any]:
    if failure is not None:
      self._last = self.observation_space.sample()  # of the right shapes; no agent acts on it
      info = info | failure
    return {'info': [info]}


def _caught(error: Exception) -> dict[str, Any]:
  return {'success': False, 'failure': 'error', 'message': f'{type(error).__name__}: {error}'}


def _non_finite(observation: Any) -> dict[str, Any] | None:
  for name, value in observation.items():
    if isinstance(value, np.ndarray) and value.dtype.kind == 'f' and not np.isfinite(value).all():
      return {'success': False, 'failure': 'physics',
              'message': f'the observation {name!r} holds NaN or infinite numbers'}
  return None
