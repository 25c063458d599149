"""Scripted experts: a stateless function from state to action for each skill.

An expert reads its next action off the state alone, so it recovers from any state: after a disturbance, a slip or a
missed grasp. Its motions are smooth, because heights vary continuously with distances.
"""
import functools
from collections.abc import Callable

import numpy as np

from rtjax.envs.tabletop.experts import drawer, moving, turning
from rtjax.envs.tabletop.tasks import Task
from rtjax.envs.tabletop.world import State

_EXPERTS: dict[str, Callable[[Task, State], np.ndarray]] = {
    'pick': moving.pick, 'move_near': moving.move_near, 'put_into': moving.put_into, 'take_out': moving.take_out,
    'upright': turning.upright, 'knock': turning.knock, 'open_drawer': drawer.open_drawer,
    'close_drawer': drawer.close_drawer}


def get(task: Task) -> Callable[[State], np.ndarray]:
  """Return the expert for a task: `State` to action float32 [7]."""
  return functools.partial(_EXPERTS[task.skill], task)
