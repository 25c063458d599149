"""Moments in the embedded simulator, and what is seen in them: told by the physics and by the pixels, never guessed.

A moment is the start of a task, or a place in the middle of an expert's work at it. The tasks are those of the robot's
data, and those held out of it: other objects, other combinations. Tables, walls and light are those of training data.
"""
import dataclasses
import math

import numpy as np

from rtjax.envs.tabletop import experts, layout, tasks
from rtjax.envs.tabletop.env import goal
from rtjax.envs.tabletop.objects import KINDS
from rtjax.envs.tabletop.rays import Rays
from rtjax.envs.tabletop.render import make_renderer
from rtjax.envs.tabletop.scene import BOWL, CAMERAS
from rtjax.envs.tabletop.splits import SPLITS, Split
from rtjax.envs.tabletop.world import DRAWER, TABLE, PhysicsError, State, World

GRIPPER = 'gripper'

_HELD_OUT_SKILLS = SPLITS['unseen_objects'].skills
# Whose scenes, and how often. More objects than the robot's data has make questions harder to answer blindly.
_SPLITS: tuple[tuple[float, Split], ...] = (
    (0.3, Split(distractors=(1, 4))),
    (0.15, Split(held_out='instruction', skills=_HELD_OUT_SKILLS, distractors=(1, 4))),
    (0.35, Split(held_out='object', skills=_HELD_OUT_SKILLS, distractors=(1, 4))),
    (0.2, Split(lookalikes=True, skills=('pick', 'move_near'), distractors=(3, 5))))
_PICKS = 0.3  # of the moments, so that enough of them show something held
_AT_START, _MOST_STEPS = 0.3, 26
_TRIES = 50
# Seen well enough to be asked about: this share of what it would show alone, and this share of the picture's pixels.
_CLEAR, _CLEAR_PIXELS = 0.5, 0.0015
# Not seen at all.
_HIDDEN = 0.04


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What the pictures are like. Two equal ones give the same pictures and questions.

  Attributes:
    seed: another one gives other scenes.
    image_size: (height, width).
    renderer: 'rays' or 'gl'.
  """
  seed: int = 0
  image_size: tuple[int, int] = (96, 96)
  renderer: str = 'rays'


@dataclasses.dataclass(frozen=True)
class Thing:
  """An object, or the bowl, that is clearly seen.

  Attributes:
    name: 'red cube', or 'bowl'.
    kind, colour: 'cube' and 'red'; the bowl has no colour that a word fits.
    position: of its middle, m, in the robot's axes. The camera looks along -x: +y is the picture's right, and a larger
      x is nearer to the camera.
    place: the middle of its visible pixels: shares of the picture's width from the left, and of its height from above.
    where: 'gripper', 'bowl', 'drawer', 'table', or '' where none of it is sure.
    pose: 'upright', 'lying', or '' where it is neither, or no object that stands.
  """
  name: str
  kind: str
  colour: str
  position: np.ndarray
  place: tuple[float, float]
  where: str
  pose: str


@dataclasses.dataclass(frozen=True)
class View:
  """What a picture shows.

  Attributes:
    things: what is clearly seen, from left to right.
    doubtful: (kind, colour) of what is seen in part: no fair question's answer may depend on it.
    hidden: names of what cannot be seen; it is there nonetheless, so no false statement may name it.
    held: name of what the gripper holds, '' for nothing, None where it touches something otherwise.
    drawer: 'open', 'closed', or '' in between.
    table: the table's texture.
  """
  things: tuple[Thing, ...]
  doubtful: tuple[tuple[str, str], ...]
  hidden: tuple[str, ...]
  held: str | None
  drawer: str
  table: str

  @property
  def objects(self) -> tuple[Thing, ...]:
    """The things but the bowl."""
    return tuple(thing for thing in self.things if thing.name != BOWL)

  @property
  def present(self) -> set[str]:
    """Names of all that is there, seen or not."""
    return {t.name for t in self.things} | {_name(*d) for d in self.doubtful} | set(self.hidden)


class Camera:
  """Takes pictures of moments; one per process."""

  def __init__(self, recipe: Recipe):
    self._recipe = recipe
    self._renderer = make_renderer(recipe.renderer, recipe.image_size)
    self._rays = Rays(recipe.image_size)  # whatever shows the picture, rays tell what is seen where

  def take(self, number: int) -> tuple[np.ndarray, View, np.random.Generator]:
    """Picture `number` uint8 [H, W, 3], what it shows, and a generator for the questions: all of (seed, number)."""
    draw = np.random.default_rng((self._recipe.seed, number))
    for _ in range(_TRIES):
      episode = _episode(draw)
      world = World(episode.scene)
      if not layout.is_fair(episode, world.state()):
        continue
      try:
        _work(episode, world, draw)
      except PhysicsError:
        continue
      self._renderer.start(world.model)
      return self._renderer.render(world.data, CAMERAS[0]), self._view(episode, world), draw
    raise RuntimeError(f'no usable scene in {_TRIES} draws for number {number}; choose another seed.')

  def close(self) -> None:
    self._renderer.close()

  def _view(self, episode: layout.Episode, world: World) -> View:
    state = world.state()
    pixels = self._pixels(world)
    things, doubtful, hidden = [], [], []
    for name, (seen, alone) in pixels.items():
      count = int(seen.sum())
      kind, colour = (BOWL, '') if name == BOWL else (name.split()[1], name.split()[0])
      if alone and not _at_edge(seen) and count >= max(_CLEAR * alone, _CLEAR_PIXELS * seen.size):
        things.append(_thing(name, kind, colour, seen, state))
      elif count <= _HIDDEN * alone:
        hidden.append(name)
      else:
        doubtful.append((kind, colour))
    held = state.held or (None if state.touched & set(state.poses) else '')
    drawer = 'open' if state.drawer > 0.08 else 'closed' if state.drawer < tasks.DRAWER_CLOSED else ''
    return View(tuple(sorted(things, key=lambda t: t.place)), tuple(doubtful), tuple(hidden), held, drawer,
                episode.scene.look.table)

  def _pixels(self, world: World) -> dict[str, tuple[np.ndarray, int]]:
    """For each object which pixels show it, bool [H, W], and how many would if nothing stood in front."""
    model, camera = world.model, CAMERAS[0]
    self._rays.start(model)
    owner = np.append(model.geom_bodyid, -1)
    shown = owner[self._rays.geoms(world.data, camera)]
    groups, found = model.geom_group.copy(), {}
    for name in world.names:
      body = model.body(name).id
      model.geom_group[:] = np.where(model.geom_bodyid == body, groups, 4)  # rays pass through group 4
      found[name] = shown == body, int((owner[self._rays.geoms(world.data, camera)] == body).sum())
    model.geom_group[:] = groups
    return found


def _at_edge(seen: np.ndarray) -> bool:
  """Whether the picture's edge cuts a thing off."""
  return bool(seen[[0, -1]].any() or seen[:, [0, -1]].any())


