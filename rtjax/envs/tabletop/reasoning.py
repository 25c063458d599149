"""Reasoning tasks: instructions that do not name their object.

    pick up something to drink from       one object of a category (categories.py), no other that may belong to it
    pick up anything except the red one   two objects, one of which the instruction excludes

No robot instruction contains the decisive words, but questions of data/tabletop_qa do. With two objects, "anything
except" has one right answer, and a policy that does not understand it is right half the time.
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

# Names of the excluded object, each with a test whether it excludes no other object.
_NAMES: tuple[tuple[Callable[[Item], str], Callable[[Item, Item], bool]], ...] = (
    (lambda item: f'{item.colour} one', lambda item, other: item.colour != other.colour),
    (lambda item: item.kind, lambda item, other: item.kind != other.kind),
    (lambda item: item.name, lambda item, other: item != other))


class ReasoningTask(NamedTuple):
  """Task, its instructions, and the possible distractors beside which they are unambiguous."""
  task: Task
  instructions: tuple[str, ...]
  distractors: tuple[Item, ...]


def sample(rng: np.random.Generator) -> ReasoningTask:
  """Sample a task of either type with equal probability."""
  return _category(rng) if rng.random() < 0.5 else _except(rng)


def _category(rng: np.random.Generator) -> ReasoningTask:
  # Categories of objects that the robot has handled, so that only the words are new.
  known = [category for category in CATEGORIES.values() if set(category.members) & set(SEEN_KINDS)]
  category = _one(known, rng)
  task = _one([task for task in splits.tasks('pick') if task.target and category.contains(task.target.kind)], rng)
  others = tuple(item for item in items(SEEN_KINDS) if category.contains(item.kind) is False)
  return ReasoningTask(task, tuple(template.format(category.phrase) for template in CATEGORY), others)


def _except(rng: np.random.Generator) -> ReasoningTask:
  task = _one(splits.tasks('pick'), rng)
  assert task.target is not None
  name, differs = _one(_NAMES, rng)
  other = _one([item for item in items(SEEN_KINDS) if differs(item, task.target)], rng)
  return ReasoningTask(task, tuple(template.format(name(other)) for template in EXCEPT), (other,))


def _one(choices: Sequence[_T], rng: np.random.Generator) -> _T:
  return choices[int(rng.integers(len(choices)))]
