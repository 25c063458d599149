"""Failure reasons and outcomes of episodes, derived from the environment's info.

The info is the tabletop's. An environment with fewer keys gets the reasons that these support.
"""
from collections.abc import Set
from typing import Any

REASONS = ('no motion', 'wrong object', 'dropped', 'missed grasp', 'timeout', 'physics', 'error')
"""In the order of the checks, except that physics and error come first."""

OUTCOMES = ('success', 'held target', 'moved target', 'held other object', 'moved other object', 'touched only',
            'no contact', 'no motion')

_NO_MOTION = 0.02
"""A gripper that travelled less, in m, counts as not moved."""
_DISPLACED = 0.03
"""An object this far from its start, in m, counts as moved; less may be settling."""
_SKILLS_WITHOUT_GRASP = ('knock', 'open_drawer', 'close_drawer')


def reason(info: dict[str, Any], held: Set[str], closed: bool) -> str | None:
  """Return why an episode failed, one of REASONS, or None after success.

  Args:
    info: the last info of the episode; its `grasps` is False where nothing can be grasped.
    held: all objects that were between the fingers during the episode.
    closed: whether the gripper was ever commanded to close.
  """
  if info.get('success'):
    return None
  if info.get('failure'):
    return info['failure'] if info['failure'] in REASONS else 'error'
  if info.get('moved', _NO_MOTION) < _NO_MOTION:
    return 'no motion'
  target = task_objects(info)[:1]
  if not target:
    return 'timeout'
  if _other_objects(info, held):
    return 'wrong object'
  if info.get('dropped'):
    return 'dropped'
  needs_grasp = info.get('grasps', True) and info.get('skill') not in _SKILLS_WITHOUT_GRASP
  if needs_grasp and not held and (closed or target[0] in info.get('touched', ())):
    return 'missed grasp'
  return 'timeout'


def outcome(info: dict[str, Any], held: Set[str]) -> str:
  """Return the first of OUTCOMES that applies; arguments as in `reason`."""
  if info.get('success'):
    return 'success'
  target, moved = set(task_objects(info)[:1]), _moved(info)
  others = _other_objects(info, held)
  applies = {
      'held target': held & target, 'moved target': moved & target, 'held other object': held & others,
      'moved other object': others, 'touched only': info.get('touched'),
      'no contact': info.get('moved', 0) >= _NO_MOTION}
  return next((name for name, condition in applies.items() if condition), 'no motion')


def shared_property(name: str, target: str) -> str:
  """Return 'same kind', 'same colour' or 'neither' for two object names."""
  colour, _, kind = name.rpartition(' ')
  target_colour, _, target_kind = target.rpartition(' ')
  if kind == target_kind:
    return 'same kind'
  return 'same colour' if colour and colour == target_colour else 'neither'


def wrong_object(info: dict[str, Any], held: Set[str]) -> str | None:
  """Return the wrong object that was held, or else moved furthest."""
  others = _other_objects(info, held)
  displaced = info.get('displaced', {})
  return max(sorted(others), key=lambda name: (name in held, displaced.get(name, 0.0)), default=None)


def task_objects(info: dict[str, Any]) -> list[str]:
  """Return the objects of the task, the target first.

  The second one, if any, is the place that the target is moved to or from. Tasks of the drawer have 'drawer'.
  """
  skill, _, names = info.get('task', '').partition(': ')
  if skill in ('open_drawer', 'close_drawer'):
    return ['drawer']
  return names.split(', ') if names else []


def _moved(info: dict[str, Any]) -> set[str]:
  displaced = info.get('displaced', {})
  return {name for name in info.get('touched', ()) if displaced.get(name, 0.0) > _DISPLACED}


def _other_objects(info: dict[str, Any], held: Set[str]) -> set[str]:
  """Return held or moved objects outside of the task.

  There are none if the target was held or moved as well.
  """
  expected, handled = task_objects(info), set(held) | _moved(info)
  if not expected or expected[0] in handled or (expected[0] == 'drawer' and 'drawer' in info.get('touched', ())):
    return set()
  return handled - set(expected) - {'drawer'}
