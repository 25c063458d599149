"""Draws episodes: a task, its words, and a scene in which it can be done."""
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from rtjax.envs.tabletop import language, reasoning, splits, textures
from rtjax.envs.tabletop.objects import SEEN_KINDS, Item, items
from rtjax.envs.tabletop.scene import BOWL, BOWL_RADIUS, CABINET, DRAWER_INSIDE, DRAWER_TRAVEL, Look, Placed, Scene
from rtjax.envs.tabletop.splits import Split
from rtjax.envs.tabletop.tasks import NEAR, Task, inside, success
from rtjax.envs.tabletop.world import DRAWER, State

AREA = np.array([[0.37, -0.22], [0.62, 0.09]])
"""Where objects stand, lowest and highest x and y; the open drawer takes the part beyond y = -0.05."""
_AREA_DRAWER_OPEN = np.array([[0.37, -0.22], [0.62, -0.05]])
_SPACE = 0.035  # between objects, for the fingers
_SPACE_MANY = 0.022
_TRIES = 300


def area(drawer: float) -> np.ndarray:
  """Where objects may stand while the drawer is open by so many metres: [2, 2]."""
  return _AREA_DRAWER_OPEN if drawer > 0.02 else AREA


@dataclasses.dataclass(frozen=True)
class Episode:
  """What an episode starts from."""
  task: Task
  instruction: str
  scene: Scene


def sample(split: Split, draw: np.random.Generator, skill: str | None = None) -> Episode:
  """An episode of a split; `skill` narrows it down."""
  while True:
    task, words, bystanders = reasoning.riddle(draw) if split.reasoning else _named_task(split, draw, skill)
    scene = _scene(task, split, draw, bystanders)
    if scene is not None:
      return Episode(task, words[draw.integers(len(words))], scene)


def _named_task(split: Split, draw: np.random.Generator, skill: str | None) -> reasoning.Riddle:
  """As a riddle, whose words name the objects."""
  chosen = skill or split.skills[draw.integers(len(split.skills))]
  possible = splits.tasks(chosen, split.held_out)
  task = possible[draw.integers(len(possible))]
  target = task.target if split.lookalikes else None
  others = tuple(item for item in items(SEEN_KINDS) if item not in task.items
                 and (target is None or item.kind == target.kind or item.colour == target.colour))
  return reasoning.Riddle(task, language.instructions(task, split.phrasings), others)


class _NoRoom(Exception):
  """An object found no free place."""


class _Places:
  """Free places on the table: circles (x, y, radius) that keep apart."""

  def __init__(self, area: np.ndarray, space: float, draw: np.random.Generator):
    self._area, self._space, self._draw = area, space, draw
    self._taken: list[tuple[float, float, float]] = []
    self._corridors: list[tuple[float, float, float]] = []

  def take(self, radius: float, area: np.ndarray | None = None, clear: float = 0.0,
           far_from: tuple[float, float, float] | None = None) -> tuple[float, float]:
    """A free place for a circle, with `clear` more around it, or at a distance from a place: (x, y, distance)."""
    low, high = self._area if area is None else area
    for _ in range(_TRIES):
      x, y = map(float, self._draw.uniform(low, high))
      free = all(math.hypot(x - a, y - b) > radius + r + max(self._space, clear) for a, b, r in self._taken)
      blocked = any(y < b + 0.03 + radius and abs(x - a) < width + radius for a, b, width in self._corridors)
      close = far_from is not None and math.hypot(x - far_from[0], y - far_from[1]) < far_from[2]
      if free and not blocked and not close:
        self._taken.append((x, y, radius + clear))
        return x, y
    raise _NoRoom

  def keep_corridor(self, x: float, y: float, width: float) -> None:
    """Keeps free what lies to the right of a place, where the hand comes from that stands an object up."""
    self._corridors.append((x, y, width))


def _scene(task: Task, split: Split, draw: np.random.Generator, bystanders: Sequence[Item]) -> Scene | None:
  drawer = _drawer(task, draw)
  many = split.distractors[0] > 5
  places = _Places(area(drawer), _SPACE_MANY if many else _SPACE, draw)
  try:
    bowl = None
    if task.reference == BOWL or (task.target and task.reference != DRAWER and not (many or split.reasoning)
                                  and draw.random() < 0.15):
      bowl = places.take(BOWL_RADIUS + 0.008, np.array([[0.44, -0.16], [0.58, 0.07]]))
    objects = _named(task, places, bowl, drawer, draw)
    for item in _distractors(bystanders, split, drawer, draw):
      x, y = places.take(item.shape.radius)
      objects.append(_standing(item, x, y, draw))
  except _NoRoom:
    return None
  x, y, z = map(float, draw.uniform((0.38, -0.08, 0.19), (0.46, 0.08, 0.25)))
  return Scene(tuple(objects), bowl, drawer, _look(split, draw), (x, y, z))


