"""Instruction templates of each skill.

{x} is the target object, {y} the object or container that it is moved near, into or out of.
"""
import itertools

from rtjax.envs.tabletop import synonyms
from rtjax.envs.tabletop.objects import Item
from rtjax.envs.tabletop.tasks import Task

# The last two of each skill are held out of training data.
TEMPLATES: dict[str, tuple[str, ...]] = {
    'pick': ('pick up the {x}', 'pick the {x}', 'grab the {x}', 'lift the {x}', 'take the {x} up from the table',
             'get the {x}', 'raise the {x} off the table'),
    'move_near': ('move the {x} near the {y}', 'put the {x} next to the {y}', 'bring the {x} close to the {y}',
                  'place the {x} beside the {y}', 'move the {x} over to the {y}',
                  'set the {x} down by the {y}', 'the {x} should be near the {y}'),
    'upright': ('place the {x} upright', 'stand the {x} up', 'put the {x} upright', 'set the {x} upright',
                'make the {x} stand', 'turn the {x} the right way up'),
    'knock': ('knock the {x} over', 'tip the {x} over', 'push the {x} over', 'topple the {x}',
              'make the {x} fall over', 'knock down the {x}'),
    'open_drawer': ('open the drawer', 'pull the drawer open', 'pull out the drawer', 'slide the drawer open',
                    'get the drawer open', 'the drawer should be open'),
    'close_drawer': ('close the drawer', 'push the drawer shut', 'shut the drawer', 'push in the drawer',
                     'slide the drawer closed', 'the drawer should be closed'),
    'put_into': ('put the {x} into the {y}', 'place the {x} in the {y}', 'drop the {x} into the {y}',
                 'move the {x} into the {y}', 'store the {x} in the {y}', 'the {x} goes in the {y}'),
    'take_out': ('take the {x} out of the {y}', 'remove the {x} from the {y}', 'get the {x} out of the {y}',
                 'take the {x} from the {y} and put it on the table', 'empty the {x} out of the {y}',
                 'the {x} should leave the {y}'),
}
_HELD_OUT = 2


def templates(skill: str, seen: bool = True) -> tuple[str, ...]:
  """Return the phrasings of training data, or the held-out ones."""
  return TEMPLATES[skill][:-_HELD_OUT] if seen else TEMPLATES[skill][-_HELD_OUT:]


def instruction(task: Task, template: str) -> str:
  """Fill a template with the objects of a task."""
  x = task.target.name if task.target else ''
  y = task.reference if isinstance(task.reference, str) else task.reference.name if task.reference else ''
  return template.format(x=x, y=y)


def instructions(task: Task, seen: bool = True) -> tuple[str, ...]:
  """Return every instruction for a task."""
  return tuple(instruction(task, template) for template in templates(task.skill, seen))


def with_synonyms(task: Task) -> tuple[str, ...]:
  """Return instructions in phrasings of training data that name objects by synonyms."""
  choices = [synonyms.names(part) if isinstance(part, Item) else (part or '',)
             for part in (task.target, task.reference)]
  return tuple(template.format(x=x, y=y) for template in templates(task.skill)
               for x, y in itertools.product(*choices))
