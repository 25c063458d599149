"""Unambiguous questions about a scene, with their answers.

Each function of TYPES yields the questions of one type. A question is unambiguous if its answer follows from the
clearly visible objects: partly visible ones cannot change it, each name fits one object, and positions differ clearly.
Blue and green are not counted beside the bowl, whose colour is between them, nor white and black, which the arm has
too.
"""
import itertools
from collections.abc import Callable, Iterator

from scenes import GRIPPER, SceneView, VisibleObject

from rtjax.envs.tabletop.categories import CATEGORIES, Category
from rtjax.envs.tabletop.objects import COLOURS, KINDS
from rtjax.envs.tabletop.reasoning import POINTED_EXCEPT
from rtjax.envs.tabletop.scene import BOWL
from rtjax.envs.tabletop.world import DRAWER, TABLE

QuestionAnswer = tuple[str, str]
"""Question and answer."""

GRID = 8
"""Cells of the pointing grid across and down."""
_MIN_DISTANCE, _MIN_IMAGE_DISTANCE = 0.04, 0.06  # between compared positions: m, and share of the image
_CELL_MARGIN = 0.1  # between an object's centre and the edge of its cell, share of a cell
_LOCATIONS = {TABLE: 'on the table', BOWL: 'in the bowl', DRAWER: 'in the drawer', GRIPPER: 'in the gripper'}


def left_of(one: VisibleObject, other: VisibleObject) -> bool | None:
  """Return whether `one` is left of `other`; None if ambiguous."""
  return _is_positive(other.position[1] - one.position[1], other.centre[0] - one.centre[0], one, other)


def in_front_of(one: VisibleObject, other: VisibleObject) -> bool | None:
  """Return whether `one` is nearer to the camera; None if ambiguous."""
  return _is_positive(one.position[0] - other.position[0], one.centre[1] - other.centre[1], one, other)


def _is_positive(metres: float, share: float, one: VisibleObject, other: VisibleObject) -> bool | None:
  """Return whether distances in space and image are positive; None if ambiguous."""
  at_rest = all(obj.location in (TABLE, BOWL, DRAWER) for obj in (one, other))
  clear = abs(metres) > _MIN_DISTANCE and abs(share) > _MIN_IMAGE_DISTANCE and (metres > 0) == (share > 0)
  return metres > 0 if at_rest and clear else None


def unique_names(obj: VisibleObject, view: SceneView) -> Iterator[str]:
  """Yield the unambiguous names of an object: 'red cube', perhaps 'cube'."""
  yield obj.name
  if obj.name != BOWL and _count(view, kind=obj.kind) == 1:
    yield obj.kind


def _count(view: SceneView, kind: str = '', colour: str = '') -> int | None:
  """Count visible objects of a kind or colour; None if ambiguous."""
  if (colour in ('blue', 'green') and BOWL in view.present) or (colour in ('white', 'black') and not kind):
    return None
  if any(kind in ('', k) and colour in ('', c) for k, c in view.partial if k != BOWL):
    return None
  return sum(kind in ('', obj.kind) and colour in ('', obj.colour) for obj in view.objects)


def _members(view: SceneView, category: Category) -> list[VisibleObject] | None:
  """Return the visible objects of a category; None if ambiguous."""
  partial = [kind for kind, _ in view.partial if kind != BOWL]
  kinds = [obj.kind for obj in view.objects] + partial
  if any(category.contains(kind) is None for kind in kinds) or any(map(category.contains, partial)):
    return None
  return [obj for obj in view.objects if category.contains(obj.kind)]


def _yes(truth: bool) -> str:
  return 'yes' if truth else 'no'


def _colour(view: SceneView) -> Iterator[QuestionAnswer]:
  for obj in view.objects:
    if _count(view, kind=obj.kind) == 1:
      yield f'What colour is the {obj.kind}?', obj.colour


def _kind(view: SceneView) -> Iterator[QuestionAnswer]:
  for obj in view.objects:
    if _count(view, colour=obj.colour) == 1:
      yield f'What is the {obj.colour} object?', obj.kind


def _exists(view: SceneView) -> Iterator[QuestionAnswer]:
  for kind in KINDS:
    for colour in ('', *COLOURS):
      count = _count(view, kind, colour)
      # An absent object in a question shares its kind or colour with a visible one.
      similar = any(obj.kind == kind or obj.colour == colour for obj in view.objects)
      if count is not None and (count or not colour or similar):
        yield f'Is there {article(f"{colour} {kind}".strip())}?', _yes(count > 0)


