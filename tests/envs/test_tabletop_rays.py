"""Ray caster: geometry, colours and shadows of the MuJoCo scene."""
import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

import mujoco

from rtjax.envs.tabletop import rays, textures
from rtjax.envs.tabletop.objects import COLOURS, KINDS, Item
from rtjax.envs.tabletop.rays import Rays
from rtjax.envs.tabletop.render import make_renderer
from rtjax.envs.tabletop.scene import CAMERAS, Appearance, PlacedObject, Scene
from rtjax.envs.tabletop.world import World

CUBE = PlacedObject(Item('cube', 'red'), (0.5, -0.1, 0.0225))
SCENE = Scene((CUBE,), None, 0.0, Appearance(light=(0.7, -0.1, 1.3)), gripper=(0.40, 0.12, 0.24))


BUSY = dataclasses.replace(SCENE, objects=(CUBE, PlacedObject(Item('bottle', 'blue'), (0.42, -0.05, 0.0525))),
                           bowl=(0.55, 0.05), drawer=0.1)


def render(scene, size=(64, 80), camera='front', name='rays'):
  world = World(scene)
  renderer = make_renderer(name, size)
  renderer.start(world.model)
  image = renderer.render(world.data, camera)
  renderer.close()
  return image, world


def pixel(world, camera, point, size):
  """Project a point to (row, column) by the pinhole formula."""
  number = world.model.camera(camera).id
  local = (point - world.data.cam_xpos[number]) @ world.data.cam_xmat[number].reshape(3, 3)
  scale = size[0] / 2 / np.tan(np.radians(world.model.cam_fovy[number]) / 2)
  return size[0] / 2 - 0.5 - local[1] / local[2] * -scale, size[1] / 2 - 0.5 + local[0] / -local[2] * scale


@pytest.mark.parametrize('camera', ['front', 'top', 'left', 'right', 'shoulder'])
def test_object_positions_agree_with_the_pinhole_formula(camera):
  size = (120, 160)
  image, world = render(SCENE, size, camera)
  row, column = pixel(world, camera, world.state().poses['red cube'].position, size)
  colour = image[round(row), round(column)].astype(int)
  assert colour[0] > 1.6 * colour[1] and colour[0] > 1.6 * colour[2]
  red = (image[..., :1] > 1.6 * image[..., 1:].astype(float)).all(-1)
  centre = np.argwhere(red).mean(0)
  np.testing.assert_allclose(centre, (row, column), atol=4)


def test_pixels_agree_with_single_rays():
  size = (16, 20)
  world = World(SCENE)
  caster = Rays(size)
  caster.start(world.model)
  camera = world.model.camera('front').id
  hits = caster._all_hits(world.data, camera)
  for index in range(0, size[0] * size[1], 7):
    geom, direction = np.zeros(1, np.int32), hits.directions[:, index].astype(float)
    distance = mujoco.mj_ray(world.model, world.data, world.data.cam_xpos[camera], direction,
                             np.array([1, 1, 1, 0, 0, 0], np.uint8), 1, -1, geom)
    assert hits.geom[index] == geom[0]
    np.testing.assert_allclose(hits.points[:, index], world.data.cam_xpos[camera] + distance * direction, atol=1e-6)


@pytest.mark.parametrize('light', [(0.7, -0.4, 1.3), (0.45, 0.8, 0.75), (0.4, -0.1, 0.3)],
                         ids=['high', 'low', 'below the arm'])
def test_drawing_changes_gives_the_image_of_all_rays(light):
  caster = Rays((48, 60))
  world = World(dataclasses.replace(BUSY, appearance=Appearance(light=light)))
  caster.start(world.model)
  for height in (0.2, 0.05):
    world.step(np.array([0.5, -0.1, height]), np.eye(3), is_open=False)
    for camera in CAMERAS:
      number = world.model.camera(camera).id
      *_, expected = caster._draw(world.data, number, caster._all_hits(world.data, number), rays._ALL)
      np.testing.assert_array_equal(caster.render(world.data, camera).reshape(-1, 3), expected, camera)


def test_background_is_that_of_the_present_episode():
  caster = Rays((48, 60))
  for scene in (SCENE, dataclasses.replace(BUSY, appearance=Appearance(table='walnut', light=(0.5, 0.3, 1.2))), SCENE):
    world = World(scene)
    caster.start(world.model)
    np.testing.assert_array_equal(caster.render(world.data, 'front'), render(scene, (48, 60))[0])


def test_background_is_found_again_where_the_camera_stands_elsewhere():
  world, camera = World(SCENE), 'front'
  caster = Rays((48, 60))
  caster.start(world.model)
  before = caster.render(world.data, camera)
  world.model.cam_pos[world.model.camera(camera).id] += (0, 0.1, 0)
  mujoco.mj_forward(world.model, world.data)
  other = Rays((48, 60))
  other.start(world.model)
  caster.start(world.model)
  moved = caster.render(world.data, camera)
  np.testing.assert_array_equal(moved, other.render(world.data, camera))
  assert (moved != before).mean() > 0.1


