"""Categories of objects by use, shape and class, and their descriptions.

Their words are in no robot instruction. A category divides the kinds of objects into members, ambiguous ones and the
rest. Questions about a category avoid scenes with an ambiguous object.

The wordings of a category are in three parts: texts point at objects by `wordings`; questions also have `asked`, a
family of words that no pointing has; evaluation has `held_out`, new sentences of these words, which are in no text.
"""
import dataclasses

from rtjax.envs.tabletop.objects import ANIMALS, KINDS


@dataclasses.dataclass(frozen=True)
class Category:
  """Set of kinds of objects, described by a phrase.

  Attributes:
    phrase: description of a member, after 'something': 'to drink from'.
    members: kinds that belong to it.
    ambiguous: kinds that some people would count as members.
    wordings: descriptions in pointing and questions.
    asked: descriptions in questions alone.
    held_out: descriptions in the instructions of evaluation alone.
  """
  phrase: str
  members: tuple[str, ...]
  ambiguous: tuple[str, ...] = ()
  wordings: tuple[str, ...] = ()
  asked: tuple[str, ...] = ()
  held_out: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    unknown = {*self.members, *self.ambiguous} - set(KINDS)
    if unknown or set(self.members) & set(self.ambiguous):
      raise ValueError(f'Category {self.phrase!r} has members {self.members} and ambiguous kinds {self.ambiguous}; '
                       f'expected kinds of {sorted(KINDS)}, each listed once.')

  def contains(self, kind: str) -> bool | None:
    """Return whether a kind belongs to it; None if ambiguous."""
    return None if kind in self.ambiguous else kind in self.members


CATEGORIES: dict[str, Category] = {
    'drink': Category(
        'to drink from', ('mug', 'bottle', 'can', 'carton'), ('jar',),
        ('something to drink from', 'the thing that people drink from', 'a thing for drinks'),
        ('something for a thirsty person',),
        ('something that thirsty people drink from', 'the thing for a thirsty person')),
    'round': Category(
        'round like an orange', ('ball',),
        ('pear', 'mushroom', 'puck', 'can', 'bottle', 'mug', 'candle', 'battery', 'jar', 'turtle'),
        ('something round like an orange', 'the round thing', 'a thing that is round'),
        ('something that rolls',), ('something that is round', 'the thing that rolls like an orange')),
    'eat': Category(
        'to eat', ('pear', 'mushroom'), ('can', 'carton', 'jar', 'bottle', *ANIMALS),
        ('something to eat', 'the thing that people eat', 'a thing for eating'),
        ('something for a hungry person',), ('the thing for a hungry person',)),
    'tool': Category(
        'to drive a nail in with', ('hammer',), ('block', 'cube'),
        ('something to drive a nail in with', 'the thing that drives nails'),
        ('something for a carpenter',), ('the thing for a carpenter',)),
    'light': Category(
        'to light a dark room with', ('candle',), ('battery',),
        ('something to light a dark room with', 'the thing that gives light', 'a thing for light'),
        ('something for a dark night',), ('something that gives light', 'the thing for a dark night')),
    'clean': Category(
        'to wipe the table with', ('sponge',), (),
        ('something to wipe the table with', 'the thing that wipes the table', 'a thing for wiping'),
        ('something for a dirty table',), ('something that wipes the table', 'the thing for a dirty table')),
    'power': Category(
        'to power a torch with', ('battery',), (),
        ('something to power a torch with', 'the thing that powers a torch', 'a thing for power'),
        ('something for an empty torch',), ('something that powers a torch', 'the thing for an empty torch')),
    'play': Category(
        'to play catch with', ('ball',), ('puck', 'cube', 'pear', 'sponge', *ANIMALS),
        ('something to play catch with', 'the thing to play with', 'a thing for playing catch'),
        ('something to throw and catch',), ('something to play with', 'the thing to throw and catch')),
    'build': Category(
        'to build a tower with', ('cube', 'block'),
        ('carton', 'can', 'puck', 'sponge', 'cross', 'jar', 'battery', 'mug', 'candle'),
        ('something to build a tower with', 'the thing that builds a tower', 'a thing for building'),
        ('something to stack',), ('something for building a tower', 'the thing to stack')),
    'hold': Category(
        'with a handle', ('mug', 'hammer'), (),
        ('something with a handle', 'the thing that has a handle', 'a thing with a handle'),
        ('something to hold by its handle',), ('something that has a handle', 'the thing to hold by its handle')),
    'animal': Category(
        'that is an animal', ANIMALS, (),
        ('an animal', 'the animal', 'the toy animal', 'a thing that looks like an animal'),
        ('something that breathes',), ('something that looks like an animal', 'the thing that breathes')),
    'extinct': Category(
        'that is extinct', ('dinosaur',), (),
        ('the extinct animal', 'the animal that is extinct'),
        ('an animal of the past',), ('something extinct', 'the animal of the past')),
}
