"""A ray caster on MuJoCo's own rays: pictures of primitive scenes without any graphics driver.

One call of `mj_multiRay` finds what each pixel sees, and its surface normal; further calls from points of the lamp find
what lies in shadow. Colours, textures and light are the model's own, so that `gl.py` shows the same scene. Edges
between geoms are sampled four times as densely as the rest.
"""
import mujoco
import numpy as np

# Seen are the groups of ordinary geoms, not the sites and helpers of group 4.
_GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)
_LAMP_RADIUS = 0.07
# Where on the lamp shadow rays start, in units of its radius; chosen so that no two share a row or column.
_LAMP_POINTS = np.array([(-0.75, 0.25), (-0.25, -0.75), (0.25, 0.75), (0.75, -0.25)])
_SUBPIXELS = np.array([(-0.375, 0.125), (-0.125, -0.375), (0.125, 0.375), (0.375, -0.125)])
_SKY = np.array([0.80, 0.83, 0.86], np.float32)


class Rays:
  """Renders pictures of (height, width) pixels."""

  def __init__(self, image_size: tuple[int, int]):
    self._height, self._width = image_size
    rows, columns = np.mgrid[:self._height, :self._width].astype(float)
    self._rows, self._columns = rows.ravel(), columns.ravel()

  def start(self, model: mujoco.MjModel) -> None:
    """Takes the colours, textures and light of an episode's model."""
    self._model = model
    colour = np.where((model.geom_matid >= 0)[:, None], 1.0, model.geom_rgba[:, :3])
    self._albedo = np.concatenate([colour, [_SKY]]).astype(np.float32)  # the last for rays that hit nothing
    self._textures = [_Texture(model, geom) for geom in np.flatnonzero(model.geom_matid >= 0)]
    shiny = np.full(model.ngeom + 1, 0.25, np.float32)
    shiny[:-1][model.geom_matid >= 0] = 0.03
    self._shiny = shiny
    self._diffuse = model.light_diffuse[0].astype(np.float32)
    self._ambient = model.light_ambient[0].astype(np.float32)

  def render(self, data: mujoco.MjData, camera: str) -> np.ndarray:
    """What `camera` sees: uint8 [H, W, 3]."""
    number = self._model.camera(camera).id
    geom, colour = self._sample(data, number, self._rows, self._columns)
    edges = np.flatnonzero(self._edges(geom))
    if len(edges):
      offsets = np.repeat(_SUBPIXELS, len(edges), 0)
      rows, columns = (np.tile(at[edges], len(_SUBPIXELS)) + offset
                       for at, offset in zip((self._rows, self._columns), offsets.T, strict=True))
      _, finer = self._sample(data, number, rows, columns)
      colour[edges] = finer.reshape(len(_SUBPIXELS), len(edges), 3).mean(0)
    return (np.sqrt(np.clip(colour, 0, 1)) * 255 + 0.5).astype(np.uint8).reshape(self._height, self._width, 3)

  def close(self) -> None:
    """Nothing to give back."""

  def _sample(self, data: mujoco.MjData, camera: int, rows: np.ndarray, columns: np.ndarray
              ) -> tuple[np.ndarray, np.ndarray]:
    """Geom [R] (the number of geoms where nothing is hit) and linear colour float32 [R, 3] at pixels."""
    origin = data.cam_xpos[camera]
    directions = self._directions(data, camera, rows, columns)
    geom, distance, normal = self._cast(data, origin, directions)
    geom = np.where(geom < 0, self._model.ngeom, geom)
    points = origin + directions * distance[:, None]
    colour = self._albedo[geom]
    for texture in self._textures:
      where = np.flatnonzero(geom == texture.geom)
      if len(where):
        colour[where] = texture.sample(data, points[where], normal[where])
    lit = self._light(data, geom, points, normal, directions)
    hit = geom < self._model.ngeom
    colour[hit] = colour[hit] * lit[0][hit] + lit[1][hit]
    return geom, colour

  def _directions(self, data: mujoco.MjData, camera: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    half = np.tan(np.radians(self._model.cam_fovy[camera]) / 2)
    scale = 2 * half / self._height
    local = np.empty((len(rows), 3))
    local[:, 0] = (columns - (self._width - 1) / 2) * scale
    local[:, 1] = -(rows - (self._height - 1) / 2) * scale
    local[:, 2] = -1
    local /= np.sqrt(np.einsum('ij,ij->i', local, local))[:, None]
    return local @ data.cam_xmat[camera].reshape(3, 3).T

  def _cast(self, data: mujoco.MjData, origin: np.ndarray, directions: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = len(directions)
    geom, distance, normal = np.empty(count, np.int32), np.empty(count), np.empty((count, 3))
    mujoco.mj_multiRay(self._model, data, origin, np.ascontiguousarray(directions).ravel(), _GROUPS, True, -1, geom,
                       distance, normal.reshape(-1), count, mujoco.mjMAXVAL)
    return geom, distance, normal

  def _light(self, data: mujoco.MjData, geom: np.ndarray, points: np.ndarray, normal: np.ndarray, view: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray]:
    """What the surface's colour is multiplied by, and what is added to it: float32 [R, 3] each."""
    lamp = data.light_xpos[0]
    to_lamp = lamp - points
    to_lamp /= np.sqrt(np.einsum('ij,ij->i', to_lamp, to_lamp))[:, None]
    facing = np.maximum(np.einsum('ij,ij->i', normal, to_lamp), 0).astype(np.float32)
    seen = np.zeros(len(geom), np.float32)
    ask = np.flatnonzero((facing > 0) & (geom < self._model.ngeom))
    seen[ask] = self._visible(data, lamp, points[ask])
    halfway = to_lamp - view
    halfway /= np.sqrt(np.einsum('ij,ij->i', halfway, halfway))[:, None]
    gloss = np.maximum(np.einsum('ij,ij->i', normal, halfway), 0).astype(np.float32) ** 40
    up = (0.75 + 0.25 * normal[:, 2]).astype(np.float32)
    multiply = (facing * seen)[:, None] * self._diffuse + up[:, None] * self._ambient
    return multiply, (gloss * seen * self._shiny[geom])[:, None] * self._diffuse

  def _visible(self, data: mujoco.MjData, lamp: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The share of the lamp that each point sees, float32 [R]."""
    share = np.zeros(len(points), np.float32)
    for x, y in _LAMP_POINTS:
      origin = lamp + _LAMP_RADIUS * np.array([x, y, 0.0])
      way = points - origin
      _, distance, _ = self._cast(data, origin, way)  # in units of the way: 1 is the point itself
      share += (distance > 0.997) | (distance < 0)
    return share / len(_LAMP_POINTS)

  def _edges(self, geom: np.ndarray) -> np.ndarray:
    """Which pixels have a neighbour that shows another geom, bool [H * W]."""
    picture = geom.reshape(self._height, self._width)
    edge = np.zeros(picture.shape, bool)
    down, across = picture[1:] != picture[:-1], picture[:, 1:] != picture[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge.ravel()


class _Texture:
  """The texture of one geom, laid flat on the side that is hit."""

  def __init__(self, model: mujoco.MjModel, geom: int):
    material = model.geom_matid[geom]
    number = model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]
    height, width = model.tex_height[number], model.tex_width[number]
    start = model.tex_adr[number]
    pixels = model.tex_data[start:start + height * width * 3].reshape(height, width, 3)
    self._pixels = ((pixels / 255.0) ** 2).astype(np.float32)  # to linear light, the inverse of the square root at the end
    self._repeat = model.mat_texrepeat[material]
    self.geom = int(geom)

  def sample(self, data: mujoco.MjData, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Linear colour float32 [R, 3] at points of the geom."""
    rotation = data.geom_xmat[self.geom].reshape(3, 3)
    local = (points - data.geom_xpos[self.geom]) @ rotation
    side = np.abs(normal @ rotation).argmax(-1)
    first = np.where(side == 0, local[:, 1], local[:, 0])
    second = np.where(side == 2, local[:, 1], local[:, 2])
    height, width = self._pixels.shape[:2]
    row = (second * self._repeat[1] * height).astype(int) % height
    column = (first * self._repeat[0] * width).astype(int) % width
    return self._pixels[row, column]
