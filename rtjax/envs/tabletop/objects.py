"""Kinds of objects, built from primitive shapes, and their colours.

A body's origin is at half the object's height, its z axis points up when the object stands. All objects fit the
gripper, which opens 8 cm. Lengths are in metres, sizes are MuJoCo's (half lengths; radius, half length).
"""
import dataclasses
import functools
import math

import numpy as np
from numpy.typing import ArrayLike

COLOURS: dict[str, tuple[float, float, float]] = {
    'red': (0.78, 0.08, 0.09), 'orange': (0.95, 0.42, 0.05), 'yellow': (0.95, 0.80, 0.08), 'green': (0.10, 0.55, 0.16),
    'blue': (0.08, 0.25, 0.78), 'purple': (0.42, 0.14, 0.60), 'white': (0.92, 0.92, 0.90), 'black': (0.07, 0.07, 0.08)}

STEEL, CREAM, DARK, LEAF = (0.62, 0.64, 0.66), (0.90, 0.86, 0.74), (0.13, 0.12, 0.12), (0.16, 0.32, 0.14)
BEAK = (0.95, 0.50, 0.10)


@dataclasses.dataclass(frozen=True)
class Part:
  """Primitive of an object.

  Attributes:
    shape: 'box', 'cylinder', 'sphere', 'ellipsoid' or 'capsule'.
    size: MuJoCo's size of the shape.
    at: position in the object's frame.
    colour: RGB; None is the object's colour.
  """
  shape: str
  size: tuple[float, ...]
  at: tuple[float, float, float] = (0.0, 0.0, 0.0)
  colour: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Kind:
  """Kind of object.

  Attributes:
    name: its word in instructions.
    parts: its primitives.
    half_height: distance from the origin down to its base.
    radius: radius of the upright cylinder around it.
    grasp: height of the fingertips above the origin in a good grasp.
    width: its width between the fingers at that height, along y.
    symmetry: number of rotations about z with equivalent grasps: 1, 2, 4; 0 for all.
    stands: taller than wide and round or square, so that it can be knocked over and stood up.
  """
  name: str
  parts: tuple[Part, ...]
  half_height: float
  radius: float
  grasp: float
  width: float
  symmetry: int
  stands: bool = False

  @property
  def turns(self) -> tuple[float, ...]:
    """Yaw angles of a grasping gripper relative to the object's, radians."""
    count = self.symmetry or 16
    return tuple(2 * math.pi * i / count for i in range(count))


