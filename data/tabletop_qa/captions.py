"""Captions of a view, and captions that are wrong about it.

A caption states one or two facts, or lists all objects, in one of several wordings. A wrong one is worded alike and not
so: another colour, another kind, the other side, something else in the gripper.
"""
import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from questions import article, left_of
from scenes import GRIPPER, Thing, View

from rtjax.envs.tabletop.objects import COLOURS, KINDS
from rtjax.envs.tabletop.scene import BOWL
from rtjax.envs.tabletop.world import DRAWER, TABLE

_INSIDE = {BOWL: 'in the bowl', DRAWER: 'in the open drawer'}


@dataclasses.dataclass(frozen=True)
class Fact:
  """A statement about a view in its wordings, and the same statement made wrong.

  Without a wrong one it is no match: most objects stand, most grippers are empty and most drawers closed, so that one
  would know the answer without looking. Questions ask about these, with balanced answers.
  """
  true: tuple[str, ...]
  wrong: tuple[str, ...] = ()


def captions(view: View, draw: np.random.Generator) -> Iterator[str]:
  """True captions, each of another fact: first the one that lists all objects where that can be said, then others."""
  for fact in (*_all(view, draw), *_shuffled(_details(view, draw), draw)):
    yield str(draw.choice(fact.true))


def matches(view: View, draw: np.random.Generator) -> tuple[str, str] | None:
  """A true caption and a wrong one, of different facts where there are several; None where there is none."""
  facts = [fact for fact in _shuffled((*_all(view, draw), *_details(view, draw)), draw) if fact.wrong]
  return (str(draw.choice(facts[0].true)), str(draw.choice(facts[-1].wrong))) if facts else None


def _shuffled(facts: Iterable[Fact], draw: np.random.Generator) -> list[Fact]:
  found = list(facts)
  return [found[i] for i in draw.permutation(len(found))]


def _details(view: View, draw: np.random.Generator) -> Iterator[Fact]:
  for thing in view.objects:
    swapped = article(_absent(view, thing, draw))
    name = article(thing.name)
    if thing.where == GRIPPER:
      yield Fact(_holding(name), _holding(swapped))
    elif thing.where == TABLE:
      yield Fact((f'{name} on the table', f'there is {name} on the table'), (f'{swapped} on the table',))
      if thing.pose:
        how = 'standing' if thing.pose == 'upright' else 'lying'
        yield Fact((f'{name} {how} on the table', f'{name} is {how} on the table'))
    elif thing.where:
      where = _INSIDE[thing.where]
      yield Fact((f'{name} {where}', f'there is {name} {where}'), (f'{swapped} {where}', f'there is {swapped} {where}'))
    for other in view.things:
      left = left_of(thing, other) if other is not thing else None
      if left is not None:
        yield Fact(*(tuple(words.format(name, article(other.name), 'left' if is_left else 'right')
                           for words in ('{0} to the {2} of {1}', '{0} is to the {2} of {1}'))
                     for is_left in (left, not left)))
  if view.held == '':
    yield Fact(('the robot holds nothing', 'an empty gripper'))
  if view.drawer:
    yield Fact((f'the drawer is {view.drawer}', f'{article(view.drawer)} drawer'))


def _all(view: View, draw: np.random.Generator) -> Iterator[Fact]:
  """All objects in one list, which is complete."""
  if view.doubtful or not 1 < len(view.objects) <= 4:
    return
  order = [view.objects[i] for i in draw.permutation(len(view.objects))]
  names = [article(thing.name) for thing in order]
  place = int(draw.integers(len(order)))
  swapped = [*names[:place], article(_absent(view, order[place], draw)), *names[place + 1:]]
  yield Fact((_listed(names), f'a table with {_listed(names)}', f'there are {_listed(names)}'),
             (_listed(swapped), f'a table with {_listed(swapped)}', f'there are {_listed(swapped)}'))


def _holding(name: str) -> tuple[str, ...]:
  return f'the robot holds {name}', f'{name} in the gripper', f'a robot arm lifts {name}'


def _absent(view: View, thing: Thing, draw: np.random.Generator) -> str:
  """The thing in another colour, or another kind in its colour: none that is there, nor like one that is."""
  names = [f'{colour} {thing.kind}' for colour in COLOURS] + [f'{thing.colour} {kind}' for kind in KINDS]
  return str(draw.choice([name for name in names if name not in view.present]))


def _listed(names: list[str]) -> str:
  return ', '.join(names[:-1]) + ' and ' + names[-1]
