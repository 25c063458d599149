"""Sampler of episodes: a task, an instruction and a feasible scene."""
import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from rtjax.envs.tabletop import language, reasoning, splits, textures
from rtjax.envs.tabletop.objects import SEEN_KINDS, Item, items
from rtjax.envs.tabletop.scene import (
  BOWL,
  BOWL_RADIUS,
  CABINET,
  DRAWER_INSIDE,
  DRAWER_TRAVEL,
  Appearance,
  PlacedObject,
  Scene,
)
from rtjax.envs.tabletop.splits import Split
from rtjax.envs.tabletop.tasks import NEAR, Task, inside, success
from rtjax.envs.tabletop.world import DRAWER, State

_AREA = np.array([[0.37, -0.22], [0.62, 0.09]])
_AREA_DRAWER_OPEN = np.array([[0.37, -0.22], [0.62, -0.05]])
_SPACE = 0.035  # between objects, for the fingers
_SPACE_MANY = 0.022
_TRIES = 300


def object_area(drawer: float) -> np.ndarray:
  """Return the area of objects: lowest and highest x and y [2, 2].

  `drawer` is the opening of the drawer, m.
  """
  return _AREA_DRAWER_OPEN if drawer > 0.02 else _AREA


@dataclasses.dataclass(frozen=True)
class Episode:
  """Task, instruction and initial scene of an episode."""
  task: Task
  instruction: str
  scene: Scene


def sample(split: Split, rng: np.random.Generator, skill: str | None = None) -> Episode:
  """Sample an episode of a split, of one skill if given."""
  while True:
    task, instructions, candidates = (reasoning.sample(rng, split.reasoning) if split.reasoning
                                      else _named_task(split, rng, skill))
    scene = _scene(task, split, rng, candidates)
    if scene is not None:
      return Episode(task, instructions[rng.integers(len(instructions))], scene)


def _named_task(split: Split, rng: np.random.Generator, skill: str | None
                ) -> tuple[Task, tuple[str, ...], tuple[Item, ...]]:
  """Sample a task whose instructions name its objects, and possible distractors."""
  chosen = skill or split.skills[rng.integers(len(split.skills))]
  possible = splits.tasks(chosen, split.held_out)
  task = possible[rng.integers(len(possible))]
  target = task.target if split.lookalikes else None
  candidates = tuple(item for item in items(SEEN_KINDS) if item not in task.items
                     and (target is None or item.kind == target.kind or item.colour == target.colour))
  instructions = language.with_synonyms(task) if split.synonyms else language.instructions(task, split.phrasings)
  return task, instructions, candidates


class _NoFreeSpace(Exception):
  """No free position was found for an object."""


class _FreeSpace:
  """Sampler of free positions for circles (x, y, radius) on the table."""

  def __init__(self, area: np.ndarray, space: float, rng: np.random.Generator):
    self._area, self._space, self._rng = area, space, rng
    self._taken: list[tuple[float, float, float]] = []
    self._corridors: list[tuple[float, float, float]] = []

  def take(self, radius: float, area: np.ndarray | None = None, clear: float = 0.0,
           far_from: tuple[float, float, float] | None = None) -> tuple[float, float]:
    """Sample and occupy a free position (x, y).

    Args:
      radius: radius of the circle, m.
      area: lowest and highest x and y [2, 2]; None is all of the table's area.
      clear: additional distance to others, m.
      far_from: (x, y, distance) to keep from a position.
    """
    low, high = self._area if area is None else area
    for _ in range(_TRIES):
      x, y = map(float, self._rng.uniform(low, high))
      free = all(math.hypot(x - a, y - b) > radius + r + max(self._space, clear) for a, b, r in self._taken)
      blocked = any(y < b + 0.03 + radius and abs(x - a) < width + radius for a, b, width in self._corridors)
      close = far_from is not None and math.hypot(x - far_from[0], y - far_from[1]) < far_from[2]
      if free and not blocked and not close:
        self._taken.append((x, y, radius + clear))
        return x, y
    raise _NoFreeSpace

  def keep_corridor(self, x: float, y: float, width: float) -> None:
    """Keep the space right of a position free, for the hand."""
    self._corridors.append((x, y, width))


def _scene(task: Task, split: Split, rng: np.random.Generator, candidates: Sequence[Item]) -> Scene | None:
  """Sample a scene with distractors among `candidates`; None without enough space."""
  drawer = _drawer_opening(task, rng)
  many = split.distractors[0] > 5
  space = _FreeSpace(object_area(drawer), _SPACE_MANY if many else _SPACE, rng)
  try:
    bowl = None
    if task.reference == BOWL or (task.target and task.reference != DRAWER and not (many or split.reasoning)
                                  and rng.random() < 0.15):
      bowl = space.take(BOWL_RADIUS + 0.008, np.array([[0.44, -0.16], [0.58, 0.07]]))
    objects = _task_objects(task, space, bowl, drawer, rng)
    for item in _distractors(candidates, split, drawer, rng):
      x, y = space.take(item.shape.radius)
      objects.append(_standing(item, x, y, rng))
  except _NoFreeSpace:
    return None
  x, y, z = map(float, rng.uniform((0.38, -0.08, 0.19), (0.46, 0.08, 0.25)))
  return Scene(tuple(objects), bowl, drawer, _appearance(split, rng), (x, y, z))


