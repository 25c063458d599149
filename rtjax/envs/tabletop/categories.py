"""Categories of objects by use and shape.

Their phrases consist of words that robot instructions never contain. A category divides the kinds of objects into
members, ambiguous ones and the rest. Questions about a category avoid scenes with an ambiguous object.
"""
import dataclasses

from rtjax.envs.tabletop.objects import KINDS


@dataclasses.dataclass(frozen=True)
class Category:
  """Set of kinds of objects, described by a phrase.

  Attributes:
    phrase: description of a member, after 'something': 'to drink from'.
    members: kinds that belong to it.
    ambiguous: kinds that some people would count as members.
  """
  phrase: str
  members: tuple[str, ...]
  ambiguous: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    unknown = {*self.members, *self.ambiguous} - set(KINDS)
    if unknown or set(self.members) & set(self.ambiguous):
      raise ValueError(f'Category {self.phrase!r} has members {self.members} and ambiguous kinds {self.ambiguous}; '
                       f'expected kinds of {sorted(KINDS)}, each listed once.')

  def contains(self, kind: str) -> bool | None:
    """Return whether a kind belongs to it; None if ambiguous."""
    return None if kind in self.ambiguous else kind in self.members


CATEGORIES: dict[str, Category] = {
    'drink': Category('to drink from', ('mug', 'bottle', 'can', 'carton'), ('jar',)),
    'round': Category('round like an orange', ('ball',), ('pear', 'mushroom', 'puck', 'can', 'bottle', 'mug', 'candle',
                                                          'battery', 'jar')),
    'eat': Category('to eat', ('pear', 'mushroom'), ('can', 'carton', 'jar', 'bottle')),
    'tool': Category('to drive a nail in with', ('hammer',), ('block', 'cube')),
    'light': Category('to light a dark room with', ('candle',), ('battery',)),
    'clean': Category('to wipe the table with', ('sponge',)),
    'power': Category('to power a torch with', ('battery',)),
    'play': Category('to play catch with', ('ball',), ('puck', 'cube', 'pear', 'sponge')),
    'build': Category('to build a tower with', ('cube', 'block'), ('carton', 'can', 'puck', 'sponge', 'cross', 'jar',
                                                                  'battery', 'mug', 'candle')),
    'hold': Category('with a handle', ('mug', 'hammer')),
}
