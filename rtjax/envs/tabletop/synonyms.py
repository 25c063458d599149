"""Synonyms for colours and objects, in no training text.

The split `synonyms` replaces the colour or the kind of each named object, or both. The verbs stay those of training
data, so that the split measures the words for things alone.
"""
from rtjax.envs.tabletop.objects import Item

COLOUR_SYNONYMS: dict[str, tuple[str, ...]] = {
    'red': ('crimson', 'scarlet', 'ruby'), 'orange': ('tangerine', 'apricot'), 'yellow': ('golden', 'lemon', 'canary'),
    'green': ('emerald', 'lime', 'jade'), 'blue': ('azure', 'navy', 'cobalt'), 'purple': ('violet', 'lilac', 'mauve'),
    'white': ('ivory', 'snowy', 'pale'), 'black': ('ebony', 'jet', 'inky')}

KIND_SYNONYMS: dict[str, tuple[str, ...]] = {
    'cube': ('dice', 'die'), 'block': ('brick', 'slab'), 'ball': ('sphere', 'orb', 'globe'),
    'can': ('tin', 'soda', 'cola'), 'bottle': ('flask', 'vial'), 'mug': ('cup', 'teacup', 'beaker'),
    'puck': ('disc', 'disk'), 'carton': ('package', 'tetrapak'), 'candle': ('taper', 'tealight'),
    'sponge': ('scrubber', 'scourer'), 'battery': ('cell', 'accumulator'), 'cross': ('plus', 'cruciform')}


def names(item: Item) -> tuple[str, ...]:
  """Return the names of an object with at least one synonym."""
  colours = (item.colour, *COLOUR_SYNONYMS[item.colour])
  kinds = (item.kind, *KIND_SYNONYMS[item.kind])
  return tuple(f'{colour} {kind}' for colour in colours for kind in kinds)[1:]