def _count_colour(view: SceneView) -> Iterator[QuestionAnswer]:
  for colour in COLOURS:
    count = _count(view, colour=colour)
    if count is not None:
      yield f'How many {colour} objects are there?', str(count)


def _count_kind(view: SceneView) -> Iterator[QuestionAnswer]:
  for kind in KINDS:
    count = _count(view, kind=kind)
    if count is not None:
      yield f'How many {plural(kind)} are there?', str(count)


def _category(view: SceneView) -> Iterator[QuestionAnswer]:
  for category in CATEGORIES.values():
    members = _members(view, category)
    if members is not None and len(members) == 1:
      for wording in (f'something {category.phrase}', *category.wordings, *category.asked):
        yield f'Which object is {wording}?', members[0].name


def _category_exists(view: SceneView) -> Iterator[QuestionAnswer]:
  for category in CATEGORIES.values():
    members = _members(view, category)
    if members is not None:
      yield f'Is there something {category.phrase}?', _yes(bool(members))


def _is_category(view: SceneView) -> Iterator[QuestionAnswer]:
  for category in CATEGORIES.values():
    for obj in view.objects:
      contained = category.contains(obj.kind)
      if contained is not None:
        for name in unique_names(obj, view):
          yield f'Is the {name} something {category.phrase}?', _yes(contained)


def _left_or_right(view: SceneView) -> Iterator[QuestionAnswer]:
  for one, other, left in _pairs(view, left_of):
    yield f'Is the {one} left or right of the {other}?', 'left' if left else 'right'


def _is_left(view: SceneView) -> Iterator[QuestionAnswer]:
  for one, other, left in _pairs(view, left_of):
    yield f'Is the {one} to the left of the {other}?', _yes(left)
    yield f'Is the {one} to the right of the {other}?', _yes(not left)


def _is_in_front(view: SceneView) -> Iterator[QuestionAnswer]:
  for one, other, front in _pairs(view, in_front_of):
    yield f'Is the {one} in front of the {other}?', _yes(front)
    yield f'Is the {one} behind the {other}?', _yes(not front)


def _pairs(view: SceneView, relation: Callable[[VisibleObject, VisibleObject], bool | None]
           ) -> Iterator[tuple[str, str, bool]]:
  for one in view.visible:
    for other in view.visible:
      related = relation(one, other) if one is not other else None
      if related is not None:
        for first, second in zip(unique_names(one, view), unique_names(other, view), strict=False):
          yield first, second, related


def _what_is(view: SceneView) -> Iterator[QuestionAnswer]:
  """Yield questions for the only object on one side of another."""
  if view.partial or view.held != '':
    return
  for phrase, relation, expected in (('to the left of', left_of, True), ('to the right of', left_of, False),
                                     ('in front of', in_front_of, True), ('behind', in_front_of, False)):
    for obj in view.visible:
      others = [(other, relation(other, obj)) for other in view.visible if other is not obj]
      matching = [other for other, related in others if related == expected]
      if len(matching) == 1 and all(related is not None for _, related in others):
        for name in unique_names(obj, view):
          yield f'What is {phrase} the {name}?', matching[0].name


def _outermost(view: SceneView) -> Iterator[QuestionAnswer]:
  if view.partial or view.held != '' or len(view.objects) < 2:
    return
  for phrase, relation, expected in (
      ('furthest to the left', left_of, True), ('furthest to the right', left_of, False),
      ('nearest to the camera', in_front_of, True), ('furthest from the camera', in_front_of, False)):
    for obj in view.objects:
      if all(relation(obj, other) == expected for other in view.objects if other is not obj):
        yield f'Which object is {phrase}?', obj.name


def _held(view: SceneView) -> Iterator[QuestionAnswer]:
  if view.held is None or view.held == BOWL:
    return
  obj = next((obj for obj in view.objects if obj.name == view.held and obj.location == GRIPPER), None)
  if obj or not view.held:
    yield 'What is the robot holding?', obj.name if obj else 'nothing'


def _is_held(view: SceneView) -> Iterator[QuestionAnswer]:
  for _, answer in _held(view):
    yield 'Is the robot holding something?', _yes(answer != 'nothing')
    for obj in view.objects if answer != 'nothing' else ():
      yield f'Is the robot holding the {obj.name}?', _yes(obj.name == answer)


def _drawer(view: SceneView) -> Iterator[QuestionAnswer]:
  if view.drawer:
    yield 'Is the drawer open or closed?', view.drawer
    yield 'Is the drawer open?', _yes(view.drawer == 'open')


