"""Ray caster for primitive scenes, on MuJoCo's rays without a graphics driver.

One call of `mj_multiRay` finds the geom and the surface normal at each pixel; further calls from points of the lamp
find the shadows. Colours, textures and light are the model's, so that `gl.py` shows the same scene. Edges between geoms
are sampled with three rays per pixel.

R is a number of rays.
"""
from typing import NamedTuple

import mujoco
import numpy as np

# Visible geom groups: the ordinary ones, without the sites and helpers of group 4.
_GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)
_LAMP_RADIUS = 0.07
# Origins of shadow rays on the lamp, in units of its radius. Every other pixel casts one, neighbours from different
# points; averaging over 3x3 pixels, twice, gives the soft shadow.
_LAMP_POINTS = np.array([(0.0, 0.0), (-0.7, 0.3), (0.3, 0.7), (0.7, -0.3), (-0.3, -0.7)])
_SUBPIXELS = np.array([(-0.33, 0.17), (0.17, -0.33)])  # roughly a triangle with the pixel's centre
_SKY = np.array([0.80, 0.83, 0.86], np.float32)


class _Hits(NamedTuple):
  """Hits of R rays.

  Attributes:
    geom: [R]; the model's number of geoms for a ray without a hit.
    points, normal, directions: [R, 3].
  """
  geom: np.ndarray
  points: np.ndarray
  normal: np.ndarray
  directions: np.ndarray


