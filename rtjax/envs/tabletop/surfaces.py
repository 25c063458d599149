"""Colours, textures and light of a scene, at points of its geoms.

R is a number of points.
"""
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import mujoco
import numpy as np

_SKY = np.array([0.80, 0.83, 0.86], np.float32)

_Arrays = TypeVar('_Arrays', bound=tuple[np.ndarray, ...])


class Points(NamedTuple):
  """Points that rays hit.

  Attributes:
    geom: [R], -1 for a ray without a hit.
    points, normal, directions: float32 [R, 3]; the directions are those of the rays.
  """
  geom: np.ndarray
  points: np.ndarray
  normal: np.ndarray
  directions: np.ndarray


class Surface(NamedTuple):
  """Reflection at points, without shadows.

  Attributes:
    colour: linear colour of the surface, float32 [R, 3].
    surroundings: light of the surroundings, float32 [R, 3].
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
    colour = np.where((model.geom_matid >= 0)[:, None], 1.0, model.geom_rgba[:, :3] ** 2)
    self._albedo = np.concatenate([colour, [_SKY]]).astype(np.float32)  # the last one for rays without a hit
    self._textures = [_Texture(model, int(geom)) for geom in np.flatnonzero(model.geom_matid >= 0)]
    self._shiny = np.full(model.ngeom + 1, 0.25, np.float32)
    self._shiny[:-1][model.geom_matid >= 0] = 0.03
    self._diffuse = model.light_diffuse[0].astype(np.float32)
    self._ambient = np.asarray(model.vis.headlight.ambient, np.float32)

  def at(self, data: mujoco.MjData, hits: Points) -> Surface:
    """Compute the reflection at points."""
    colour = self._albedo[hits.geom]
    for texture in self._textures:
      where = np.flatnonzero(hits.geom == texture.geom)
      if len(where):
        colour[where] = texture.sample(data, hits.points[where], hits.normal[where])
    to_lamp = unit(lamp(data) - hits.points)
    hit = hits.geom >= 0
    facing = np.maximum(dot(hits.normal, to_lamp), 0) * hit
    gloss = np.maximum(dot(hits.normal, unit(to_lamp - hits.directions)), 0) ** 40 * hit
    upwards = 0.75 + 0.25 * hits.normal[:, 2]
    surroundings = np.where(hit[:, None], upwards[:, None] * self._ambient, np.float32(1))  # the sky shines by itself
    return Surface(colour, surroundings, facing, gloss, self._shiny[hits.geom])

  def shade(self, surface: Surface, visibility: np.ndarray) -> np.ndarray:
    """Compute linear colour float32 [R, 3].

    `visibility` [R] is the visible share of the lamp from each point.
    """
    colour = (surface.lamp * visibility)[:, None] * self._diffuse
    colour += surface.surroundings
    colour *= surface.colour
    colour += (surface.gloss * visibility * surface.shiny)[:, None] * self._diffuse
    return colour


class _Texture:
  """Texture of one geom, mapped flat onto the side that is hit."""

  def __init__(self, model: mujoco.MjModel, geom: int):
    material = model.geom_matid[geom]
    number = model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]
    height, width = model.tex_height[number], model.tex_width[number]
    start = model.tex_adr[number]
    pixels = model.tex_data[start:start + height * width * 3].reshape(height, width, 3)
    self._pixels = ((pixels / 255.0) ** 2).astype(np.float32)  # linear light: the inverse of the square root at the end
    self._repeat = model.mat_texrepeat[material] / 2  # OpenGL's mapping: once in 2 m, from the centre
    self.geom = geom

  def sample(self, data: mujoco.MjData, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Sample linear colour float32 [R, 3] at points of the geom."""
    rotation = data.geom_xmat[self.geom].reshape(3, 3).astype(np.float32)
    local = (points - data.geom_xpos[self.geom].astype(np.float32)) @ rotation
    side = np.abs(normal @ rotation).argmax(-1)
    first = np.where(side == 0, local[:, 1], local[:, 0])
    second = np.where(side == 2, local[:, 1], local[:, 2])
    height, width = self._pixels.shape[:2]
    row = ((0.5 - second * self._repeat[1]) * height).astype(int) % height
    column = ((0.5 + first * self._repeat[0]) * width).astype(int) % width
    return self._pixels[row, column]


def lamp(data: mujoco.MjData) -> np.ndarray:
  """Return the position of the lamp, float32 [3]."""
  return data.light_xpos[0].astype(np.float32)


def dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Compute inner products of rows: [R]."""
  return np.einsum('ij,ij->i', one, other)


def unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.sqrt(np.einsum('ij,ij->i', vectors, vectors))[:, None]


def take(arrays: _Arrays, rows: np.ndarray) -> _Arrays:
  """Copy some rows of every array of a named tuple."""
  return type(arrays)(*(array.take(rows, 0) for array in arrays))


def join(first: _Arrays, second: _Arrays) -> _Arrays:
  """Join the arrays of two named tuples."""
  return type(first)(*map(np.concatenate, zip(first, second, strict=True)))