@pytest.mark.parametrize('colour', COLOURS)
def test_colours_are_distinguishable(colour):
  """Colours in any light are nearest to themselves in normal light."""
  def mean_colour(name, style):
    scene = dataclasses.replace(SCENE, objects=(PlacedObject(Item('cube', name), CUBE.position),),
                                appearance=style)
    image, world = render(scene, (120, 160))
    top = world.state().poses[f'{name} cube'].position + np.array([0, 0, 0.022])
    row, column = pixel(world, 'front', top, (120, 160))
    return image[round(row) - 1:round(row) + 2, round(column) - 1:round(column) + 2].reshape(-1, 3).mean(0)

  normal = {name: mean_colour(name, Appearance()) for name in COLOURS}
  for style in (Appearance(warmth=0.4, brightness=0.9), Appearance(warmth=-0.4, brightness=1.1)):
    changed = mean_colour(colour, style)
    assert min(normal, key=lambda name: np.linalg.norm(normal[name] - changed)) == colour


def test_shadow_lies_away_from_the_lamp():
  def table_beside(side):
    style = Appearance(table='laminate', light=(0.5, 0.8 * side, 0.7))
    image, world = render(dataclasses.replace(SCENE, appearance=style), (120, 160), 'top')
    cube = world.state().poses['red cube'].position
    shade = []
    for y in (-0.035, 0.035):
      row, column = pixel(world, 'top', np.array([cube[0], cube[1] + y, 0]), (120, 160))
      shade.append(image[round(row), round(column)].mean())
    return shade

  right, left = table_beside(1)
  assert right < 0.85 * left
  right, left = table_beside(-1)
  assert left < 0.85 * right


def test_shadows_have_soft_edges():
  image, _ = render(dataclasses.replace(SCENE, appearance=Appearance(table='laminate')), (120, 160))
  grey = np.sort(np.unique(image[90:].mean(-1).round()))
  assert len(grey) > 10


def test_appearance_changes_the_image_alone():
  images = []
  for style in (Appearance(), Appearance(table='walnut'), Appearance(wall='brick'), Appearance(warmth=1.0),
                Appearance(brightness=0.6)):
    image, world = render(dataclasses.replace(SCENE, appearance=style), camera='left')
    images.append(image)
    np.testing.assert_array_equal(world.data.qpos, World(SCENE).data.qpos)
  assert all((one != images[0]).mean() > 0.1 for one in images[1:])


def test_textures_differ_and_repeat():
  names = (*textures.TABLES_SEEN, *textures.TABLES_UNSEEN, *textures.WALLS_SEEN, *textures.WALLS_UNSEEN)
  made = {name: textures.texture(name) for name in names}
  assert len({image.tobytes() for image in made.values()}) == len(names)
  for name in names:
    np.testing.assert_array_equal(made[name], textures.texture.__wrapped__(name))
  assert not set(textures.TABLES_SEEN) & set(textures.TABLES_UNSEEN)
  assert not set(textures.WALLS_SEEN) & set(textures.WALLS_UNSEEN)


def test_objects_are_large_enough_at_96_pixels():
  """The median width is at least eight pixels, the minimum six."""
  world = World(SCENE)
  widths = []
  for kind in KINDS.values():
    half = max(kind.width / 2, kind.radius if kind.symmetry else 0)
    left, right = (pixel(world, 'front', np.array([0.5, side * half, kind.half_height]), (96, 96))[1]
                   for side in (1, -1))
    widths.append(left - right)
  assert np.median(widths) >= 8 and min(widths) >= 6


GL = """
import sys
import numpy as np
sys.path[:0] = {path!r}
from envs.test_tabletop_rays import SCENE, render
for name in ('rays', 'gl'):
  np.save({folder!r} + f'/{{name}}.npy', render(SCENE, (96, 128), name=name)[0])
"""


def test_gl_shows_the_same_scene(tmp_path):
  """Both renderers agree in colours and positions, if OpenGL works."""
  done = subprocess.run([sys.executable, '-c', GL.format(path=sys.path, folder=str(tmp_path))], capture_output=True,
                        text=True, env=os.environ | {'MUJOCO_GL': 'egl'})
  if 'OpenGL does not start here' in done.stderr or 'EGL' in done.stderr:
    pytest.skip(f'OpenGL does not start here: {done.stderr[-200:]}')
  rays, gl = (np.load(tmp_path / f'{name}.npy').astype(float) for name in ('rays', 'gl'))
  assert np.abs(rays - gl).mean() < 25
  one, other = (image.mean(-1) - image.mean() for image in (rays, gl))
  assert (one * other).sum() / np.sqrt((one ** 2).sum() * (other ** 2).sum()) > 0.8


def test_all_cameras_render():
  for camera in CAMERAS:
    image, _ = render(SCENE, camera=camera)
    assert image.dtype == np.uint8 and image.std() > 10
