"""Scripted experts: for each skill a function from the state to an action, without memory.

What to do next is read off the state alone, so an expert goes on from wherever it is put: after a disturbance, a slip
or a missed grasp it does the right thing again. Its motions are smooth: distances blend into heights.
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
  """The expert at a task: `State` to action float32 [7]."""
  return functools.partial(_EXPERTS[task.skill], task)
