"""Reasoning tasks: instructions that do not name their object, of three sorts.

    use        pick up the thing for a thirsty person     one object of a category, no other that may belong to it
    exception  pick up anything except the red one        two objects, one of which the instruction excludes
    kind       pick up something that looks like an animal; grab something extinct
                                                          a toy animal among objects, the dinosaur among animals

No robot instruction contains the decisive words, but the texts of data/tabletop_qa do, in other wordings
(`categories.py`). With two objects, "anything except" has one right answer, and a policy that does not understand it is
right half the time.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from rtjax.envs.tabletop import splits
from rtjax.envs.tabletop.categories import CATEGORIES, Category
from rtjax.envs.tabletop.objects import ANIMALS, SEEN_KINDS, Item, items
from rtjax.envs.tabletop.tasks import Task

_T = TypeVar('_T')

VERBS = ('pick up {}', 'pick {}', 'grab {}')
EXCEPT = ('anything except the {}', 'anything but the {}', 'what is not the {}')
POINTED_EXCEPT = ('the object that is not the {}', 'the object except the {}', 'the thing other than the {}')
"""Wordings of exceptions in texts."""

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


def sample(rng: np.random.Generator, sorts: Sequence[str]) -> ReasoningTask:
  """Sample a task of one of the sorts, with equal probability."""
  return _SORTS[_one(sorts, rng)](rng)


def _use(rng: np.random.Generator) -> ReasoningTask:
  # Categories of objects that the robot has handled, so that only the words are new.
  known = [category for category in CATEGORIES.values() if set(category.members) & set(SEEN_KINDS)]
  return _member(_one(known, rng), splits.tasks('pick'), SEEN_KINDS, rng)


def _kind(rng: np.random.Generator) -> ReasoningTask:
  tasks = splits.tasks('pick', 'animal')
  if rng.random() < 0.5:
    return _member(CATEGORIES['animal'], tasks, SEEN_KINDS, rng)
  return _member(CATEGORIES['extinct'], tasks, ANIMALS, rng)


def _member(category: Category, tasks: Sequence[Task], others: tuple[str, ...], rng: np.random.Generator
            ) -> ReasoningTask:
  task = _one([task for task in tasks if task.target and category.contains(task.target.kind)], rng)
  distractors = tuple(item for item in items(others) if category.contains(item.kind) is False)
  return ReasoningTask(task, _instructions(category.held_out), distractors)


def _exception(rng: np.random.Generator) -> ReasoningTask:
  task = _one(splits.tasks('pick'), rng)
  assert task.target is not None
  name, differs = _one(_NAMES, rng)
  other = _one([item for item in items(SEEN_KINDS) if differs(item, task.target)], rng)
  return ReasoningTask(task, _instructions([wording.format(name(other)) for wording in EXCEPT]), (other,))


def _instructions(wordings: Sequence[str]) -> tuple[str, ...]:
  return tuple(verb.format(wording) for verb in VERBS for wording in wordings)


_SORTS: dict[str, Callable[[np.random.Generator], ReasoningTask]] = {
    'use': _use, 'exception': _exception, 'kind': _kind}


def _one(choices: Sequence[_T], rng: np.random.Generator) -> _T:
  return choices[int(rng.integers(len(choices)))]
