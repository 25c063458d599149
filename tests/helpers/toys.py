"""A toy environment without physics, whose seed decides what happens in it, and actors for it."""
import functools
from typing import Any

import gymnasium
import numpy as np

from rtjax import actions
from rtjax.evaluation.closed_loop import rollout
from rtjax.evaluation.closed_loop.evaluator import World
from rtjax.evaluation.closed_loop.protocol import Log

MAX_STEPS = 6
SKILLS = ('pick', 'push')
# What the last digit of a seed does: seeds that are none of these go well.
BREAKS_AT_START, NAN, RAISES, PHYSICS = 6, 7, 8, 9


class Toy(gymnasium.Env):
  """Succeeds after as many steps forward (first number above 0.01) as the last digit of the seed says, plus one."""
  action_spec, control_hz, max_steps = actions.ARM_7D, 5, MAX_STEPS
  observation_space = gymnasium.spaces.Dict({
      'image': gymnasium.spaces.Box(0, 255, (8, 12, 3), np.uint8), 'instruction': gymnasium.spaces.Text(80),
      'proprioception': gymnasium.spaces.Box(-np.inf, np.inf, (7,), np.float32)})
  action_space = gymnasium.spaces.Box(-1, 1, (7,), np.float32)

  def __init__(self, split: str):
    self._split = split

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    self._kind, self._steps, self._forward, self._options = (seed or 0) % 10, 0, 0, options or {}
    if self._kind == BREAKS_AT_START:
      raise RuntimeError('no usable start')
    return self._observe(), self._info()

  def step(self, action):
    if not np.isfinite(action).all():
      raise ValueError('action holds NaN')
    self._steps += 1
    self._forward += action[0] > 0.01
    if self._steps == 2 and self._kind == RAISES:
      raise ZeroDivisionError('boom')
    failure = {'failure': 'physics'} if self._steps == 2 and self._kind == PHYSICS else {}
    return (self._observe(), 0.0, self._info()['success'] or bool(failure), self._steps >= MAX_STEPS,
            self._info() | failure)

  def expert(self):
    return lambda state: np.array([0.03, 0, 0, 0, 0, 0, 1], np.float32)

  @property
  def state(self):
    return self._forward

  def _observe(self):
    state = np.full(7, np.nan if self._kind == NAN and self._steps == 2 else self._forward, np.float32)
    return {'image': np.full((8, 12, 3), 10 * self._steps, np.uint8), 'proprioception': state,
            'instruction': f'{self._options.get("skill")} the {self._split} thing'}

  def _info(self):
    return {'success': self._forward > self._kind, 'skill': self._options.get('skill'),
            'instruction': self._observe()['instruction'], 'task': 'pick: red cube', 'moved': 0.03 * self._forward}


def world(splits=('seen', 'unseen_things')) -> World:
  return World('toy', {'size': 8}, functools.partial(Toy), {split: SKILLS for split in splits}, Toy.action_spec,
               Toy.control_hz, MAX_STEPS)


def run(vector, folder, actor, wanted):
  """Runs what is missing of `wanted` in `folder`; returns all records."""
  log = Log(folder, {'policy': actor.identity})
  made = world()
  list(rollout.Runner(actor, vector, log, made.spec, made.control_hz, folder / 'films').run(wanted))
  return log.records(wanted)
