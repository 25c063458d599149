"""Experts that open and close the drawer, with closed fingers."""
import numpy as np

from rtjax.envs.tabletop.experts.motion import act, approach, retreat, travel_height
from rtjax.envs.tabletop.scene import DRAWER_TRAVEL
from rtjax.envs.tabletop.tasks import Task
from rtjax.envs.tabletop.world import State

_LOW = 0.036  # height of the fingertips at the handle
# Offsets from the handle along y: the centre of the gap to the drawer's front, and a point in front of the handle.
_BEHIND, _BEFORE = 0.031, -0.045


def open_drawer(task: Task, state: State) -> np.ndarray:
  """Hook into the handle and pull."""
  if state.drawer > DRAWER_TRAVEL - 0.015:
    return retreat(state, is_open=False)
  x, y, _ = state.position - state.handle
  if abs(x) < 0.045 and 0.006 < y < 0.056 and state.position[2] < _LOW + 0.015:
    return _slide(state, -0.05)
  return _approach_handle(state, _BEHIND)


def close_drawer(task: Task, state: State) -> np.ndarray:
  """Push against the handle."""
  if state.drawer < 0.006:
    return retreat(state, is_open=False)
  x, y, _ = state.position - state.handle
  if abs(x) < 0.045 and -0.09 < y < 0.0 and state.position[2] < _LOW + 0.02:
    return _slide(state, 0.05)
  return _approach_handle(state, _BEFORE)


def _slide(state: State, distance: float) -> np.ndarray:
  goal = np.array([state.handle[0], state.position[1] + distance, _LOW])
  return act(state, goal, np.eye(3), is_open=False)


def _approach_handle(state: State, offset: float) -> np.ndarray:
  goal = np.array([state.handle[0], state.handle[1] + offset, _LOW])
  return approach(state, goal, np.eye(3), travel_height(state), is_open=False)