def _episode(draw: np.random.Generator) -> layout.Episode:
  weights = np.array([weight for weight, _ in _SPLITS])
  split = _SPLITS[draw.choice(len(_SPLITS), p=weights / weights.sum())][1]
  return layout.sample(split, draw, 'pick' if draw.random() < _PICKS else None)


def _work(episode: layout.Episode, world: World, draw: np.random.Generator) -> None:
  """Lets the expert work for a while."""
  if draw.random() < _AT_START:
    return
  expert = experts.get(episode.task)
  for _ in range(int(draw.integers(1, _MOST_STEPS + 1))):
    state = world.state()
    action = expert(state)
    world.step(*goal(state, action), bool(action[6] > 0.5))


def _thing(name: str, kind: str, colour: str, seen: np.ndarray, state: State) -> Thing:
  rows, columns = np.nonzero(seen)
  return Thing(name, kind, colour, state.poses[name].position,
               (float(columns.mean() + 0.5) / seen.shape[1], float(rows.mean() + 0.5) / seen.shape[0]),
               _where(name, state), _pose(name, kind, state))


def _where(name: str, state: State) -> str:
  if name == BOWL:
    return TABLE
  if state.held == name:
    return GRIPPER if not state.supports[name] & {TABLE, BOWL, DRAWER} else ''
  for container in (BOWL, DRAWER):
    if container in state.poses.keys() | {DRAWER} and tasks.inside(container, name, state):
      return container
  alone = state.supports[name] == {TABLE} and state.poses[name].speed < 0.05
  return TABLE if alone and name not in state.touched else ''


def _pose(name: str, kind: str, state: State) -> str:
  if name == BOWL or not KINDS[kind].stands or name in state.touched:
    return ''
  tilt = state.poses[name].tilt
  return 'upright' if tilt < math.radians(12) else 'lying' if abs(tilt - math.pi / 2) < math.radians(15) else ''


def _name(kind: str, colour: str) -> str:
  return f'{colour} {kind}'.strip()


