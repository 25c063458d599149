"""Ray caster for primitive scenes, on MuJoCo's rays without a graphics driver.

One call of `mj_multiRay` finds the geom and the surface normal at each pixel; further calls from points of the lamp
find the shadows. Colours, textures and light are the model's, so that `gl.py` shows the same scene. Edges between geoms
are sampled with three rays per pixel.

A camera that stands still has one background in an episode, the image of the geoms that stand still. It is kept, and
rays are cast where a moving geom or its shadow can be: the image is exactly that of casting all rays.

R is a number of rays, whose components come first: [3, R].
"""
import dataclasses

import mujoco
import numpy as np

from rtjax.envs.tabletop.bounds import Bounds, Projection, shadows
from rtjax.envs.tabletop.scene import MOVING_GROUP
from rtjax.envs.tabletop.surfaces import Points, Surface, Surfaces, dot, join, lamp, take

# Geom groups: what stands still, what moves, and both. Sites and helpers are in group 4.
_FIXED, _MOVING, _ALL = (np.isin(np.arange(6), groups).astype(np.uint8)
                         for groups in ([0], [MOVING_GROUP], [0, MOVING_GROUP]))
_LAMP_RADIUS = 0.07
# Origins of shadow rays, from the lamp's centre, m. Every other pixel casts one, neighbours from different points;
# averaging over 3x3 pixels, twice, gives the soft shadow.
_LAMP_POINTS = _LAMP_RADIUS * np.array([(0, 0, 0), (-0.7, 0.3, 0), (0.3, 0.7, 0), (0.7, -0.3, 0), (-0.3, -0.7, 0)])
_BLUR = 2  # pixels that an average reaches
_SUBPIXELS = np.array([(-0.33, 0.17), (0.17, -0.33)])  # roughly a triangle with the pixel's centre


@dataclasses.dataclass
class _Background:
  """Geoms that stand still, seen by a camera that does.

  Attributes:
    key: what hits and distances depend on.
    directions: of the rays through the pixels' centres, [3, H * W].
    hits, distance: [H * W]; the distance is infinite without a hit.
    on_table: whether the pixel and those around it are of the table's plane z = 0, [H * W].
    surface, visibility, image: in the light of the present episode, [H * W]; see `Rays._draw`.
    lit: whether these are known.
  """
  key: bytes
  directions: np.ndarray
  hits: Points
  distance: np.ndarray
  on_table: np.ndarray
  surface: Surface = dataclasses.field(init=False)
  visibility: np.ndarray = dataclasses.field(init=False)
  image: np.ndarray = dataclasses.field(init=False)
  lit: bool = False


