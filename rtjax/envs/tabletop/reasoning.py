"""Instructions that do not name their object: it has to be worked out from what the words mean and what is there.

    pick up something to drink from       one object of a category (categories.py), the others surely outside it
    pick up anything except the red one   two objects, of which the words exclude one

No instruction of the robot's data has the words that count, questions of data/tabletop_qa have. With two objects,
"anything except" has one right answer, and who does not understand it is right half the time.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from rtjax.envs.tabletop import splits
from rtjax.envs.tabletop.categories import CATEGORIES
from rtjax.envs.tabletop.objects import SEEN_KINDS, Item, items
from rtjax.envs.tabletop.tasks import Task

_T = TypeVar('_T')

CATEGORY = ('pick up something {}', 'pick the thing {}', 'grab something {}')
EXCEPT = ('pick up anything except the {}', 'pick anything but the {}', 'grab the object that is not the {}')

# How the excluded object is named, and whether that leaves out another one.
_NAMES: tuple[tuple[Callable[[Item], str], Callable[[Item, Item], bool]], ...] = (
    (lambda item: f'{item.colour} one', lambda item, other: item.colour != other.colour),
    (lambda item: item.kind, lambda item, other: item.kind != other.kind),
    (lambda item: item.name, lambda item, other: item != other))


class Riddle(NamedTuple):
  """A task, the instructions that mean it, and the objects beside which they mean no other one."""
  task: Task
  instructions: tuple[str, ...]
  bystanders: tuple[Item, ...]


def riddle(draw: np.random.Generator) -> Riddle:
  """One of either sort, evenly."""
  return _category(draw) if draw.random() < 0.5 else _except(draw)


def _category(draw: np.random.Generator) -> Riddle:
  # Of those whose objects the robot has handled: what is new here is the words.
  known = [category for category in CATEGORIES.values() if set(category.members) & set(SEEN_KINDS)]
  category = _one(known, draw)
  task = _one([task for task in splits.tasks('pick') if task.target and category.holds(task.target.kind)], draw)
  others = tuple(item for item in items(SEEN_KINDS) if category.holds(item.kind) is False)
  return Riddle(task, tuple(words.format(category.thing) for words in CATEGORY), others)


def _except(draw: np.random.Generator) -> Riddle:
  task = _one(splits.tasks('pick'), draw)
  assert task.target is not None
  name, differs = _one(_NAMES, draw)
  other = _one([item for item in items(SEEN_KINDS) if differs(item, task.target)], draw)
  return Riddle(task, tuple(words.format(name(other)) for words in EXCEPT), (other,))


def _one(choices: Sequence[_T], draw: np.random.Generator) -> _T:
  return choices[int(draw.integers(len(choices)))]
