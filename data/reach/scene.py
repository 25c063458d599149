"""The world of the reach dataset: coloured shapes on a table, a gripper seen from above, and an expert.

Positions are in metres: x points up in the picture, y to its left, z towards the camera. The table is 0.4 x 0.4.
"""
import dataclasses

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {'red': (214, 48, 49), 'green': (46, 160, 67), 'blue': (52, 101, 208), 'yellow': (240, 196, 25),
           'purple': (142, 68, 173)}
SHAPES = ('circle', 'square', 'triangle')
VERBS = ('reach', 'touch', 'move to')

SIZE = 96
_HALF = 0.2  # of the table
_SHARP = 3  # drawn so many times larger, then averaged
_PIXELS = SIZE * _SHARP / (2 * _HALF)  # per metre
# The expert's largest step, m and rad: inside the bounds of arm7d, and of RT-1 as Bridge maps to it.
_LIMITS = np.array([0.025] * 3 + [0.15] * 3)
_CLOSED_FRAMES = 2


@dataclasses.dataclass(frozen=True)
class Thing:
  """A shape on the table, its middle at (x, y)."""
  colour: str
  shape: str
  x: float
  y: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """What stays as it is during an episode. The gripper is to go to `things[0]`."""
  things: tuple[Thing, ...]
  table: tuple[int, int, int]
  instruction: str


def random_scene(draw: np.random.Generator) -> Scene:
  """Four different things apart from one another; some share the target's colour or shape."""
  kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
  places: list[np.ndarray] = []
  while len(places) < 4:
    place = draw.uniform(-0.15, 0.15, 2)
    if all(np.linalg.norm(place - other) > 0.09 for other in places):
      places.append(place)
  chosen = draw.choice(len(kinds), 4, replace=False)
  things = tuple(Thing(*kinds[k], *map(float, place)) for k, place in zip(chosen, places, strict=True))
  grey = int(draw.integers(150, 200))
  verb = VERBS[draw.integers(len(VERBS))]
  return Scene(things, (grey + 15, grey, grey - 15), f'{verb} the {things[0].colour} {things[0].shape}')


def random_state(draw: np.random.Generator) -> np.ndarray:
  """The gripper's start: float [7], x y z, roll pitch yaw, opening (1 open)."""
  x, y = draw.uniform(-0.17, 0.17, 2)
  return np.array([x, y, draw.uniform(0.06, 0.14), 0, 0, draw.uniform(-0.8, 0.8), 1])


def expert(scene: Scene, state: np.ndarray) -> np.ndarray:
  """The action for a state, and for it alone: straight to the target, turning to yaw 0, closing when there.

  Returns:
    float [7]: the deltas of x y z (m) and roll pitch yaw (rad), and the opening to take (1 open, 0 closed).
  """
  target = scene.things[0]
  error = np.array([target.x, target.y, 0, 0, 0, 0]) - state[:6]
  motion = error / max(np.abs(error / _LIMITS).max(), 1)
  arrived = np.linalg.norm(error[:3]) < 0.012
  return np.append(motion, 0.0 if arrived else 1.0)


def episode(seed: int, number: int, noise: float = 0.003) -> tuple[Scene, np.ndarray, np.ndarray]:
  """One demonstration; `noise` (m) disturbs what is executed, so that recovering is shown, not what is recorded.

  Returns:
    The scene, states float32 [L, 7] and actions float32 [L, 7].
  """
  draw = np.random.default_rng((seed, number))
  scene, state = random_scene(draw), random_state(draw)
  states, actions, closed = [], [], 0
  while closed < _CLOSED_FRAMES:
    action = expert(scene, state)
    states.append(state)
    actions.append(action)
    state = np.append(state[:6] + action[:6], action[6])
    if action[6]:
      state[:3] += draw.normal(0, noise, 3)
      state[2] = max(state[2], 0)
    else:
      closed += 1
  return scene, np.array(states, np.float32), np.array(actions, np.float32)


def render(scene: Scene, state: np.ndarray) -> np.ndarray:
  """uint8 [96, 96, 3]. The gripper is larger the higher it is, its two fingers stand apart when open."""
  picture = Image.new('RGB', (SIZE * _SHARP,) * 2, scene.table)
  pen = ImageDraw.Draw(picture)
  for thing in scene.things:
    _draw_thing(pen, thing)
  x, y, z, _, _, yaw, opening = map(float, state)
  scale = 1 + 4 * z
  apart = (0.014 + 0.012 * opening) * scale
  along, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
  for side in (-1, 1):
    middle = np.array([x, y]) + side * apart * across
    corners = [middle + a * 0.018 * scale * along + b * 0.005 * scale * across
               for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
    pen.polygon([_pixel(*corner) for corner in corners], fill=(20, 20, 24), outline=(245, 245, 245))
  return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX))


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
  radius = 0.03
  colour = COLOURS[thing.colour]
  if thing.shape == 'circle':
    left, top = _pixel(thing.x + radius, thing.y + radius)
    right, bottom = _pixel(thing.x - radius, thing.y - radius)
    pen.ellipse((left, top, right, bottom), fill=colour)
    return
  corners = {'square': ((0.85, 0.85), (0.85, -0.85), (-0.85, -0.85), (-0.85, 0.85)),
             'triangle': ((1.1, 0), (-0.8, 1.1), (-0.8, -1.1))}[thing.shape]
  pen.polygon([_pixel(thing.x + a * radius, thing.y + b * radius) for a, b in corners], fill=colour)


def _pixel(x: float, y: float) -> tuple[float, float]:
  """(column, row) in the enlarged picture."""
  return (_HALF - y) * _PIXELS, (_HALF - x) * _PIXELS
