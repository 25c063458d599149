"""What is trained on and what is held out: combinations, objects, phrasings, clutter and backgrounds.

A task is held out if one of its objects is of an unseen kind, or if its combination of skill, objects and colours falls
into the fifth that a hash of its key picks. `require_seen` is the gate through which everything written as training
data goes.
"""
import dataclasses
import difflib
import functools
import hashlib

from rtjax.envs.tabletop import language
from rtjax.envs.tabletop.objects import SEEN_KINDS, UNSEEN_KINDS, Item, items
from rtjax.envs.tabletop.scene import Look
from rtjax.envs.tabletop.tasks import CONTAINERS, SKILLS, Task
from rtjax.envs.tabletop.textures import TABLES_SEEN, WALLS_SEEN

_DIRECT = ('pick', 'move_near')
_WITH_OBJECTS = tuple(skill for skill in SKILLS if skill not in ('open_drawer', 'close_drawer'))


@dataclasses.dataclass(frozen=True)
class Split:
  """How episodes of a split are drawn.

  Attributes:
    held_out: 'instruction' or 'object' where the tasks are those held out, '' for seen ones.
    phrasings: whether the words are those of training data.
    distractors: fewest and most objects that the instruction does not name.
    lookalikes: whether these share the target's colour or kind.
    backgrounds: whether tables, walls and light are those of training data.
    reasoning: whether the object has to be worked out (reasoning.py).
    skills: those that fit: nine look-alikes leave no room for drawer and bowl, and no held-out object is in the
      instructions of the drawer alone.
  """
  held_out: str = ''
  phrasings: bool = True
  distractors: tuple[int, int] = (1, 3)
  lookalikes: bool = False
  backgrounds: bool = True
  reasoning: bool = False
  skills: tuple[str, ...] = SKILLS


SPLITS: dict[str, Split] = {
    'seen': Split(),
    'unseen_instructions': Split(held_out='instruction', skills=_WITH_OBJECTS),
    'unseen_phrasings': Split(phrasings=False),
    'unseen_objects': Split(held_out='object', skills=_WITH_OBJECTS),
    'distractors_none': Split(distractors=(0, 0)),
    'distractors_few': Split(distractors=(2, 5)),
    'distractors_many': Split(distractors=(9, 9), lookalikes=True, skills=_DIRECT),
    'unseen_backgrounds': Split(backgrounds=False),
    'reasoning': Split(reasoning=True, skills=('pick',)),
}


def get(name: str) -> Split:
  """The split called `name`: one of SPLITS."""
  if name not in SPLITS:
    close = difflib.get_close_matches(name, SPLITS, 1)
    raise ValueError(f'unknown split {name!r}, expected one of {list(SPLITS)}.'
                     + (f' Did you mean {close[0]!r}?' if close else ''))
  return SPLITS[name]


def held_out(task: Task) -> str:
  """Why a task is held out of training data: 'object', 'instruction', or '' if it is not."""
  if any(item.kind in UNSEEN_KINDS for item in task.items):
    return 'object'
  number = hashlib.blake2b(task.key.encode(), digest_size=4).digest()[0]
  return 'instruction' if task.target and number < 256 // 5 else ''


@functools.cache
def tasks(skill: str, reason: str = '') -> tuple[Task, ...]:
  """Every task of a skill that is held out for `reason`, or that is seen ('')."""
  return tuple(task for task in _all_tasks(skill, reason == 'object') if held_out(task) == reason)


def require_seen(task: Task, instruction: str, present: tuple[Item, ...], look: Look) -> None:
  """Refuses whatever is held out: the gate in front of training data.

  Raises:
    ValueError: the task, its words, an object in the scene, or the background is held out.
  """
  reason = held_out(task)
  if reason:
    raise ValueError(f'the task {task.key!r} is held out of training data (unseen {reason}); write episodes of the '
                     "split 'seen' only.")
  if instruction not in language.instructions(task):
    raise ValueError(f'the instruction {instruction!r} is held out of training data, or none of the task {task.key!r}.')
  strange = sorted(item.name for item in present if item.kind not in SEEN_KINDS)
  if strange:
    raise ValueError(f'the scene has {strange}, whose kinds are held out of training data.')
  if look.table not in TABLES_SEEN or look.wall not in WALLS_SEEN:
    raise ValueError(f'the background {look.table!r}, {look.wall!r} is held out of training data.')


def _all_tasks(skill: str, unseen_kinds: bool) -> tuple[Task, ...]:
  if skill in ('open_drawer', 'close_drawer'):
    return (Task(skill),)
  targets = items(UNSEEN_KINDS if unseen_kinds else SEEN_KINDS)
  if skill in ('upright', 'knock'):
    return tuple(Task(skill, item) for item in targets if item.shape.stands)
  if skill == 'pick':
    return tuple(Task(skill, item) for item in targets)
  if skill == 'move_near':
    return tuple(Task(skill, item, other) for item in targets for other in items(SEEN_KINDS) if other != item)
  return tuple(Task(skill, item, container) for item in targets for container in CONTAINERS)
