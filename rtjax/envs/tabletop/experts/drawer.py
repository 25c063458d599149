"""Experts at the drawer: closed fingers hook into its handle, or push it."""
import numpy as np

from rtjax.envs.tabletop.experts.motion import act, funnel, rise, travel
from rtjax.envs.tabletop.scene import DRAWER_TRAVEL
from rtjax.envs.tabletop.tasks import Task
from rtjax.envs.tabletop.world import State

_LOW = 0.036  # height of the fingertips at the handle
_BEHIND, _BEFORE = 0.031, -0.045  # from the handle: the middle of the gap to the drawer's front, and in front of it


def open_drawer(task: Task, state: State) -> np.ndarray:
  if state.drawer > DRAWER_TRAVEL - 0.015:
    return rise(state, is_open=False)
  x, y, _ = state.position - state.handle
  if abs(x) < 0.045 and 0.006 < y < 0.056 and state.position[2] < _LOW + 0.015:
    return _along(state, -0.05)
  return _to(state, _BEHIND)


def close_drawer(task: Task, state: State) -> np.ndarray:
  if state.drawer < 0.006:
    return rise(state, is_open=False)
  x, y, _ = state.position - state.handle
  if abs(x) < 0.045 and -0.09 < y < 0.0 and state.position[2] < _LOW + 0.02:
    return _along(state, 0.05)
  return _to(state, _BEFORE)


def _along(state: State, way: float) -> np.ndarray:
  goal = np.array([state.handle[0], state.position[1] + way, _LOW])
  return act(state, goal, np.eye(3), is_open=False)


def _to(state: State, offset: float) -> np.ndarray:
  place = np.array([state.handle[0], state.handle[1] + offset, _LOW])
  return funnel(state, place, np.eye(3), travel(state), is_open=False)
