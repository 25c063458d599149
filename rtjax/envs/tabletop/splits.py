"""Splits of training and held-out tasks, objects, phrasings, clutter and backgrounds.

A task is held out if one of its objects is of an unseen kind, or if a hash of its key puts its combination of skill,
objects and colours into the held-out fifth. `require_seen` checks everything that is written as training data.
"""
import dataclasses
import functools
import hashlib

from rtjax.envs import require_known
from rtjax.envs.tabletop import language
from rtjax.envs.tabletop.objects import ANIMALS, SEEN_KINDS, UNSEEN_KINDS, Item, items
from rtjax.envs.tabletop.scene import Appearance
from rtjax.envs.tabletop.tasks import CONTAINERS, SKILLS, Task
from rtjax.envs.tabletop.textures import TABLES_SEEN, WALLS_SEEN

_DIRECT = ('pick', 'move_near')
_WITH_OBJECTS = tuple(skill for skill in SKILLS if skill not in ('open_drawer', 'close_drawer'))


@dataclasses.dataclass(frozen=True)
class Split:
  """Distribution of the episodes of a split.

  Attributes:
    held_out: 'instruction', 'object' or 'animal' for held-out tasks, '' for seen ones.
    phrasings: whether the phrasings are those of training data.
    synonyms: whether objects are named by the words of synonyms.py.
    distractors: minimum and maximum number of objects that the instruction does not name.
    lookalikes: whether distractors share the target's colour or kind.
    backgrounds: whether tables, walls and light are those of training data.
    reasoning: sorts of reasoning.py, for its instructions.
    skills: skills of the split. Nine look-alikes leave no room for drawer and bowl, and the instructions of the drawer
      alone name no held-out object.
  """
  held_out: str = ''
  phrasings: bool = True
  synonyms: bool = False
  distractors: tuple[int, int] = (1, 3)
  lookalikes: bool = False
  backgrounds: bool = True
  reasoning: tuple[str, ...] = ()
  skills: tuple[str, ...] = SKILLS


SPLITS: dict[str, Split] = {
    'seen': Split(),
    'unseen_instructions': Split(held_out='instruction', skills=_WITH_OBJECTS),
    'unseen_phrasings': Split(phrasings=False),
    'synonyms': Split(synonyms=True, skills=_WITH_OBJECTS),
    'unseen_objects': Split(held_out='object', skills=_WITH_OBJECTS),
    'distractors_none': Split(distractors=(0, 0)),
    'distractors_few': Split(distractors=(2, 5)),
    'distractors_many': Split(distractors=(9, 9), lookalikes=True, skills=_DIRECT),
    'unseen_backgrounds': Split(backgrounds=False),
    'reasoning': Split(reasoning=('use', 'exception', 'kind'), skills=('pick',)),
    'reasoning_use': Split(reasoning=('use',), skills=('pick',)),
    'reasoning_exception': Split(reasoning=('exception',), skills=('pick',)),
    'reasoning_kind': Split(reasoning=('kind',), skills=('pick',)),
}


def get(name: str) -> Split:
  """Return a split of SPLITS by name."""
  require_known('split', name, list(SPLITS))
  return SPLITS[name]


def held_out(task: Task) -> str:
  """Return why a task is held out, or '' if seen.

  The reasons are 'animal', 'object' and 'instruction'.
  """
  if any(item.kind in ANIMALS for item in task.items):
    return 'animal'
  if any(item.kind in UNSEEN_KINDS for item in task.items):
    return 'object'
  number = hashlib.blake2b(task.key.encode(), digest_size=4).digest()[0]
  return 'instruction' if task.target and number < 256 // 5 else ''


@functools.cache
def tasks(skill: str, reason: str = '') -> tuple[Task, ...]:
  """Return a skill's tasks held out for `reason`, or seen ('')."""
  return tuple(task for task in _all_tasks(skill, _KINDS.get(reason, SEEN_KINDS)) if held_out(task) == reason)


def require_seen(task: Task, instruction: str, present: tuple[Item, ...], appearance: Appearance) -> None:
  """Reject held-out episodes as training data.

  Args:
    task: task of the episode.
    instruction: its instruction.
    present: objects of the scene.
    appearance: textures of the scene.

  Raises:
    ValueError: the task, the instruction, an object or the background is held out.
  """
  reason = held_out(task)
  if reason:
    raise ValueError(f'the task {task.key!r} is held out of training data (unseen {reason}); write episodes of the '
                     "split 'seen' only.")
  if instruction not in language.instructions(task):
    raise ValueError(f'the instruction {instruction!r} is held out of training data, or does not belong to the task '
                     f'{task.key!r}.')
  unseen = sorted(item.name for item in present if item.kind not in SEEN_KINDS)
  if unseen:
    raise ValueError(f'the scene has {unseen}, whose kinds are held out of training data.')
  if appearance.table not in TABLES_SEEN or appearance.wall not in WALLS_SEEN:
    raise ValueError(f'the background {appearance.table!r}, {appearance.wall!r} is held out of training data.')


_KINDS = {'object': UNSEEN_KINDS, 'animal': ANIMALS}


def _all_tasks(skill: str, kinds: tuple[str, ...]) -> tuple[Task, ...]:
  if skill in ('open_drawer', 'close_drawer'):
    return (Task(skill),)
  targets = items(kinds)
  if skill in ('upright', 'knock'):
    return tuple(Task(skill, item) for item in targets if item.shape.stands)
  if skill == 'pick':
    return tuple(Task(skill, item) for item in targets)
  if skill == 'move_near':
    return tuple(Task(skill, item, other) for item in targets for other in items(SEEN_KINDS) if other != item)
  return tuple(Task(skill, item, container) for item in targets for container in CONTAINERS)
