"""Questions about a view, and their answers: each function lists those of one type that are fair to ask there.

A question is fair if its answer follows from what is clearly seen: nothing that is seen in part may change it, no two
things may be meant, and places differ by more than one can doubt. Blue and green are not counted beside the bowl, which
is between them, nor white and black, which the arm is too.
"""
import itertools
from collections.abc import Callable, Iterator

from scenes import GRIPPER, Thing, View

from rtjax.envs.tabletop.categories import CATEGORIES, Category
from rtjax.envs.tabletop.objects import COLOURS, KINDS
from rtjax.envs.tabletop.scene import BOWL
from rtjax.envs.tabletop.world import DRAWER, TABLE

Asked = tuple[str, str]
"""Question and answer."""

_APART, _APART_SEEN = 0.04, 0.06  # m, and share of the picture, in which two places have to differ
GRID = 8
"""Cells across and down."""
_INSIDE_CELL = 0.1  # share of a cell
_WHERE = {TABLE: 'on the table', BOWL: 'in the bowl', DRAWER: 'in the drawer', GRIPPER: 'in the gripper'}


def left_of(one: Thing, other: Thing) -> bool | None:
  """Whether `one` is further left in the picture than `other`; None if one could doubt it."""
  return _before(other.position[1] - one.position[1], other.place[0] - one.place[0], one, other)


def in_front_of(one: Thing, other: Thing) -> bool | None:
  """Whether `one` is nearer to the camera."""
  return _before(one.position[0] - other.position[0], one.place[1] - other.place[1], one, other)


def _before(metres: float, share: float, one: Thing, other: Thing) -> bool | None:
  lies = all(thing.where in (TABLE, BOWL, DRAWER) for thing in (one, other))
  sure = abs(metres) > _APART and abs(share) > _APART_SEEN and (metres > 0) == (share > 0)
  return metres > 0 if lies and sure else None


def the(thing: Thing, view: View) -> Iterator[str]:
  """The ways of naming a thing that fit it alone: 'red cube', and 'cube' where there is one only."""
  yield thing.name
  if thing.name != BOWL and _count(view, kind=thing.kind) == 1:
    yield thing.kind


def _count(view: View, kind: str = '', colour: str = '') -> int | None:
  """How many objects of a kind, of a colour, are seen; None if one could doubt it."""
  if (colour in ('blue', 'green') and BOWL in view.present) or (colour in ('white', 'black') and not kind):
    return None
  if any(kind in ('', k) and colour in ('', c) for k, c in view.doubtful if k != BOWL):
    return None
  return sum(kind in ('', t.kind) and colour in ('', t.colour) for t in view.objects)


def _belongs(view: View, category: Category) -> list[Thing] | None:
  """The objects of a category; None if one could doubt it."""
  kinds = [t.kind for t in view.objects] + [kind for kind, _ in view.doubtful if kind != BOWL]
  if any(category.holds(kind) is None for kind in kinds) or any(category.holds(k) for k, _ in view.doubtful
                                                               if k != BOWL):
    return None
  return [t for t in view.objects if category.holds(t.kind)]


def _yes(truth: bool) -> str:
  return 'yes' if truth else 'no'


def _colour(view: View) -> Iterator[Asked]:
  for thing in view.objects:
    if _count(view, kind=thing.kind) == 1:
      yield f'What colour is the {thing.kind}?', thing.colour


def _kind(view: View) -> Iterator[Asked]:
  for thing in view.objects:
    if _count(view, colour=thing.colour) == 1:
      yield f'What is the {thing.colour} object?', thing.kind


def _exists(view: View) -> Iterator[Asked]:
  for kind in KINDS:
    for colour in ('', *COLOURS):
      count = _count(view, kind, colour)
      # What is asked in vain shares its kind or its colour with something there.
      like = any(t.kind == kind or t.colour == colour for t in view.objects)
      if count is not None and (count or not colour or like):
        words = f'{colour} {kind}'.strip()
        yield f'Is there {article(words)}?', _yes(count > 0)


def _count_colour(view: View) -> Iterator[Asked]:
  for colour in COLOURS:
    count = _count(view, colour=colour)
    if count is not None:
      yield f'How many {colour} objects are there?', str(count)


def _count_kind(view: View) -> Iterator[Asked]:
  for kind in KINDS:
    count = _count(view, kind=kind)
    if count is not None:
      yield f'How many {plural(kind)} are there?', str(count)


def _category(view: View) -> Iterator[Asked]:
  for category in CATEGORIES.values():
    found = _belongs(view, category)
    if found is not None and len(found) == 1:
      yield f'Which object is something {category.thing}?', found[0].name


def _category_exists(view: View) -> Iterator[Asked]:
  for category in CATEGORIES.values():
    found = _belongs(view, category)
    if found is not None:
      yield f'Is there something {category.thing}?', _yes(bool(found))


def _is_category(view: View) -> Iterator[Asked]:
  for category in CATEGORIES.values():
    for thing in view.objects:
      holds = category.holds(thing.kind)
      if holds is not None:
        for name in the(thing, view):
          yield f'Is the {name} something {category.thing}?', _yes(holds)


def _left_or_right(view: View) -> Iterator[Asked]:
  for one, other, left in _pairs(view, left_of):
    yield f'Is the {one} left or right of the {other}?', 'left' if left else 'right'


def _is_left(view: View) -> Iterator[Asked]:
  for one, other, left in _pairs(view, left_of):
    yield f'Is the {one} to the left of the {other}?', _yes(left)
    yield f'Is the {one} to the right of the {other}?', _yes(not left)


