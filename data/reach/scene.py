"""Scenes of the reach dataset: coloured shapes, a gripper, and an expert.

The camera looks down at a table of 0.4 x 0.4. Positions are in metres: x points up in the image, y to its left, z
towards the camera.
"""
import dataclasses

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {'red': (214, 48, 49), 'green': (46, 160, 67), 'blue': (52, 101, 208), 'yellow': (240, 196, 25),
           'purple': (142, 68, 173)}
SHAPES = ('circle', 'square', 'triangle')
VERBS = ('reach', 'touch', 'move to')

SIZE = 96
_HALF = 0.2  # half the width of the table
_SUPERSAMPLING = 3
_PIXELS = SIZE * _SUPERSAMPLING / (2 * _HALF)  # per metre
# Largest step of the expert, m and rad: inside the bounds of arm7d, and of RT-1 as Bridge maps to it.
_LIMITS = np.array([0.025] * 3 + [0.15] * 3)
_CLOSED_FRAMES = 2


@dataclasses.dataclass(frozen=True)
class ColouredShape:
  """Shape on the table with its centre at (x, y)."""
  colour: str
  shape: str
  x: float
  y: float


@dataclasses.dataclass(frozen=True)
class Scene:
  """Constant part of an episode; the target is `shapes[0]`."""
  shapes: tuple[ColouredShape, ...]
  table: tuple[int, int, int]
  instruction: str


def random_scene(rng: np.random.Generator) -> Scene:
  """Sample four different shapes; some share the target's colour or shape."""
  combinations = [(colour, shape) for colour in COLOURS for shape in SHAPES]
  positions: list[np.ndarray] = []
  while len(positions) < 4:
    position = rng.uniform(-0.15, 0.15, 2)
    if all(np.linalg.norm(position - other) > 0.09 for other in positions):
      positions.append(position)
  chosen = rng.choice(len(combinations), 4, replace=False)
  shapes = tuple(ColouredShape(*combinations[i], *map(float, position))
                 for i, position in zip(chosen, positions, strict=True))
  grey = int(rng.integers(150, 200))
  verb = VERBS[rng.integers(len(VERBS))]
  return Scene(shapes, (grey + 15, grey, grey - 15), f'{verb} the {shapes[0].colour} {shapes[0].shape}')


def random_state(rng: np.random.Generator) -> np.ndarray:
  """Sample the gripper's initial state, float [7].

  The numbers are x y z (m), roll pitch yaw (rad) and opening (1 open).
  """
  x, y = rng.uniform(-0.17, 0.17, 2)
  return np.array([x, y, rng.uniform(0.06, 0.14), 0, 0, rng.uniform(-0.8, 0.8), 1])


def expert(scene: Scene, state: np.ndarray) -> np.ndarray:
  """Return the expert's action for a state.

  The expert moves straight to the target, turns to yaw 0 and closes the gripper at the target.

  Returns:
    float [7]: changes of x y z (m) and roll pitch yaw (rad), and the commanded opening (1 open, 0 closed).
  """
  target = scene.shapes[0]
  error = np.array([target.x, target.y, 0, 0, 0, 0]) - state[:6]
  motion = error / max(np.abs(error / _LIMITS).max(), 1)
  arrived = np.linalg.norm(error[:3]) < 0.012
  return np.append(motion, 0.0 if arrived else 1.0)


def episode(seed: int, number: int, noise: float = 0.003) -> tuple[Scene, np.ndarray, np.ndarray]:
  """Simulate one demonstration.

  Args:
    seed: random seed of the dataset.
    number: index of the episode.
    noise: disturbance of the executed actions, m. The recorded actions are undisturbed, so they show recoveries.

  Returns:
    The scene, states float32 [steps, 7] and actions float32 [steps, 7].
  """
  rng = np.random.default_rng((seed, number))
  scene, state = random_scene(rng), random_state(rng)
  states, actions, closed = [], [], 0
  while closed < _CLOSED_FRAMES:
    action = expert(scene, state)
    states.append(state)
    actions.append(action)
    state = np.append(state[:6] + action[:6], action[6])
    if action[6]:
      state[:3] += rng.normal(0, noise, 3)
      state[2] = max(state[2], 0)
    else:
      closed += 1
  return scene, np.array(states, np.float32), np.array(actions, np.float32)


def render(scene: Scene, state: np.ndarray) -> np.ndarray:
  """Render an image, uint8 [96, 96, 3].

  The gripper is drawn larger at greater height, its two fingers further apart when open.
  """
  image = Image.new('RGB', (SIZE * _SUPERSAMPLING,) * 2, scene.table)
  canvas = ImageDraw.Draw(image)
  for shape in scene.shapes:
    _draw_shape(canvas, shape)
  x, y, z, _, _, yaw, opening = map(float, state)
  scale = 1 + 4 * z
  spread = (0.014 + 0.012 * opening) * scale
  along, across = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
  for side in (-1, 1):
    centre = np.array([x, y]) + side * spread * across
    corners = [centre + a * 0.018 * scale * along + b * 0.005 * scale * across
               for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
    canvas.polygon([_pixel(*corner) for corner in corners], fill=(20, 20, 24), outline=(245, 245, 245))
  return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX))


def _draw_shape(canvas: ImageDraw.ImageDraw, shape: ColouredShape) -> None:
  radius = 0.03
  colour = COLOURS[shape.colour]
  if shape.shape == 'circle':
    left, top = _pixel(shape.x + radius, shape.y + radius)
    right, bottom = _pixel(shape.x - radius, shape.y - radius)
    canvas.ellipse((left, top, right, bottom), fill=colour)
    return
  corners = {'square': ((0.85, 0.85), (0.85, -0.85), (-0.85, -0.85), (-0.85, 0.85)),
             'triangle': ((1.1, 0), (-0.8, 1.1), (-0.8, -1.1))}[shape.shape]
  canvas.polygon([_pixel(shape.x + a * radius, shape.y + b * radius) for a, b in corners], fill=colour)


def _pixel(x: float, y: float) -> tuple[float, float]:
  """Compute (column, row) in the supersampled image."""
  return (_HALF - y) * _PIXELS, (_HALF - x) * _PIXELS
