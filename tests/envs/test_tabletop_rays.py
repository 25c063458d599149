"""The ray caster shows the scene that MuJoCo has: geometry, colours, shadows."""
import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

import mujoco

from rtjax.envs.tabletop import textures
from rtjax.envs.tabletop.objects import COLOURS, KINDS, Item
from rtjax.envs.tabletop.rays import Rays
from rtjax.envs.tabletop.render import make_renderer
from rtjax.envs.tabletop.scene import CAMERAS, Look, Placed, Scene
from rtjax.envs.tabletop.world import World

CUBE = Placed(Item('cube', 'red'), (0.5, -0.1, 0.0225))
SCENE = Scene((CUBE,), None, 0.0, Look(light=(0.7, -0.1, 1.3)), gripper=(0.40, 0.12, 0.24))


def shown(scene, size=(64, 80), camera='front', name='rays'):
  world = World(scene)
  chosen = make_renderer(name, size)
  chosen.start(world.model)
  picture = chosen.render(world.data, camera)
  chosen.close()
  return picture, world


def pixel(world, camera, point, size):
  """(row, column) at which a camera shows a point, by the pinhole formula."""
  number = world.model.camera(camera).id
  local = (point - world.data.cam_xpos[number]) @ world.data.cam_xmat[number].reshape(3, 3)
  scale = size[0] / 2 / np.tan(np.radians(world.model.cam_fovy[number]) / 2)
  return size[0] / 2 - 0.5 - local[1] / local[2] * -scale, size[1] / 2 - 0.5 + local[0] / -local[2] * scale


@pytest.mark.parametrize('camera', ['front', 'top', 'left', 'right', 'shoulder'])
def test_things_are_where_the_pinhole_formula_says(camera):
  size = (120, 160)
  picture, world = shown(SCENE, size, camera)
  row, column = pixel(world, camera, world.state().poses['red cube'].position, size)
  colour = picture[round(row), round(column)].astype(int)
  assert colour[0] > 1.6 * colour[1] and colour[0] > 1.6 * colour[2]
  red = (picture[..., :1] > 1.6 * picture[..., 1:].astype(float)).all(-1)
  middle = np.argwhere(red).mean(0)
  np.testing.assert_allclose(middle, (row, column), atol=4)


def test_every_pixel_shows_the_geom_that_a_single_ray_hits():
  size = (16, 20)
  world = World(SCENE)
  caster = Rays(size)
  caster.start(world.model)
  camera = world.model.camera('front').id
  hits = caster._hits(world.data, camera, caster._rows, caster._columns)
  for index in range(0, size[0] * size[1], 7):
    found = np.zeros(1, np.int32)
    distance = mujoco.mj_ray(world.model, world.data, world.data.cam_xpos[camera], hits.directions[index].astype(float),
                             np.array([1, 1, 1, 0, 0, 0], np.uint8), 1, -1, found)
    assert hits.geom[index] == found[0]
    np.testing.assert_allclose(hits.points[index], world.data.cam_xpos[camera] + distance * hits.directions[index],
                               atol=1e-6)


@pytest.mark.parametrize('colour', COLOURS)
def test_colours_can_be_told_apart(colour):
  """In every light, an object is nearest to its own colour's picture."""
  def mean_colour(name, look):
    scene = dataclasses.replace(SCENE, objects=(Placed(Item('cube', name), CUBE.position),), look=look)
    picture, world = shown(scene, (120, 160))
    top = world.state().poses[f'{name} cube'].position + np.array([0, 0, 0.022])
    row, column = pixel(world, 'front', top, (120, 160))
    return picture[round(row) - 1:round(row) + 2, round(column) - 1:round(column) + 2].reshape(-1, 3).mean(0)

  plain = {name: mean_colour(name, Look()) for name in COLOURS}
  for look in (Look(warmth=0.4, brightness=0.9), Look(warmth=-0.4, brightness=1.1)):
    seen = mean_colour(colour, look)
    assert min(plain, key=lambda name: np.linalg.norm(plain[name] - seen)) == colour


def test_shadow_lies_away_from_the_lamp():
  def table_beside(side):
    look = Look(table='laminate', light=(0.5, 0.8 * side, 0.7))
    picture, world = shown(dataclasses.replace(SCENE, look=look), (120, 160), 'top')
    cube = world.state().poses['red cube'].position
    shade = []
    for y in (-0.035, 0.035):
      row, column = pixel(world, 'top', np.array([cube[0], cube[1] + y, 0]), (120, 160))
      shade.append(picture[round(row), round(column)].mean())
    return shade

  right, left = table_beside(1)
  assert right < 0.85 * left
  right, left = table_beside(-1)
  assert left < 0.85 * right


def test_shadows_have_soft_edges():
  picture, _ = shown(dataclasses.replace(SCENE, look=Look(table='laminate')), (120, 160))
  grey = np.sort(np.unique(picture[90:].mean(-1).round()))
  assert len(grey) > 10


def test_look_changes_the_picture_and_nothing_else():
  pictures = []
  for look in (Look(), Look(table='walnut'), Look(wall='brick'), Look(warmth=1.0), Look(brightness=0.6)):
    picture, world = shown(dataclasses.replace(SCENE, look=look), camera='left')
    pictures.append(picture)
    np.testing.assert_array_equal(world.data.qpos, World(SCENE).data.qpos)
  assert all((one != pictures[0]).mean() > 0.1 for one in pictures[1:])


def test_textures_differ_and_repeat():
  names = (*textures.TABLES_SEEN, *textures.TABLES_UNSEEN, *textures.WALLS_SEEN, *textures.WALLS_UNSEEN)
  made = {name: textures.texture(name) for name in names}
  assert len({picture.tobytes() for picture in made.values()}) == len(names)
  for name in names:
    np.testing.assert_array_equal(made[name], textures.texture.__wrapped__(name))
  assert not set(textures.TABLES_SEEN) & set(textures.TABLES_UNSEEN)
  assert not set(textures.WALLS_SEEN) & set(textures.WALLS_UNSEEN)


def test_objects_are_large_enough_at_96_pixels():
  """Eight pixels wide in the median, none below six, where the table is in the middle of the picture."""
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
from envs.test_tabletop_rays import SCENE, shown
for name in ('rays', 'gl'):
  np.save({folder!r} + f'/{{name}}.npy', shown(SCENE, (96, 128), name=name)[0])
"""


def test_gl_shows_the_same_scene(tmp_path):
  """Where OpenGL works, both renderers put the same colours in the same places."""
  done = subprocess.run([sys.executable, '-c', GL.format(path=sys.path, folder=str(tmp_path))], capture_output=True,
                        text=True, env=os.environ | {'MUJOCO_GL': 'egl'})
  if 'OpenGL does not start here' in done.stderr or 'EGL' in done.stderr:
    pytest.skip(f'OpenGL does not start here: {done.stderr[-200:]}')
  here, there = (np.load(tmp_path / f'{name}.npy').astype(float) for name in ('rays', 'gl'))
  assert np.abs(here - there).mean() < 25
  one, other = (picture.mean(-1) - picture.mean() for picture in (here, there))
  assert (one * other).sum() / np.sqrt((one ** 2).sum() * (other ** 2).sum()) > 0.8


def test_all_cameras_render():
  for camera in CAMERAS:
    picture, _ = shown(SCENE, camera=camera)
    assert picture.dtype == np.uint8 and picture.std() > 10
