"""Tasks of RT-1's skills on the table, and their success conditions."""
import dataclasses
import math

import numpy as np

from rtjax.envs.tabletop.objects import Item
from rtjax.envs.tabletop.scene import BOWL, BOWL_HEIGHT, BOWL_RADIUS
from rtjax.envs.tabletop.world import DRAWER, TABLE, State

SKILLS = ('pick', 'move_near', 'upright', 'knock', 'open_drawer', 'close_drawer', 'put_into', 'take_out')
CONTAINERS = (BOWL, DRAWER)

LIFT = 0.05
"""Minimum rise of a picked object above its start, m."""
NEAR = 0.05
"""Maximum distance of near objects, from edge to edge, m."""
DRAWER_OPEN, DRAWER_CLOSED = 0.12, 0.015
_TOPPLED, _UPRIGHT = math.radians(60), math.radians(12)


@dataclasses.dataclass(frozen=True)
class Task:
  """Skill and the objects that it is applied to.

  Attributes:
    skill: one of SKILLS.
    target: object to manipulate; None for the tasks of the drawer alone.
    reference: object to move it near, or container to put it into or take it out of ('bowl', 'drawer').
  """
  skill: str
  target: Item | None = None
  reference: Item | str | None = None

  @property
  def key(self) -> str:
    """Identifier, independent of the phrasing: 'move_near: red cube, blue can'."""
    names = [part if isinstance(part, str) else part.name for part in (self.target, self.reference) if part]
    return self.skill + (': ' + ', '.join(names) if names else '')

  @property
  def items(self) -> tuple[Item, ...]:
    """Objects that the instruction names."""
    return tuple(part for part in (self.target, self.reference) if isinstance(part, Item))


def success(task: Task, state: State, start: State) -> bool:
  """Return whether the task is done in `state`, given the initial state."""
  if task.skill == 'open_drawer':
    return state.drawer > DRAWER_OPEN
  if task.skill == 'close_drawer':
    return state.drawer < DRAWER_CLOSED
  assert task.target is not None
  name = task.target.name
  pose = state.poses[name]
  if task.skill == 'pick':
    return (state.held == name and pose.position[2] - start.poses[name].position[2] > LIFT
            and not state.supports[name] & {TABLE, *CONTAINERS})
  if task.skill == 'knock':
    return pose.tilt > _TOPPLED and state.held != name and TABLE in state.supports[name]
  if name in state.touched:
    return False
  if task.skill == 'upright':
    return (pose.tilt < _UPRIGHT and TABLE in state.supports[name]
            and abs(pose.position[2] - task.target.shape.half_height) < 0.01)
  if task.skill == 'move_near':
    return near(task, state) and TABLE in state.supports[name]
  if task.skill == 'put_into':
    return inside(str(task.reference), name, state)
  return (not inside(str(task.reference), name, state) and TABLE in state.supports[name]
          and not state.supports[name] & set(CONTAINERS))


def near(task: Task, state: State) -> bool:
  """Return whether the target of a 'move_near' is near its reference."""
  assert task.target is not None and isinstance(task.reference, Item)
  return gap(task.target, task.reference, state) < NEAR


def gap(one: Item, other: Item, state: State) -> float:
  """Compute the horizontal distance of two standing objects' edges, m.

  It is negative if the objects overlap.
  """
  apart = state.poses[one.name].position[:2] - state.poses[other.name].position[:2]
  return float(np.linalg.norm(apart)) - one.shape.radius - other.shape.radius


def inside(container: str, name: str, state: State) -> bool:
  """Return whether an object is in the drawer or the standing bowl."""
  if container == DRAWER:
    return state.in_drawer(name)
  bowl = state.poses[BOWL]
  local = bowl.rotation.T @ (state.poses[name].position - bowl.position)
  return bool(bowl.tilt < 0.3 and np.linalg.norm(local[:2]) < BOWL_RADIUS - 0.005
              and 0 < local[2] < BOWL_HEIGHT + 0.03 and TABLE not in state.supports[name])
