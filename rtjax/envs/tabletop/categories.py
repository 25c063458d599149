"""What objects are good for and look like: words that no instruction of the robot's data has.

A category sorts every kind of object into members, doubtful ones, and the rest. Whoever asks about it in a scene where
a doubtful object is present asks an unfair question.
"""
import dataclasses

from rtjax.envs.tabletop.objects import KINDS


@dataclasses.dataclass(frozen=True)
class Category:
  """A set of kinds in words.

  Attributes:
    thing: the object in words, after 'something': 'to drink from'.
    members: kinds that belong to it.
    doubtful: kinds that some would count in.
  """
  thing: str
  members: tuple[str, ...]
  doubtful: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    unknown = {*self.members, *self.doubtful} - set(KINDS)
    if unknown or set(self.members) & set(self.doubtful):
      raise ValueError(f'Category {self.thing!r}: kinds are members or doubtful, of {sorted(KINDS)}.')

  def holds(self, kind: str) -> bool | None:
    """Whether a kind belongs to it; None where one cannot say."""
    return None if kind in self.doubtful else kind in self.members


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
