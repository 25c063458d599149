"""Toy environment without physics; the seed determines the episode."""
import functools
import multiprocessing
import os
import signal
from typing import Any

import gymnasium
import numpy as np

from rtjax import actions
from rtjax.evaluation.closed_loop import rollout
from rtjax.evaluation.closed_loop.environment import EvalEnvironment
from rtjax.evaluation.closed_loop.protocol import EpisodeLog

MAX_STEPS = 6
SKILLS = ('pick', 'push')
DIES = 2  # step at which the process of `DyingEnv` ends
# Last digits of seeds whose episodes fail; all other episodes can succeed.
RESET_RAISES, NAN, STEP_RAISES, PHYSICS = 6, 7, 8, 9


class ToyEnv(gymnasium.Env):
  """Environment that succeeds after several steps forward (first number above 0.01).

  Their number is the last digit of the seed plus one.
  """
  action_spec, control_hz, max_steps = actions.ARM_7D, 5, MAX_STEPS
  observation_space = gymnasium.spaces.Dict({
      'image': gymnasium.spaces.Box(0, 255, (8, 12, 3), np.uint8), 'instruction': gymnasium.spaces.Text(80),
      'proprioception': gymnasium.spaces.Box(-np.inf, np.inf, (7,), np.float32)})
  action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)

  def __init__(self, split: str):
    self._split = split

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    self._digit, self._steps, self._forward, self._options = (seed or 0) % 10, 0, 0, options or {}
    if self._digit == RESET_RAISES:
      raise RuntimeError('no usable start')
    return self._observe(), self._info()

  def step(self, action):
    if not np.isfinite(action).all():
      raise ValueError('action holds NaN')
    self._steps += 1
    self._forward += action[0] > 0.01
    if self._steps == 2 and self._digit == STEP_RAISES:
      raise ZeroDivisionError('boom')
    failure = {'failure': 'physics'} if self._steps == 2 and self._digit == PHYSICS else {}
    return (self._observe(), 0.0, self._info()['success'] or bool(failure), self._steps >= MAX_STEPS,
            self._info() | failure)

  def expert(self):
    return lambda state: np.array([0.03, 0, 0, 0, 0, 0, 1], np.float32)

  @property
  def state(self):
    return self._forward

  def _observe(self):
    state = np.full(7, np.nan if self._digit == NAN and self._steps == 2 else self._forward, np.float32)
    return {'image': np.full((8, 12, 3), 10 * self._steps, np.uint8), 'proprioception': state,
            'instruction': f'{self._options.get("skill")} the {self._split} object'}

  def _info(self):
    return {'success': self._forward > self._digit, 'skill': self._options.get('skill'),
            'instruction': self._observe()['instruction'], 'task': 'pick: red cube', 'moved': 0.03 * self._forward,
            'clipped': np.int64(0)}


class DyingEnv(ToyEnv):
  """Environment whose process is killed, as for lack of memory."""

  def step(self, action):
    if self._steps + 1 == DIES:
      os.kill(os.getpid(), signal.SIGKILL)
    return super().step(action)


class UnstartableEnv(ToyEnv):
  """Environment that ends every process but the first with exit status 3."""

  def __init__(self, split: str):
    if multiprocessing.parent_process() is not None:
      os._exit(3)
    super().__init__(split)


def environment(splits=('seen', 'unseen_objects'), make=ToyEnv) -> EvalEnvironment:
  return EvalEnvironment('toy', {'size': 8}, functools.partial(make), {split: SKILLS for split in splits},
                         ToyEnv.action_spec, ToyEnv.control_hz, MAX_STEPS)


def run(vector, folder, agent, episodes):
  """Run the missing ones of `episodes`, logged in `folder`; return all records."""
  log = EpisodeLog(folder, {'policy': agent.identity})
  env = environment()
  list(rollout.Runner(agent, vector, log, env.action_spec, env.control_hz, folder / 'films').run(episodes))
  return log.records(episodes)
