"""Procedural textures of tables and walls, equal on every machine."""
import functools
from collections.abc import Callable

import numpy as np

SIZE = 256

TABLES_SEEN = ('oak', 'walnut', 'laminate', 'linen', 'slate', 'birch')
TABLES_UNSEEN = ('marble', 'checkerboard', 'terrazzo')
WALLS_SEEN = ('plaster', 'sky', 'sand', 'panels')
WALLS_UNSEEN = ('brick', 'stripes', 'tiles')


@functools.cache
def texture(name: str) -> np.ndarray:
  """Create a texture, uint8 [SIZE, SIZE, 3], that repeats almost seamlessly."""
  rng = np.random.default_rng(sum(name.encode()))
  return (np.clip(_MAKERS[name](rng), 0, 1) * 255).astype(np.uint8)


def _noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
  """Create smooth periodic noise [SIZE, SIZE] in -1..1 from a grid."""
  cells = rng.uniform(-1, 1, (rows, columns))

  def axis(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    position = np.arange(SIZE) * count / SIZE
    low = position.astype(int)
    weight = position - low
    return low % count, (low + 1) % count, weight * weight * (3 - 2 * weight)

  (top, bottom, down), (left, right, across) = axis(rows), axis(columns)
  upper = cells[top][:, left] * (1 - across) + cells[top][:, right] * across
  lower = cells[bottom][:, left] * (1 - across) + cells[bottom][:, right] * across
  return upper * (1 - down[:, None]) + lower * down[:, None]


def _layers(rng: np.random.Generator, rows: int, columns: int, count: int) -> np.ndarray:
  total = np.zeros((SIZE, SIZE))
  for i in range(count):
    total += 0.5 ** i * _noise(rng, min(rows * 2 ** i, SIZE), min(columns * 2 ** i, SIZE))
  return total / (2 - 0.5 ** (count - 1))


def _mix(first: tuple[float, ...], second: tuple[float, ...], share: np.ndarray) -> np.ndarray:
  share = np.clip(share, 0, 1)[..., None]
  return np.array(first) * (1 - share) + np.array(second) * share


def _wood(light: tuple[float, ...], dark: tuple[float, ...]) -> Callable[[np.random.Generator], np.ndarray]:
  def make(rng: np.random.Generator) -> np.ndarray:
    rows = np.arange(SIZE)[:, None] / SIZE
    rings = np.sin(2 * np.pi * (6 * rows + 0.9 * _layers(rng, 4, 2, 3)))
    grain = _layers(rng, 64, 3, 2)
    plank = (np.arange(SIZE) // 64)[:, None]
    shade = rng.uniform(-0.08, 0.08, 4)[plank]
    seam = (np.arange(SIZE) % 64 == 0)[:, None] * 0.35
    return _mix(light, dark, 0.35 + 0.25 * rings + 0.35 * grain + seam) * (1 + shade[..., None])
  return make


def _speckled(base: tuple[float, ...], other: tuple[float, ...], cells: int, strength: float
              ) -> Callable[[np.random.Generator], np.ndarray]:
  def make(rng: np.random.Generator) -> np.ndarray:
    return _mix(base, other, 0.5 + strength * _layers(rng, cells, cells, 3))
  return make


def _linen(rng: np.random.Generator) -> np.ndarray:
  rows, columns = np.mgrid[:SIZE, :SIZE]
  weave = 0.25 * (np.sin(2 * np.pi * rows / 4) + np.sin(2 * np.pi * columns / 4))
  return _mix((0.55, 0.60, 0.66), (0.42, 0.47, 0.54), 0.5 + weave + 0.5 * _layers(rng, 32, 32, 2))


def _marble(rng: np.random.Generator) -> np.ndarray:
  rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
  veins = 1 - np.abs(np.sin(np.pi * (2 * rows + 2 * columns + 2.2 * _layers(rng, 3, 3, 5))))
  return _mix((0.88, 0.87, 0.85), (0.38, 0.40, 0.44), veins ** 5 + 0.15 * _layers(rng, 8, 8, 4))


def _checkerboard(rng: np.random.Generator) -> np.ndarray:
  rows, columns = np.mgrid[:SIZE, :SIZE] // 32
  return _mix((0.80, 0.78, 0.70), (0.30, 0.42, 0.40), (rows + columns) % 2 + 0.1 * _noise(rng, 64, 64))


def _terrazzo(rng: np.random.Generator) -> np.ndarray:
  image = np.full((SIZE, SIZE, 3), 0.76)
  for shade in ((0.45, 0.30, 0.26), (0.32, 0.38, 0.36), (0.93, 0.90, 0.84)):
    image[_layers(rng, 20, 20, 2) > 0.42] = shade
  return image


def _panels(rng: np.random.Generator) -> np.ndarray:
  seam = (np.arange(SIZE) % 64 < 2)[None, :, None]
  return _mix((0.66, 0.70, 0.66), (0.60, 0.64, 0.60), 0.5 + 0.5 * _noise(rng, 64, 8)) * (1 - 0.25 * seam)


def _stripes(rng: np.random.Generator) -> np.ndarray:
  band = np.broadcast_to((np.arange(SIZE) // 32 % 2)[None, :], (SIZE, SIZE))
  return _mix((0.72, 0.50, 0.42), (0.86, 0.80, 0.70), band + 0.1 * _noise(rng, 32, 32))


def _brick(rng: np.random.Generator) -> np.ndarray:
  rows, columns = np.mgrid[:SIZE, :SIZE]
  course = rows // 32
  shifted = (columns + 32 * (course % 2)) % SIZE
  mortar = (rows % 32 < 3) | (shifted % 64 < 3)
  shade = rng.uniform(0.75, 1.1, (8, 4))[course, shifted // 64][..., None]
  brick = _mix((0.55, 0.24, 0.18), (0.45, 0.18, 0.14), 0.5 + 0.5 * _layers(rng, 32, 32, 3)) * shade
  return np.where(mortar[..., None], 0.62, brick)


def _tiles(rng: np.random.Generator) -> np.ndarray:
  rows, columns = np.mgrid[:SIZE, :SIZE]
  joint = (rows % 64 < 3) | (columns % 64 < 3)
  shade = rng.uniform(0.9, 1.05, (4, 4))[rows // 64, columns // 64][..., None]
  return np.where(joint[..., None], 0.85, np.array((0.20, 0.44, 0.50)) * shade)


_MAKERS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    'oak': _wood((0.72, 0.56, 0.38), (0.55, 0.38, 0.22)),
    'walnut': _wood((0.46, 0.32, 0.22), (0.30, 0.19, 0.12)),
    'birch': _wood((0.86, 0.77, 0.62), (0.76, 0.64, 0.47)),
    'laminate': _speckled((0.74, 0.74, 0.73), (0.66, 0.66, 0.66), 64, 0.6),
    'slate': _speckled((0.36, 0.38, 0.40), (0.26, 0.28, 0.30), 16, 0.7),
    'linen': _linen, 'marble': _marble, 'checkerboard': _checkerboard, 'terrazzo': _terrazzo,
    'plaster': _speckled((0.80, 0.78, 0.74), (0.74, 0.72, 0.68), 32, 0.5),
    'sky': _speckled((0.58, 0.68, 0.76), (0.54, 0.64, 0.73), 8, 0.5),
    'sand': _speckled((0.76, 0.68, 0.54), (0.70, 0.62, 0.49), 16, 0.5),
    'panels': _panels, 'brick': _brick, 'stripes': _stripes, 'tiles': _tiles,
}