def _drawer_opening(task: Task, rng: np.random.Generator) -> float:
  if task.reference == DRAWER:
    return DRAWER_TRAVEL - 0.004
  return float(rng.uniform(0.08, DRAWER_TRAVEL - 0.004)) if task.skill == 'close_drawer' else 0.0


def _task_objects(task: Task, space: _FreeSpace, bowl: tuple[float, float] | None, drawer: float,
                  rng: np.random.Generator) -> list[PlacedObject]:
  """Place the objects of the instruction as the skill requires."""
  if task.target is None:
    return []
  shape = task.target.shape
  if task.skill == 'take_out':
    return [_contained(task.target, bowl if task.reference == BOWL else None, drawer, rng)]
  if task.skill == 'upright':
    x, y = space.take(shape.half_height, np.array([[0.42, -0.09], [0.56, 0.07]]))
    space.keep_corridor(x, y, 0.07)
    return [_lying(task.target, x, y, float(rng.uniform(-0.3, 2.3)))]
  x, y = space.take(shape.radius, clear=0.07 if task.skill == 'knock' else 0)
  objects = [_standing(task.target, x, y, rng)]
  if isinstance(task.reference, Item):
    radius = task.reference.shape.radius
    objects.append(_standing(task.reference, *space.take(
        radius, far_from=(x, y, shape.radius + radius + NEAR + 0.04)), rng))
  return objects


def _standing(item: Item, x: float, y: float, rng: np.random.Generator, height: float = 0.0) -> PlacedObject:
  yaw = float(rng.uniform(-math.pi, math.pi)) / (item.shape.symmetry or 1)
  position = (x, y, height + item.shape.half_height + 0.0005)
  return PlacedObject(item, position, (math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)))


def _lying(item: Item, x: float, y: float, yaw: float) -> PlacedObject:
  """Place an object on its side, its top pointing to `yaw`."""
  half = math.pi / 4
  c, s = math.cos(yaw / 2), math.sin(yaw / 2)
  quaternion = (c * math.cos(half), -s * math.sin(half), c * math.sin(half), s * math.cos(half))
  return PlacedObject(item, (x, y, item.shape.width / 2 + 0.002), quaternion)


def _contained(item: Item, bowl: tuple[float, float] | None, drawer: float, rng: np.random.Generator) -> PlacedObject:
  """Place an object into the bowl, or into the drawer without one."""
  if bowl is not None:
    x, y = np.array(bowl) + rng.uniform(-0.006, 0.006, 2)
  else:
    middle = (DRAWER_INSIDE[0, 1] + DRAWER_INSIDE[1, 1]) / 2
    x = CABINET[0] + rng.uniform(-0.035, 0.035)
    y = CABINET[1] - drawer + middle + rng.uniform(-0.006, 0.006)
  return _standing(item, float(x), float(y), rng, height=0.012)


def _distractors(candidates: Sequence[Item], split: Split, drawer: float, rng: np.random.Generator) -> list[Item]:
  low, high = split.distractors
  count = int(rng.integers(low, (min(high, 4) if drawer else high) + 1))  # the open drawer leaves room for four
  return [candidates[i] for i in rng.choice(len(candidates), min(count, len(candidates)), replace=False)]


def _appearance(split: Split, rng: np.random.Generator) -> Appearance:
  seen = split.backgrounds
  tables = textures.TABLES_SEEN if seen else textures.TABLES_UNSEEN
  walls = textures.WALLS_SEEN if seen else textures.WALLS_UNSEEN
  side = -1 if rng.random() < 0.5 else 1
  x, y, z = ((rng.uniform(0.5, 0.9), side * rng.uniform(0.1, 0.5), rng.uniform(1.2, 1.5)) if seen else
             (rng.uniform(0.3, 0.7), side * rng.uniform(0.7, 0.9), rng.uniform(0.7, 0.9)))
  warmth = rng.uniform(-0.4, 0.4) if seen else side * rng.uniform(0.7, 1.0)
  brightness = rng.uniform(0.9, 1.1) if seen else rng.uniform(0.65, 0.8)
  return Appearance(tables[rng.integers(len(tables))], walls[rng.integers(len(walls))],
                    (float(x), float(y), float(z)), float(warmth), float(brightness))


def is_valid_start(episode: Episode, state: State) -> bool:
  """Return whether a settled initial state is as sampled.

  The task is not done, and no object fell, moved or is touched.
  """
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