def _drawer(task: Task, draw: np.random.Generator) -> float:
  if task.reference == DRAWER:
    return DRAWER_TRAVEL - 0.004
  return float(draw.uniform(0.08, DRAWER_TRAVEL - 0.004)) if task.skill == 'close_drawer' else 0.0


def _named(task: Task, places: _Places, bowl: tuple[float, float] | None, drawer: float,
           draw: np.random.Generator) -> list[Placed]:
  """The objects of the instruction, where the skill wants them."""
  if task.target is None:
    return []
  shape = task.target.shape
  if task.skill == 'take_out':
    return [_contained(task.target, bowl if task.reference == BOWL else None, drawer, draw)]
  if task.skill == 'upright':
    x, y = places.take(shape.half_height, np.array([[0.42, -0.09], [0.56, 0.07]]))
    places.keep_corridor(x, y, 0.07)
    return [_lying(task.target, x, y, float(draw.uniform(-0.3, 2.3)))]
  x, y = places.take(shape.radius, clear=0.07 if task.skill == 'knock' else 0)
  objects = [_standing(task.target, x, y, draw)]
  if isinstance(task.reference, Item):
    radius = task.reference.shape.radius
    objects.append(_standing(task.reference, *places.take(
        radius, far_from=(x, y, shape.radius + radius + NEAR + 0.04)), draw))
  return objects


def _standing(item: Item, x: float, y: float, draw: np.random.Generator, height: float = 0.0) -> Placed:
  yaw = float(draw.uniform(-math.pi, math.pi)) / (item.shape.symmetry or 1)
  return Placed(item, (x, y, height + item.shape.half_height + 0.0005), (math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)))


def _lying(item: Item, x: float, y: float, yaw: float) -> Placed:
  """On its side, its top pointing to `yaw`."""
  half = math.pi / 4
  c, s = math.cos(yaw / 2), math.sin(yaw / 2)
  quaternion = (c * math.cos(half), -s * math.sin(half), c * math.sin(half), s * math.cos(half))
  return Placed(item, (x, y, item.shape.width / 2 + 0.002), quaternion)


def _contained(item: Item, bowl: tuple[float, float] | None, drawer: float, draw: np.random.Generator) -> Placed:
  if bowl is not None:
    x, y = np.array(bowl) + draw.uniform(-0.006, 0.006, 2)
  else:
    middle = (DRAWER_INSIDE[0, 1] + DRAWER_INSIDE[1, 1]) / 2
    x = CABINET[0] + draw.uniform(-0.035, 0.035)
    y = CABINET[1] - drawer + middle + draw.uniform(-0.006, 0.006)
  return _standing(item, float(x), float(y), draw, height=0.012)


def _distractors(bystanders: Sequence[Item], split: Split, drawer: float, draw: np.random.Generator) -> list[Item]:
  low, high = split.distractors
  count = int(draw.integers(low, (min(high, 4) if drawer else high) + 1))  # the open drawer leaves room for four
  return [bystanders[i] for i in draw.choice(len(bystanders), min(count, len(bystanders)), replace=False)]


def _look(split: Split, draw: np.random.Generator) -> Look:
  seen = split.backgrounds
  tables = textures.TABLES_SEEN if seen else textures.TABLES_UNSEEN
  walls = textures.WALLS_SEEN if seen else textures.WALLS_UNSEEN
  side = -1 if draw.random() < 0.5 else 1
  x, y, z = ((draw.uniform(0.5, 0.9), side * draw.uniform(0.1, 0.5), draw.uniform(1.2, 1.5)) if seen else
             (draw.uniform(0.3, 0.7), side * draw.uniform(0.7, 0.9), draw.uniform(0.7, 0.9)))
  warmth = draw.uniform(-0.4, 0.4) if seen else side * draw.uniform(0.7, 1.0)
  brightness = draw.uniform(0.9, 1.1) if seen else draw.uniform(0.65, 0.8)
  return Look(tables[draw.integers(len(tables))], walls[draw.integers(len(walls))], (float(x), float(y), float(z)),
              float(warmth), float(brightness))


def is_fair(episode: Episode, state: State) -> bool:
  """Whether a settled start is what was meant: nothing done yet, nothing fell, all within reach, nothing touched."""
  task = episode.task
  if success(task, state, state) or state.touched:
    return False
  if task.skill == 'take_out' and not (task.target and inside(str(task.reference), task.target.name, state)):
    return False
  for placed in episode.scene.objects:
    pose = state.poses[placed.item.name]
    lies = task.skill == 'upright' and placed.item == task.target
    contained = task.skill == 'take_out' and placed.item == task.target
    moved = float(np.linalg.norm(pose.position[:2] - placed.position[:2]))
    if moved > (0.03 if lies or contained else 0.01) or pose.speed > 0.05:
      return False
    if (pose.tilt < 1.2) if lies else (pose.tilt > 0.15):
      return False
  return BOWL not in state.poses or state.poses[BOWL].tilt < 0.1
