"""Bounds of geoms and shadows in images."""
import numpy as np
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from rtjax.envs.tabletop.bounds import Bounds, Projection, shadows
from rtjax.envs.tabletop.objects import Item
from rtjax.envs.tabletop.rays import Rays
from rtjax.envs.tabletop.scene import MOVING_GROUP, Appearance, PlacedObject, Scene
from rtjax.envs.tabletop.world import World

SIZE = (64, 80)
FIXED_CAMERAS = ('front', 'left', 'right', 'top', 'shoulder')
SCENE = Scene((PlacedObject(Item('hammer', 'red'), (0.5, -0.1, 0.0125)),), (0.55, 0.03), 0.1,
              Appearance(light=(0.7, -0.3, 1.3)), gripper=(0.42, -0.05, 0.2))


@pytest.fixture(scope='module')
def world():
  return World(SCENE)


@pytest.fixture(scope='module')
def corners(world):
  return Bounds(world.model, np.flatnonzero(world.model.geom_group == MOVING_GROUP)).corners(world.data)


@pytest.mark.parametrize('camera', FIXED_CAMERAS)
def test_bounds_cover_the_geoms_closely(world, corners, camera):
  caster = Rays(SIZE)
  caster.start(world.model)
  moving = np.append(world.model.geom_group == MOVING_GROUP, False)[caster.geoms(world.data, camera)].ravel()
  covered = Projection(world.model, world.data, world.model.camera(camera).id, SIZE).covered(corners)
  assert not (moving & ~covered).any()
  assert covered.sum() < 3 * moving.sum()


def test_boxes_enclose_the_geoms(world):
  """Corners of the boxes reach exactly as far as the geom's box."""
  for geom in np.flatnonzero(world.model.geom_group == MOVING_GROUP):
    boxes = Bounds(world.model, np.array([geom]))._corners.reshape(-1, 3)
    centre, half = world.model.geom_aabb[geom].reshape(2, 3)
    np.testing.assert_allclose([boxes.min(0), boxes.max(0)], [centre - half, centre + half], atol=1e-12)


def test_shadows_lie_within_their_bounds(world):
  """Shadows of points in boxes, from any point of the lamp, project into the mask."""
  rng = np.random.default_rng(0)
  lamps = np.array([0.7, -0.3, 1.3]) + 0.07 * np.array([(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)])
  centres = rng.uniform((0.4, -0.2, 0.1), (0.6, 0.2, 0.5), (20, 1, 3))
  boxes = centres + 0.03 * (np.indices((2, 2, 2)).reshape(3, 8).T * 2 - 1)
  camera = Projection(world.model, world.data, world.model.camera('top').id, SIZE)
  mask = camera.covered(shadows(boxes, lamps)).reshape(SIZE)
  sources = rng.dirichlet(np.ones(4), (20, 50)) @ lamps
  points = centres + rng.uniform(-0.03, 0.03, (20, 50, 3))
  shadow = sources + sources[..., 2:] / (sources[..., 2:] - points[..., 2:]) * (points - sources)
  np.testing.assert_allclose(shadow[..., 2], 0, atol=1e-12)
  x, y, z = ((shadow.reshape(-1, 3) - camera._origin) @ camera._axes).T
  row, column = (SIZE[0] - 1) / 2 + y * camera._scale / z, (SIZE[1] - 1) / 2 - x * camera._scale / z
  inside = (row > 0) & (row < SIZE[0] - 1) & (column > 0) & (column < SIZE[1] - 1)
  assert inside.sum() > 100 and mask[row[inside].round().astype(int), column[inside].round().astype(int)].all()
  assert not mask.all()


def test_everything_is_covered_where_there_is_no_bound(world, corners):
  camera = Projection(world.model, world.data, world.model.camera('front').id, SIZE)
  assert camera.covered(corners + np.array([2.0, 0, 0])).all()  # behind the camera
  assert camera.covered(shadows(corners, np.array([[0.5, 0.0, 0.2]]))).all()  # the arm reaches above the lamp