def _is_in_front(view: View) -> Iterator[Asked]:
  for one, other, front in _pairs(view, in_front_of):
    yield f'Is the {one} in front of the {other}?', _yes(front)
    yield f'Is the {one} behind the {other}?', _yes(not front)


def _pairs(view: View, relation: Callable[[Thing, Thing], bool | None]) -> Iterator[tuple[str, str, bool]]:
  for one in view.things:
    for other in view.things:
      holds = relation(one, other) if one is not other else None
      if holds is not None:
        for first, second in zip(the(one, view), the(other, view), strict=False):
          yield first, second, holds


def _what_is(view: View) -> Iterator[Asked]:
  """What is left of something: asked where it is one thing, and all others are surely elsewhere."""
  if view.doubtful or view.held != '':
    return
  for words, relation, wanted in (('to the left of', left_of, True), ('to the right of', left_of, False),
                                  ('in front of', in_front_of, True), ('behind', in_front_of, False)):
    for thing in view.things:
      others = [(other, relation(other, thing)) for other in view.things if other is not thing]
      there = [other for other, holds in others if holds == wanted]
      if len(there) == 1 and all(holds is not None for _, holds in others):
        for name in the(thing, view):
          yield f'What is {words} the {name}?', there[0].name


def _outermost(view: View) -> Iterator[Asked]:
  if view.doubtful or view.held != '' or len(view.objects) < 2:
    return
  for words, relation, wanted in (('furthest to the left', left_of, True), ('furthest to the right', left_of, False),
                                  ('nearest to the camera', in_front_of, True),
                                  ('furthest from the camera', in_front_of, False)):
    for thing in view.objects:
      if all(relation(thing, other) == wanted for other in view.objects if other is not thing):
        yield f'Which object is {words}?', thing.name


def _held(view: View) -> Iterator[Asked]:
  if view.held is None or view.held == BOWL:
    return
  thing = next((t for t in view.objects if t.name == view.held and t.where == GRIPPER), None)
  if thing or not view.held:
    yield 'What is the robot holding?', thing.name if thing else 'nothing'


def _is_held(view: View) -> Iterator[Asked]:
  for _, answer in _held(view):
    yield 'Is the robot holding something?', _yes(answer != 'nothing')
    for thing in view.objects if answer != 'nothing' else ():
      yield f'Is the robot holding the {thing.name}?', _yes(thing.name == answer)


def _drawer(view: View) -> Iterator[Asked]:
  if view.drawer:
    yield 'Is the drawer open or closed?', view.drawer
    yield 'Is the drawer open?', _yes(view.drawer == 'open')


def _where(view: View) -> Iterator[Asked]:
  for thing in view.objects:
    if thing.where:
      for name in the(thing, view):
        yield f'Where is the {name}?', _WHERE[thing.where]


def _contents(view: View) -> Iterator[Asked]:
  for container in (BOWL, DRAWER):
    shown = view.drawer == 'open' if container == DRAWER else any(t.name == BOWL for t in view.things)
    if shown and not view.doubtful and not view.hidden and all(t.where for t in view.things):
      inside = [t.name for t in view.objects if t.where == container]
      if len(inside) < 2:
        yield f'What is in the {container}?', inside[0] if inside else 'nothing'


def _pose(view: View) -> Iterator[Asked]:
  for thing in view.objects:
    if thing.pose and thing.where == TABLE:
      for name in the(thing, view):
        yield f'Is the {name} upright or lying down?', thing.pose


def _same(view: View) -> Iterator[Asked]:
  for i, one in enumerate(view.objects):
    for other in view.objects[i + 1:]:
      if one.kind != other.kind and _count(view, kind=one.kind) == _count(view, kind=other.kind) == 1:
        yield f'Do the {one.kind} and the {other.kind} have the same colour?', _yes(one.colour == other.colour)


def _except(view: View) -> Iterator[Asked]:
  """What is left when one of two is excluded."""
  if view.doubtful or view.hidden or len(view.objects) != 2:
    return
  for one, other in itertools.permutations(view.objects):
    for name in (*the(one, view), *[f'{one.colour} one'] * (one.colour != other.colour)):
      yield f'Which object is not the {name}?', other.name
      yield f'Which object is there except the {name}?', other.name


def places(view: View) -> Iterator[Asked]:
  """Things, and the cells of a grid over the picture that they are in: column from the left and row from above, from 0.

  One whose middle is near to another cell is left out.
  """
  for thing in view.objects:
    scaled = [GRID * share for share in thing.place]
    if all(_INSIDE_CELL < share % 1 < 1 - _INSIDE_CELL for share in scaled):
      for name in the(thing, view):
        yield f'the {name}', ' '.join(str(int(share)) for share in scaled)


TYPES: dict[str, Callable[[View], Iterator[Asked]]] = {
    'colour': _colour, 'kind': _kind, 'exists': _exists, 'count_colour': _count_colour, 'count_kind': _count_kind,
    'category': _category, 'category_exists': _category_exists, 'is_category': _is_category,
    'left_or_right': _left_or_right, 'is_left': _is_left, 'is_in_front': _is_in_front, 'what_is': _what_is,
    'outermost': _outermost, 'held': _held, 'is_held': _is_held, 'drawer': _drawer, 'where': _where,
    'contents': _contents, 'pose': _pose, 'same': _same, 'except': _except}


def plural(noun: str) -> str:
  return noun[:-1] + 'ies' if noun.endswith('y') else noun + ('es' if noun.endswith('s') else 's')


def article(words: str) -> str:
  """'a red cube', 'an orange ball', 'the bowl'."""
  if words == BOWL:
    return f'the {words}'
  return f'{"an" if words[0] in "aeiou" else "a"} {words}'