class Rays:
  """Renderer of images of (height, width)."""

  def __init__(self, image_size: tuple[int, int]):
    self._size = self._height, self._width = image_size
    rows, columns = np.mgrid[:self._height, :self._width].astype(float)
    self._rows, self._columns = rows.ravel(), columns.ravel()
    casts = (self._rows + self._columns) % 2 == 0
    self._lamp_point = np.where(casts, (self._rows + 2 * self._columns) % len(_LAMP_POINTS), -1).astype(int)
    self._backgrounds: dict[int, _Background] = {}

  def start(self, model: mujoco.MjModel) -> None:
    """Read the colours, textures and light of an episode's model."""
    self._model = model
    self._room = model.body('room').id
    self._table = model.geom('table').id
    self._bounds = Bounds(model, np.flatnonzero(model.geom_group == MOVING_GROUP))
    self._surfaces = Surfaces(model)
    for background in self._backgrounds.values():
      background.lit = False

  def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
    """Render the view of `camera`: uint8 [H, W, 3]."""
    number = self._model.camera(camera).id
    if self._model.body_weldid[self._model.cam_bodyid[number]]:
      *_, image = self._draw(data, number, self._all_hits(data, number), _ALL)
    else:
      image = self._draw_changes(data, number, self._background(data, number))
    return image.reshape(*self._size, 3)

  def geoms(self, data: mujoco.MjData, camera: str) -> np.ndarray:
    """Find the geom at each pixel's centre, int [H, W].

    A pixel without one has the model's number of geoms.
    """
    geom = self._all_hits(data, self._model.camera(camera).id).geom
    return np.where(geom < 0, self._model.ngeom, geom).reshape(self._size)

  def close(self) -> None:
    """Do nothing: there are no resources to release."""

  def _background(self, data: mujoco.MjData, camera: int) -> _Background:
    model, fixed = self._model, np.flatnonzero(self._model.geom_group == 0)
    key = b''.join(array.tobytes() for array in (
        fixed, model.geom_type[fixed], model.geom_size[fixed], data.geom_xpos[fixed], data.geom_xmat[fixed],
        model.cam_fovy[camera], data.cam_xpos[camera], data.cam_xmat[camera]))
    background = self._backgrounds.get(camera)
    if background is None or background.key != key:
      directions = self._directions(data, camera, self._rows, self._columns)
      hits, distance = self._hits(data, camera, directions, _FIXED)
      on_table = ~self._grow((hits.geom != self._table) | (hits.normal[2] < 0.5))
      background = self._backgrounds[camera] = _Background(key, directions, hits, distance, on_table)
    if not background.lit:
      background.surface, background.visibility, background.image = self._draw(data, camera, background.hits, _FIXED)
      background.lit = True
    return background

  def _draw(self, data: mujoco.MjData, camera: int, hits: Points, groups: np.ndarray
            ) -> tuple[Surface, np.ndarray, np.ndarray]:
    """Draw all pixels.

    Args:
      hits: [H * W].
      groups: the visible geoms.

    Returns:
      The surface, visibility before the average, and the image, uint8 [H * W, 3].
    """
    surface, pixels = self._surfaces.at(data, hits), np.arange(len(self._rows))
    visibility = self._visibility(data, hits, self._lamp_point, groups)
    image = np.empty((len(pixels), 3), np.uint8)
    self._paint(image, data, camera, hits.geom, visibility, pixels, surface, groups)
    return surface, visibility, image

  def _draw_changes(self, data: mujoco.MjData, camera: int, background: _Background) -> np.ndarray:
    """Draw the pixels that differ from the background; return the image, uint8 [H * W, 3]."""
    moving, shadowed = self._changeable(data, camera, background)
    pixels = np.flatnonzero(moving)
    hits, distance = self._hits(data, camera, background.directions.take(pixels, 1), _MOVING)
    nearer = np.flatnonzero(distance < background.distance.take(pixels))
    pixels, hits = pixels[nearer], take(hits, nearer)
    geom, visibility = background.hits.geom.copy(), background.visibility.copy()
    geom[pixels], visibility[pixels] = hits.geom, -1
    beside = np.flatnonzero(shadowed & (visibility == 1))
    casting = np.concatenate([pixels, beside])
    visibility[casting] = self._visibility(
        data, join(hits, take(background.hits, beside)), self._lamp_point.take(casting), _ALL)
    changed = self._grow((geom != background.hits.geom) | (visibility != background.visibility))
    changed |= self._edges(background.hits.geom) & (moving | shadowed)
    fixed = np.flatnonzero(changed & (geom == background.hits.geom))
    image = background.image.copy()
    self._paint(image, data, camera, geom, visibility, np.concatenate([pixels, fixed]),
                join(self._surfaces.at(data, hits), take(background.surface, fixed)), _ALL)
    return image

  def _changeable(self, data: mujoco.MjData, camera: int, background: _Background) -> tuple[np.ndarray, np.ndarray]:
    """Find the pixels that moving geoms and their shadows can change.

    Returns:
      Those of the geoms and those of the shadows, bool [H * W] each.
    """
    image, boxes = Projection(self._model, data, camera, self._size), self._bounds.corners(data)
    moving, shadowed = image.covered(boxes), image.covered(shadows(boxes, data.light_xpos[0] + _LAMP_POINTS[1:]))
    return moving, shadowed | ~background.on_table

  def _paint(self, image: np.ndarray, data: mujoco.MjData, camera: int, geom: np.ndarray, visibility: np.ndarray,
             pixels: np.ndarray, surface: Surface, groups: np.ndarray) -> None:
    """Paint pixels of an image.

    Args:
      image: uint8 [H * W, 3], changed.
      geom, visibility: of all pixels, [H * W].
      pixels, surface: those to paint, [R].
      groups: the visible geoms.
    """
    visibility = self._blur(geom, visibility)
    colour = self._surfaces.shade(surface, visibility.take(pixels))
    rays = np.flatnonzero(self._edges(geom).take(pixels))
    if len(rays):
      edges = pixels[rays]
      subpixels = self._subpixel_colours(data, camera, edges, geom.take(edges), visibility.take(edges), groups)
      colour[:, rays] = (colour.take(rays, 1) + subpixels) / (1 + len(_SUBPIXELS))
    image[pixels] = (np.sqrt(np.clip(colour, 0, 1)) * 255 + 0.5).astype(np.uint8).T

  def _subpixel_colours(self, data: mujoco.MjData, camera: int, pixels: np.ndarray, geom: np.ndarray,
                        visibility: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sum the colours at the subpixels of some pixels: float32 [3, R].

    `geom` and `visibility` [R] belong to the pixels' centres.
    """
    count = len(_SUBPIXELS)
    rows, columns = ((coordinate.take(pixels) + offset[:, None]).ravel()
                     for coordinate, offset in zip((self._rows, self._columns), _SUBPIXELS.T, strict=True))
    hits, _ = self._hits(data, camera, self._directions(data, camera, rows, columns), groups)
    known = hits.geom == np.tile(geom, count)
    cast = self._visibility(data, hits, np.where(known, -1, np.repeat(np.arange(count), len(pixels))), groups)
    colours = self._surfaces.shade(self._surfaces.at(data, hits), np.where(known, np.tile(visibility, count), cast))
    return colours.reshape(3, count, len(pixels)).sum(1)

  def _all_hits(self, data: mujoco.MjData, camera: int) -> Points:
    """Cast a ray through every pixel's centre."""
    return self._hits(data, camera, self._directions(data, camera, self._rows, self._columns), _ALL)[0]

  def _hits(self, data: mujoco.MjData, camera: int, directions: np.ndarray, groups: np.ndarray
            ) -> tuple[Points, np.ndarray]:
    """Cast rays from a camera.

    Returns:
      Hits and distances, which are infinite without a hit.
    """
    origin = data.cam_xpos[camera][:, None]
    geom, distance, normal = self._cast(data, origin, directions, groups)
    points = origin + directions * distance
    return (Points(geom, *(part.astype(np.float32, 'C') for part in (points, normal, directions))),
            np.where(geom < 0, np.inf, distance))

  def _directions(self, data: mujoco.MjData, camera: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    scale = 2 * np.tan(np.radians(self._model.cam_fovy[camera]) / 2) / self._height
    right, up, back = data.cam_xmat[camera].reshape(3, 3).T[..., None]
    across = (columns - (self._width - 1) / 2) * scale
    upwards = ((self._height - 1) / 2 - rows) * scale
    rays = across * right + upwards * up - back  # a matrix product would start BLAS threads
    x, y, z = rays * rays
    return rays / np.sqrt((x + z) + y)  # in the order of earlier datasets: another one moves an edge now and then

  def _cast(self, data: mujoco.MjData, origin: np.ndarray, directions: np.ndarray, groups: np.ndarray,
            exclude: int = -1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cast rays from `origin` [3, 1].

    Returns:
      The geom that each ray hits (-1 for none), the distance in units of its direction, and the surface's normal.
    """
    count = directions.shape[1]
    geom, distance, normal = np.empty(count, np.int32), np.empty(count), np.empty((count, 3))
    mujoco.mj_multiRay(self._model, data, origin, directions.T.ravel(), groups, True, exclude, geom, distance,
                       normal.reshape(-1), count, mujoco.mjMAXVAL)
    return geom, distance, normal.T

  def _visibility(self, data: mujoco.MjData, hits: Points, lamp_point: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Cast shadow rays from the lamp.

    Args:
      lamp_point: [R], indices of _LAMP_POINTS; -1 casts no ray.
      groups: geoms that cast shadows.

    Returns:
      float32 [R]: 1 if the lamp point is visible, 0 if not, -1 without a ray.
    """
    visibility = np.where(lamp_point < 0, np.float32(-1), np.float32(0))
    rays = np.flatnonzero((lamp_point >= 0) & (hits.geom >= 0))
    points = hits.points.take(rays, 1)
    facing = np.flatnonzero(dot(hits.normal.take(rays, 1), lamp(data) - points) > 0)
    rays, points = rays[facing], points.take(facing, 1)
    # No part of the room lies between the lamp and points on the table.
    below, lamp_point = (hits.geom[rays] != self._table) & (points[2] <= 0), lamp_point.take(rays)
    for index, origin in enumerate((data.light_xpos[0] + _LAMP_POINTS)[..., None]):
      some = np.flatnonzero(lamp_point == index)
      if len(some):
        exclude = -1 if below.take(some).any() else self._room
        _, distance, _ = self._cast(data, origin, points.take(some, 1) - origin, groups, exclude)
        visibility[rays[some]] = (distance > 0.997) | (distance < 0)  # 1 is the point itself
    return visibility

  def _blur(self, geom: np.ndarray, visibility: np.ndarray) -> np.ndarray:
    """Average known visibility over 3x3 neighbours of the same geom, twice: [H * W].

    `visibility` is 1, 0, or -1 where unknown.
    """
    centre = geom.reshape(self._size).astype(np.int16)
    same = [neighbour == centre for neighbour in _neighbours(centre, -2)]
    image = visibility.reshape(self._size)
    total, count = np.zeros((2, *self._size), np.uint8)
    for lit, known, alike in zip(_neighbours(image == 1), _neighbours(image >= 0), same, strict=True):
      total += lit & alike
      count += known & alike
    once = total.astype(np.float32) / np.maximum(count, 1)
    twice, count = np.zeros(self._size, np.float32), np.zeros(self._size, np.uint8)
    for neighbour, alike in zip(_neighbours(once), same, strict=True):
      twice += neighbour * alike
      count += alike
    return (twice / count).ravel()  # pixels without known neighbours are edges, which get subpixels

  def _grow(self, mask: np.ndarray) -> np.ndarray:
    """Add the pixels within the reach of the blur: bool [H * W]."""
    grown = mask.reshape(self._size)
    for _ in range(_BLUR):
      grown = np.logical_or.reduce(_neighbours(grown))
    return grown.ravel()

  def _edges(self, geom: np.ndarray) -> np.ndarray:
    """Find the pixels with a neighbour of another geom, bool [H * W]."""
    image = geom.reshape(self._size)
    edge = np.zeros(image.shape, bool)
    down, across = image[1:] != image[:-1], image[:, 1:] != image[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge.ravel()


def _neighbours(image: np.ndarray, border: int = 0) -> list[np.ndarray]:
  """Return the 3x3 neighbours of all pixels: nine times [H, W]."""
  height, width = image.shape
  padded = np.full((height + 2, width + 2), border, image.dtype)  # np.pad takes far longer
  padded[1:-1, 1:-1] = image
  return [padded[row:row + height, column:column + width] for row in range(3) for column in range(3)]
