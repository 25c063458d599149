"""Captions of a scene, and false captions in the same wordings.

A caption states one or two facts, or lists all objects. A false one has another colour, another kind, the other side,
or another object in the gripper.
"""
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from questions import article, left_of
from scenes import GRIPPER, SceneView, VisibleObject

from rtjax.envs.tabletop.objects import COLOURS, KINDS
from rtjax.envs.tabletop.scene import BOWL
from rtjax.envs.tabletop.world import DRAWER, TABLE

_INSIDE = {BOWL: 'in the bowl', DRAWER: 'in the open drawer'}


@dataclasses.dataclass(frozen=True)
class Statement:
  """True statement about a scene in several wordings, and false versions.

  Statements without false versions are never used for matching: most objects stand, most grippers are empty and most
  drawers closed, so their answers could be guessed without the image. Questions ask about these with balanced answers.
  """
  true: tuple[str, ...]
  false: tuple[str, ...] = ()


def captions(view: SceneView, rng: np.random.Generator) -> Iterator[str]:
  """Yield true captions, each of another statement.

  The list of all objects comes first, if there is an unambiguous one.
  """
  for statement in (*_lists(view, rng), *_shuffle(_details(view, rng), rng)):
    yield str(rng.choice(statement.true))


def matches(view: SceneView, rng: np.random.Generator) -> tuple[str, str] | None:
  """Return a true and a false caption, or None without any.

  They come from different statements if there are several.
  """
  statements = [s for s in _shuffle((*_lists(view, rng), *_details(view, rng)), rng) if s.false]
  return (str(rng.choice(statements[0].true)), str(rng.choice(statements[-1].false))) if statements else None


def _shuffle(statements: Iterable[Statement], rng: np.random.Generator) -> list[Statement]:
  listed = list(statements)
  return [listed[i] for i in rng.permutation(len(listed))]


def _details(view: SceneView, rng: np.random.Generator) -> Iterator[Statement]:
  for obj in view.objects:
    absent = article(_absent_name(view, obj, rng))
    name = article(obj.name)
    if obj.location == GRIPPER:
      yield Statement(_holding(name), _holding(absent))
    elif obj.location == TABLE:
      yield Statement((f'{name} on the table', f'there is {name} on the table'), (f'{absent} on the table',))
      if obj.pose:
        pose = 'standing' if obj.pose == 'upright' else 'lying'
        yield Statement((f'{name} {pose} on the table', f'{name} is {pose} on the table'))
    elif obj.location:
      inside = _INSIDE[obj.location]
      yield Statement((f'{name} {inside}', f'there is {name} {inside}'),
                      (f'{absent} {inside}', f'there is {absent} {inside}'))
    for other in view.visible:
      left = left_of(obj, other) if other is not obj else None
      if left is not None:
        yield Statement(_beside(name, article(other.name), left), _beside(name, article(other.name), not left))
  if view.held == '':
    yield Statement(('the robot holds nothing', 'an empty gripper'))
  if view.drawer:
    yield Statement((f'the drawer is {view.drawer}', f'{article(view.drawer)} drawer'))


def _lists(view: SceneView, rng: np.random.Generator) -> Iterator[Statement]:
  """Yield the complete list of all objects, if it is unambiguous."""
  if view.partial or not 1 < len(view.objects) <= 4:
    return
  order = [view.objects[i] for i in rng.permutation(len(view.objects))]
  names = [article(obj.name) for obj in order]
  index = int(rng.integers(len(order)))
  false = [*names[:index], article(_absent_name(view, order[index], rng)), *names[index + 1:]]
  yield Statement(_list_wordings(names), _list_wordings(false))


def _list_wordings(names: list[str]) -> tuple[str, ...]:
  listed = ', '.join(names[:-1]) + ' and ' + names[-1]
  return listed, f'a table with {listed}', f'there are {listed}'


def _beside(name: str, other: str, left: bool) -> tuple[str, ...]:
  side = 'left' if left else 'right'
  return f'{name} to the {side} of {other}', f'{name} is to the {side} of {other}'


def _holding(name: str) -> tuple[str, ...]:
  return f'the robot holds {name}', f'{name} in the gripper', f'a robot arm lifts {name}'


def _absent_name(view: SceneView, obj: VisibleObject, rng: np.random.Generator) -> str:
  """Sample the name of an absent object of equal kind or colour."""
  names = [f'{colour} {obj.kind}' for colour in COLOURS] + [f'{obj.colour} {kind}' for kind in KINDS]
  return str(rng.choice([name for name in names if name not in view.present]))
