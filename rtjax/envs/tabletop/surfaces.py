"""Colours, textures and light of a scene, at points of its geoms.

R is a number of points. Components come first, [3, R], since NumPy is several times slower with an axis of three last.
"""
from typing import NamedTuple, TypeVar

import mujoco
import numpy as np

_SKY = np.array([0.80, 0.83, 0.86], np.float32)

# Linear light of a byte: the inverse of the square root that ends the rendering.
_LINEAR = ((np.arange(256) / 255.0) ** 2).astype(np.float32)

_Arrays = TypeVar('_Arrays', bound=tuple[np.ndarray, ...])


class Points(NamedTuple):
  """Points that rays hit.

  Attributes:
    geom: [R], -1 for a ray without a hit.
    points, normal, directions: float32 [3, R]; the directions are those of the rays.
  """
  geom: np.ndarray
  points: np.ndarray
  normal: np.ndarray
  directions: np.ndarray


class Surface(NamedTuple):
  """Reflection at points, without shadows.

  Attributes:
    colour: linear colour of the surface, float32 [3, R].
    surroundings: light of the surroundings, float32 [3, R].
    lamp: share of the lamp's light that falls on the surface, float32 [R].
    gloss: share that a shiny surface reflects to the camera, float32 [R].
    shiny: strength of this reflection, float32 [R].
  """
  colour: np.ndarray
  surroundings: np.ndarray
  lamp: np.ndarray
  gloss: np.ndarray
  shiny: np.ndarray


class Surfaces:
  """Colours, textures and light of an episode's model."""

  def __init__(self, model: mujoco.MjModel):
    textured = model.geom_matid >= 0
    colour = np.where(textured[:, None], 1.0, model.geom_rgba[:, :3] ** 2)
    # The last one is for rays without a hit.
    self._albedo = np.concatenate([colour, [_SKY]]).T.astype(np.float32)
    self._shiny = np.append(np.where(textured, np.float32(0.03), np.float32(0.25)), np.float32(0))
    pixels = [_pixels(model, number) for number in range(model.ntex)]
    self._textures = [_Texture(model, int(geom), pixels) for geom in np.flatnonzero(textured)]
    self._diffuse = model.light_diffuse[0].astype(np.float32)[:, None]
    self._ambient = np.asarray(model.vis.headlight.ambient, np.float32)[:, None]

  def at(self, data: mujoco.MjData, hits: Points) -> Surface:
    """Compute the reflection at points."""
    colour = self._albedo.take(hits.geom, 1)
    for texture in self._textures:
      where = np.flatnonzero(hits.geom == texture.geom)
      if len(where):
        colour[:, where] = texture.sample(data, hits.points.take(where, 1), hits.normal.take(where, 1))
    hit = hits.geom >= 0
    to_lamp = _unit(lamp(data) - hits.points)
    facing = np.maximum(dot(hits.normal, to_lamp), 0) * hit
    gloss = np.maximum(dot(hits.normal, _unit(to_lamp - hits.directions)), 0) ** 40 * hit
    surroundings = (0.75 + 0.25 * hits.normal[2]) * self._ambient
    if not hit.all():
      surroundings[:, ~hit] = 1  # the sky shines by itself
    return Surface(colour, surroundings, facing, gloss, self._shiny.take(hits.geom))

  def shade(self, surface: Surface, visibility: np.ndarray) -> np.ndarray:
    """Compute linear colour float32 [3, R].

    `visibility` [R] is the visible share of the lamp from each point.
    """
    colour = surface.lamp * visibility * self._diffuse
    colour += surface.surroundings
    colour *= surface.colour
    colour += surface.gloss * visibility * surface.shiny * self._diffuse
    return colour


class _Texture:
  """Texture of one geom, mapped flat onto the side that is hit.

  `pixels` are those of all textures.
  """

  def __init__(self, model: mujoco.MjModel, geom: int, pixels: list[np.ndarray]):
    material = model.geom_matid[geom]
    self._pixels = pixels[model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]]
    self._repeat = model.mat_texrepeat[material] / 2  # OpenGL's mapping: once in 2 m, from the centre
    self.geom = geom

  def sample(self, data: mujoco.MjData, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Sample linear colour float32 [3, R] at points of the geom."""
    rotation = data.geom_xmat[self.geom].reshape(3, 3).astype(np.float32).T
    x, y, z = rotation @ (points - data.geom_xpos[self.geom].astype(np.float32)[:, None])
    side = np.abs(rotation @ normal).argmax(0)
    first, second = np.where(side == 0, y, x), np.where(side == 2, y, z)
    height, width = self._pixels.shape[:2]
    row = ((0.5 - second * self._repeat[1]) * height).astype(int) % height
    column = ((0.5 + first * self._repeat[0]) * width).astype(int) % width
    return _LINEAR[self._pixels[row, column].T]


def _pixels(model: mujoco.MjModel, number: int) -> np.ndarray:
  height, width, start = model.tex_height[number], model.tex_width[number], model.tex_adr[number]
  return model.tex_data[start:start + height * width * 3].reshape(height, width, 3)


def lamp(data: mujoco.MjData) -> np.ndarray:
  """Return the position of the lamp, float32 [3, 1]."""
  return data.light_xpos[0].astype(np.float32)[:, None]


def dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Compute inner products of vectors [3, R]: [R]."""
  return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def _unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.sqrt(dot(vectors, vectors))


def take(arrays: _Arrays, rays: np.ndarray) -> _Arrays:
  """Choose rays of a named tuple."""
  return type(arrays)(*(array.take(rays, -1) for array in arrays))


def join(first: _Arrays, second: _Arrays) -> _Arrays:
  """Join the rays of two named tuples."""
  return type(first)(*(np.concatenate(arrays, -1) for arrays in zip(first, second, strict=True)))
