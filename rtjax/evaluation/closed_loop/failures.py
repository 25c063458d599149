"""Why an episode failed, and what the robot did instead, read off the facts that an environment tells of it.

The facts are the tabletop's `info`. An environment that tells fewer gets the labels that these allow.
"""
from collections.abc import Set
from typing import Any

LABELS = ('no motion', 'wrong object', 'dropped', 'missed grasp', 'timeout', 'physics', 'error')
"""In the order in which they are looked for, but for the last two, which come before all others."""

DEEDS = ('as asked', 'held the target', 'moved the target', 'held another', 'moved another', 'touched only',
         'moved in air', 'nothing')

_NO_MOTION = 0.02
"""A gripper that travelled less, m, did not move."""
_MOVED = 0.03
"""An object that ends up further from its place, m, was moved; less may be settling."""
_WITHOUT_GRASP = ('knock', 'open_drawer', 'close_drawer')


def label(facts: dict[str, Any], held: Set[str], closed: bool) -> str | None:
  """Why an episode failed: one of LABELS; None if it succeeded.

  Args:
    facts: the last `info` of the episode.
    held: every object that was between the fingers in the episode.
    closed: whether the gripper was ever told to close.
  """
  if facts.get('success'):
    return None
  if facts.get('failure'):
    return facts['failure'] if facts['failure'] in LABELS else 'error'
  if facts.get('moved', _NO_MOTION) < _NO_MOTION:
    return 'no motion'
  target = named(facts)[:1]
  if not target:
    return 'timeout'
  if _others(facts, held):
    return 'wrong object'
  if facts.get('dropped'):
    return 'dropped'
  needs_grasp = facts.get('skill') not in _WITHOUT_GRASP
  if needs_grasp and not held and (closed or target[0] in facts.get('touched', ())):
    return 'missed grasp'
  return 'timeout'


def deed(facts: dict[str, Any], held: Set[str]) -> str:
  """What the robot did: one of DEEDS, the first that is so."""
  if facts.get('success'):
    return 'as asked'
  target, moved = set(named(facts)[:1]), _moved(facts)
  others = _others(facts, held)
  found = {
      'held the target': held & target, 'moved the target': moved & target, 'held another': held & others,
      'moved another': others, 'touched only': facts.get('touched'),
      'moved in air': facts.get('moved', 0) >= _NO_MOTION}
  return next((name for name, so in found.items() if so), 'nothing')


def likeness(name: str, target: str) -> str:
  """What two objects, each called by colour and kind, share: 'same kind', 'same colour' or 'neither'."""
  colour, _, kind = name.rpartition(' ')
  target_colour, _, target_kind = target.rpartition(' ')
  if kind == target_kind:
    return 'same kind'
  return 'same colour' if colour and colour == target_colour else 'neither'


def wrong_object(facts: dict[str, Any], held: Set[str]) -> str | None:
  """The object that was taken, or else moved furthest, in place of the target."""
  others = _others(facts, held)
  shifts = facts.get('displaced', {})
  return max(sorted(others), key=lambda name: (name in held, shifts.get(name, 0.0)), default=None)


def named(facts: dict[str, Any]) -> list[str]:
  """What the task is about: the target, then what it is moved to or from; the drawer for the drawer's own tasks."""
  skill, _, names = facts.get('task', '').partition(': ')
  if skill in ('open_drawer', 'close_drawer'):
    return ['drawer']
  return names.split(', ') if names else []


def _moved(facts: dict[str, Any]) -> set[str]:
  """What was touched and is not where it was."""
  shifts = facts.get('displaced', {})
  return {name for name in facts.get('touched', ()) if shifts.get(name, 0.0) > _MOVED}


def _others(facts: dict[str, Any], held: Set[str]) -> set[str]:
  """Objects that were taken or moved and are not those of the task, if the target was neither taken nor moved."""
  about, busy = named(facts), set(held) | _moved(facts)
  if not about or about[0] in busy or (about[0] == 'drawer' and 'drawer' in facts.get('touched', ())):
    return set()
  return busy - set(about) - {'drawer'}