def _kinds() -> tuple[Kind, ...]:
  box, cylinder, sphere, ellipsoid = 'box', 'cylinder', 'sphere', 'ellipsoid'
  return (
      Kind('cube', (Part(box, (0.022, 0.022, 0.022)),), 0.022, 0.031, 0.0, 0.044, 4),
      Kind('block', (Part(box, (0.036, 0.019, 0.016)),), 0.016, 0.041, 0.0, 0.038, 2),
      Kind('ball', (Part(sphere, (0.024,)),), 0.024, 0.024, 0.0, 0.048, 0),
      Kind('can', (Part(cylinder, (0.024, 0.034)),
                   Part(cylinder, (0.0225, 0.036), colour=STEEL)), 0.036, 0.024, 0.012, 0.048, 0, True),
      Kind('bottle', (Part(cylinder, (0.023, 0.034), (0, 0, -0.018)), Part(sphere, (0.0225,), (0, 0, 0.015)),
                      Part(cylinder, (0.010, 0.013), (0, 0, 0.036)),
                      Part(cylinder, (0.0125, 0.006), (0, 0, 0.046), CREAM)), 0.052, 0.023, 0.0, 0.046, 0, True),
      Kind('mug', (Part(cylinder, (0.024, 0.027)), Part(cylinder, (0.020, 0.0005), (0, 0, 0.027), DARK),
                   Part('capsule', (0.004, 0.008), (0.031, 0, 0.010)),
                   Part(box, (0.006, 0.004, 0.003), (0.027, 0, 0.019)),
                   Part(box, (0.006, 0.004, 0.003), (0.027, 0, 0.001))), 0.027, 0.036, 0.005, 0.048, 2),
      Kind('puck', (Part(cylinder, (0.026, 0.012)), Part(cylinder, (0.017, 0.0128), colour=CREAM)),
           0.0128, 0.026, 0.0, 0.052, 0),
      Kind('carton', (Part(box, (0.021, 0.021, 0.036), (0, 0, -0.009)), Part(box, (0.014, 0.021, 0.005), (0, 0, 0.032)),
                      Part(box, (0.004, 0.021, 0.005), (0, 0, 0.040), CREAM)), 0.045, 0.030, 0.012, 0.042, 4, True),
      Kind('candle', (Part(cylinder, (0.018, 0.036)), Part(cylinder, (0.0185, 0.004), (0, 0, -0.032), STEEL),
                      Part(cylinder, (0.002, 0.005), (0, 0, 0.040), DARK)), 0.036, 0.0185, 0.010, 0.036, 0, True),
      Kind('sponge', (Part(box, (0.036, 0.024, 0.010), (0, 0, 0.004)),
                      Part(box, (0.036, 0.024, 0.004), (0, 0, -0.010), CREAM)), 0.014, 0.043, 0.002, 0.048, 2),
      Kind('battery', (Part(cylinder, (0.020, 0.026), (0, 0, -0.012)),
                       Part(cylinder, (0.020, 0.012), (0, 0, 0.026), DARK),
                       Part(cylinder, (0.008, 0.003), (0, 0, 0.041), STEEL)), 0.038, 0.020, 0.010, 0.040, 0, True),
      Kind('cross', (Part(box, (0.030, 0.010, 0.014)), Part(box, (0.010, 0.028, 0.014))), 0.014, 0.030, 0.0, 0.056, 4),
      # Held out: in no training scene, not even as distractors.
      Kind('mushroom', (Part(cylinder, (0.013, 0.018), (0, 0, -0.010), CREAM),
                        Part(ellipsoid, (0.027, 0.027, 0.017), (0, 0, 0.011))), 0.028, 0.027, 0.008, 0.054, 0),
      Kind('hammer', (Part(box, (0.036, 0.009, 0.009), (-0.006, 0, -0.003), CREAM),
                      Part(box, (0.012, 0.026, 0.012), (0.030, 0, 0))), 0.012, 0.044, -0.002, 0.018, 2),
      Kind('pear', (Part(sphere, (0.024,), (0, 0, -0.010)), Part(ellipsoid, (0.015, 0.015, 0.024), (0, 0, 0.014)),
                    Part(cylinder, (0.002, 0.006), (0, 0, 0.040), LEAF)), 0.034, 0.024, -0.010, 0.048, 0),
      Kind('jar', (Part(cylinder, (0.022, 0.028), (0, 0, -0.008)),
                   Part(cylinder, (0.0235, 0.008), (0, 0, 0.028), CREAM)), 0.036, 0.0235, 0.005, 0.045, 0, True),
      # Toy animals, held out too: for instructions that name the class, or the extinct one.
      Kind('dinosaur', (Part(ellipsoid, (0.024, 0.015, 0.016)), Part(box, (0.006, 0.014, 0.012), (0.012, 0, -0.022)),
                        Part(box, (0.006, 0.014, 0.012), (-0.012, 0, -0.022)),
                        Part(ellipsoid, (0.008, 0.008, 0.022), (0.022, 0, 0.024)),
                        Part(ellipsoid, (0.014, 0.009, 0.008), (0.030, 0, 0.044)),
                        Part(ellipsoid, (0.020, 0.006, 0.006), (-0.030, 0, 0.002))),
           0.034, 0.050, 0.0, 0.030, 2),
      Kind('duck', (Part(ellipsoid, (0.032, 0.022, 0.018), (0, 0, -0.004)),
                    Part(cylinder, (0.020, 0.004), (0, 0, -0.020)), Part(sphere, (0.015,), (0.018, 0, 0.022)),
                    Part(ellipsoid, (0.010, 0.008, 0.004), (0.036, 0, 0.020), BEAK)),
           0.024, 0.046, -0.004, 0.044, 2),
      Kind('turtle', (Part(ellipsoid, (0.030, 0.026, 0.020), (0, 0, 0.002)),
                      Part(box, (0.024, 0.020, 0.004), (0, 0, -0.012), CREAM),
                      Part(sphere, (0.010,), (0.036, 0, 0.0), LEAF),
                      Part(box, (0.007, 0.007, 0.006), (0.022, 0.018, -0.010), LEAF),
                      Part(box, (0.007, 0.007, 0.006), (0.022, -0.018, -0.010), LEAF)),
           0.016, 0.046, -0.004, 0.052, 2),
  )


KINDS: dict[str, Kind] = {kind.name: kind for kind in _kinds()}
UNSEEN_KINDS: tuple[str, ...] = ('mushroom', 'hammer', 'pear', 'jar')
ANIMALS: tuple[str, ...] = ('dinosaur', 'duck', 'turtle')
SEEN_KINDS: tuple[str, ...] = tuple(name for name in KINDS if name not in (*UNSEEN_KINDS, *ANIMALS))


@dataclasses.dataclass(frozen=True, order=True)
class Item:
  """Object identity: a kind in a colour, unique in a scene."""
  kind: str
  colour: str

  @property
  def name(self) -> str:
    """Name in the scene and in instructions: 'red cube'."""
    return f'{self.colour} {self.kind}'

  @property
  def shape(self) -> Kind:
    return KINDS[self.kind]


@functools.cache
def items(kinds: tuple[str, ...]) -> tuple[Item, ...]:
  """Return every kind of `kinds` in every colour."""
  return tuple(Item(kind, colour) for kind in kinds for colour in COLOURS)


def body_xml(item: Item, position: np.ndarray, quaternion: np.ndarray) -> str:
  """Describe the object as an MJCF body that moves freely."""
  geoms = ''.join(_geom_xml(part, COLOURS[item.colour]) for part in item.shape.parts)
  return (f'<body name="{item.name}" pos="{numbers(position)}" quat="{numbers(quaternion)}"><freejoint/>{geoms}</body>')


def _geom_xml(part: Part, colour: tuple[float, float, float]) -> str:
  return (f'<geom class="object" type="{part.shape}" size="{numbers(part.size)}" pos="{numbers(part.at)}" '
          f'rgba="{numbers(part.colour or colour)} 1"/>')


def numbers(values: ArrayLike) -> str:
  """Format numbers for MJCF."""
  return ' '.join(f'{float(v):.6g}' for v in np.ravel(values))