class Rays:
  """Renderer of images of (height, width)."""

  def __init__(self, image_size: tuple[int, int]):
    self._height, self._width = image_size
    rows, columns = np.mgrid[:self._height, :self._width].astype(float)
    self._rows, self._columns = rows.ravel(), columns.ravel()
    casts = (self._rows + self._columns) % 2 == 0
    self._lamp_point = np.where(casts, (self._rows + 2 * self._columns) % len(_LAMP_POINTS), -1).astype(int)

  def start(self, model: mujoco.MjModel) -> None:
    """Read the colours, textures and light of an episode's model."""
    self._model = model
    self._room = model.body('room').id
    self._table = model.geom('table').id
    colour = np.where((model.geom_matid >= 0)[:, None], 1.0, model.geom_rgba[:, :3] ** 2)
    self._albedo = np.concatenate([colour, [_SKY]]).astype(np.float32)  # the last one for rays without a hit
    self._textures = [_Texture(model, int(geom)) for geom in np.flatnonzero(model.geom_matid >= 0)]
    shiny = np.full(model.ngeom + 1, 0.25, np.float32)
    shiny[:-1][model.geom_matid >= 0] = 0.03
    self._shiny = shiny
    self._diffuse = model.light_diffuse[0].astype(np.float32)
    self._ambient = np.asarray(model.vis.headlight.ambient, np.float32)

  def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
    """Render the view of `camera`: uint8 [H, W, 3]."""
    camera_id = self._model.camera(camera).id
    hits = self._hits(data, camera_id, self._rows, self._columns)
    visibility = self._visibility(data, hits, self._lamp_point)
    for _ in range(2):
      visibility = self._blur(hits.geom, visibility)
    colour = self._shade(data, hits, visibility)
    edges = np.flatnonzero(self._edges(hits.geom))
    if len(edges):
      subpixels = self._subpixel_colours(data, camera_id, edges, hits.geom[edges], visibility[edges])
      colour[edges] = (colour[edges] + subpixels) / (1 + len(_SUBPIXELS))
    return (np.sqrt(np.clip(colour, 0, 1)) * 255 + 0.5).astype(np.uint8).reshape(self._height, self._width, 3)

  def geoms(self, data: mujoco.MjData, camera: str) -> np.ndarray:
    """Find the geom at each pixel's centre, int [H, W].

    A pixel without one has the model's number of geoms.
    """
    hits = self._hits(data, self._model.camera(camera).id, self._rows, self._columns)
    return hits.geom.reshape(self._height, self._width)

  def close(self) -> None:
    """Do nothing: there are no resources to release."""

  def _subpixel_colours(self, data: mujoco.MjData, camera: int, pixels: np.ndarray, geom: np.ndarray,
                        visibility: np.ndarray) -> np.ndarray:
    """Sum the colours at the subpixels of some pixels: float32 [R, 3].

    `geom` and `visibility` [R] belong to the pixels' centres.
    """
    count = len(_SUBPIXELS)
    rows, columns = ((coordinate[pixels] + offset[:, None]).ravel()
                     for coordinate, offset in zip((self._rows, self._columns), _SUBPIXELS.T, strict=True))
    hits = self._hits(data, camera, rows, columns)
    known = hits.geom == np.tile(geom, count)
    cast = self._visibility(data, hits, np.where(known, -1, np.repeat(np.arange(count), len(pixels))))
    colours = self._shade(data, hits, np.where(known, np.tile(visibility, count), cast))
    return colours.reshape(count, len(pixels), 3).sum(0)

  def _hits(self, data: mujoco.MjData, camera: int, rows: np.ndarray, columns: np.ndarray) -> _Hits:
    origin = data.cam_xpos[camera]
    directions = self._directions(data, camera, rows, columns)
    geom, distance, normal = self._cast(data, origin, directions)
    geom = np.where(geom < 0, self._model.ngeom, geom)
    points = origin + directions * distance[:, None]
    return _Hits(geom, *(part.astype(np.float32) for part in (points, normal, directions)))

  def _directions(self, data: mujoco.MjData, camera: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    scale = 2 * np.tan(np.radians(self._model.cam_fovy[camera]) / 2) / self._height
    right, up, back = data.cam_xmat[camera].reshape(3, 3).T
    across = (columns - (self._width - 1) / 2) * scale
    upwards = ((self._height - 1) / 2 - rows) * scale
    return _unit(across[:, None] * right + upwards[:, None] * up - back)  # a matrix product would start BLAS threads

  def _cast(self, data: mujoco.MjData, origin: np.ndarray, directions: np.ndarray, exclude: int = -1
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cast rays.

    Returns:
      The geom that each ray hits (-1 for none), the distance in units of its direction, and the surface's normal.
    """
    count = len(directions)
    geom, distance, normal = np.empty(count, np.int32), np.empty(count), np.empty((count, 3))
    flat = np.ascontiguousarray(directions, float).ravel()
    mujoco.mj_multiRay(self._model, data, origin, flat, _GROUPS, True, exclude, geom, distance, normal.reshape(-1),
                       count, mujoco.mjMAXVAL)
    return geom, distance, normal

  def _shade(self, data: mujoco.MjData, hits: _Hits, visibility: np.ndarray) -> np.ndarray:
    """Compute linear colour float32 [R, 3].

    `visibility` [R] is the visible share of the lamp from each point.
    """
    colour = self._albedo[hits.geom]
    for texture in self._textures:
      where = np.flatnonzero(hits.geom == texture.geom)
      if len(where):
        colour[where] = texture.sample(data, hits.points[where], hits.normal[where])
    to_lamp = _unit(self._lamp(data) - hits.points)
    lit = np.maximum(_dot(hits.normal, to_lamp), 0) * visibility
    gloss = np.maximum(_dot(hits.normal, _unit(to_lamp - hits.directions)), 0) ** 40
    gloss = gloss * visibility * self._shiny[hits.geom]
    upwards = 0.75 + 0.25 * hits.normal[:, 2]
    shaded = colour * (lit[:, None] * self._diffuse + upwards[:, None] * self._ambient) + gloss[:, None] * self._diffuse
    return np.where((hits.geom < self._model.ngeom)[:, None], shaded, colour)

  def _visibility(self, data: mujoco.MjData, hits: _Hits, lamp_point: np.ndarray) -> np.ndarray:
    """Cast shadow rays from the lamp.

    Args:
      lamp_point: [R], indices of _LAMP_POINTS; -1 casts no ray.

    Returns:
      float32 [R]: 1 if the lamp point is visible, 0 if not, -1 without a ray.
    """
    visibility = np.where(lamp_point < 0, np.float32(-1), np.float32(0))
    facing = (hits.geom < self._model.ngeom) & (_dot(hits.normal, self._lamp(data) - hits.points) > 0)
    # No part of the room lies between the lamp and points on the table.
    above = (hits.geom == self._table) | (hits.points[:, 2] > 0)
    for index, (x, y) in enumerate(_LAMP_POINTS):
      casts = facing & (lamp_point == index)
      for chosen, exclude in ((casts & above, self._room), (casts & ~above, -1)):
        rays = np.flatnonzero(chosen)
        if len(rays):
          origin = data.light_xpos[0] + _LAMP_RADIUS * np.array([x, y, 0.0])
          _, distance, _ = self._cast(data, origin, hits.points[rays] - origin, exclude)
          visibility[rays] = (distance > 0.997) | (distance < 0)  # 1 is the point itself
    return visibility

  def _blur(self, geom: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """Average known visibility over 3x3 neighbours of the same geom: [H * W]."""
    geom = np.pad(geom.reshape(self._height, self._width).astype(np.int32), 1, constant_values=-1)
    visibility = np.pad(visibility.reshape(self._height, self._width), 1, constant_values=-1)
    centre = geom[1:-1, 1:-1]
    total, count = np.zeros(centre.shape, np.float32), np.zeros(centre.shape, np.float32)
    for row in range(3):
      for column in range(3):
        neighbour = np.s_[row:row + self._height, column:column + self._width]
        same = (geom[neighbour] == centre) & (visibility[neighbour] >= 0)
        total += visibility[neighbour] * same
        count += same
    return (total / np.maximum(count, 1)).ravel()  # pixels without known neighbours are edges, which get subpixels

  def _lamp(self, data: mujoco.MjData) -> np.ndarray:
    return data.light_xpos[0].astype(np.float32)

  def _edges(self, geom: np.ndarray) -> np.ndarray:
    """Find the pixels with a neighbour of another geom, bool [H * W]."""
    image = geom.reshape(self._height, self._width)
    edge = np.zeros(image.shape, bool)
    down, across = image[1:] != image[:-1], image[:, 1:] != image[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge.ravel()


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


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """Compute inner products of rows: [R]."""
  return np.einsum('ij,ij->i', one, other)


def _unit(vectors: np.ndarray) -> np.ndarray:
  return vectors / np.sqrt(np.einsum('ij,ij->i', vectors, vectors))[:, None]