def _where(view: SceneView) -> Iterator[QuestionAnswer]:
  for obj in view.objects:
    if obj.location:
      for name in unique_names(obj, view):
        yield f'Where is the {name}?', _LOCATIONS[obj.location]


def _contents(view: SceneView) -> Iterator[QuestionAnswer]:
  for container in (BOWL, DRAWER):
    shows_inside = view.drawer == 'open' if container == DRAWER else any(obj.name == BOWL for obj in view.visible)
    if shows_inside and not view.partial and not view.hidden and all(obj.location for obj in view.visible):
      inside = [obj.name for obj in view.objects if obj.location == container]
      if len(inside) < 2:
        yield f'What is in the {container}?', inside[0] if inside else 'nothing'


def _pose(view: SceneView) -> Iterator[QuestionAnswer]:
  for obj in view.objects:
    if obj.pose and obj.location == TABLE:
      for name in unique_names(obj, view):
        yield f'Is the {name} upright or lying down?', obj.pose


def _same(view: SceneView) -> Iterator[QuestionAnswer]:
  for i, one in enumerate(view.objects):
    for other in view.objects[i + 1:]:
      if one.kind != other.kind and _count(view, kind=one.kind) == _count(view, kind=other.kind) == 1:
        yield f'Do the {one.kind} and the {other.kind} have the same colour?', _yes(one.colour == other.colour)


def _except(view: SceneView) -> Iterator[QuestionAnswer]:
  """Yield questions for the other one of two objects."""
  if view.partial or view.hidden or len(view.objects) != 2:
    return
  for one, other in itertools.permutations(view.objects):
    for name in (*unique_names(one, view), *[f'{one.colour} one'] * (one.colour != other.colour)):
      yield f'Which object is not the {name}?', other.name
      yield f'Which object is there except the {name}?', other.name


def pointing(view: SceneView) -> Iterator[QuestionAnswer]:
  """Yield object names, each with its cell of the pointing grid.

  A cell is the column from the left and the row from the top, from 0. Objects with a centre near the edge of their cell
  are left out.
  """
  for obj in view.objects:
    for name in unique_names(obj, view):
      yield from _pointed(f'the {name}', obj)


def descriptions(view: SceneView) -> Iterator[QuestionAnswer]:
  """Yield descriptions of one object without its name, each with its cell.

  They are categories, exceptions of two objects, and comparisons of positions.
  """
  for category in CATEGORIES.values():
    members = _members(view, category)
    if members is not None and len(members) == 1:
      for wording in category.wordings:
        yield from _pointed(wording, members[0])
  named = {obj.name: obj for obj in view.objects}
  for question, answer in _except(view):
    if question.startswith(_NOT):
      for wording in POINTED_EXCEPT:
        yield from _pointed(wording.format(question[len(_NOT):-1]), named[answer])
  for start, question_type in (('Which object is ', _outermost), ('What is ', _what_is)):
    for question, answer in question_type(view):
      if answer in named:
        for noun in ('the object', 'the thing that is'):
          yield from _pointed(f'{noun} {question[len(start):-1]}', named[answer])


_NOT = 'Which object is not the '


def _pointed(wording: str, obj: VisibleObject) -> Iterator[QuestionAnswer]:
  """Yield a wording with the cell, unless its edge is near."""
  cell = [GRID * share for share in obj.centre]
  if all(_CELL_MARGIN < coordinate % 1 < 1 - _CELL_MARGIN for coordinate in cell):
    yield wording, ' '.join(str(int(coordinate)) for coordinate in cell)


TYPES: dict[str, Callable[[SceneView], Iterator[QuestionAnswer]]] = {
    'colour': _colour, 'kind': _kind, 'exists': _exists, 'count_colour': _count_colour, 'count_kind': _count_kind,
    'category': _category, 'category_exists': _category_exists, 'is_category': _is_category,
    'left_or_right': _left_or_right, 'is_left': _is_left, 'is_in_front': _is_in_front, 'what_is': _what_is,
    'outermost': _outermost, 'held': _held, 'is_held': _is_held, 'drawer': _drawer, 'where': _where,
    'contents': _contents, 'pose': _pose, 'same': _same, 'except': _except}


def plural(noun: str) -> str:
  """Return the plural of a noun."""
  return noun[:-1] + 'ies' if noun.endswith('y') else noun + ('es' if noun.endswith('s') else 's')


def article(name: str) -> str:
  """Add an article: 'a red cube', 'an orange ball', 'the bowl'."""
  if name == BOWL:
    return f'the {name}'
  return f'{"an" if name[0] in "aeiou" else "a"} {name}'
