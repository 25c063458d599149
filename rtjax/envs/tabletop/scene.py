"""MuJoCo model of a scene: table, walls, cabinet, bowl, objects, arm, cameras.

Axes, in metres: x points from the arm's base over the table, y to its left, z up; the table's top is z = 0. The
third-person camera 'front' looks back at the arm from beyond the table.
"""
import dataclasses
import math

import mujoco
import numpy as np

from rtjax.envs.tabletop import arm, textures
from rtjax.envs.tabletop.objects import Item, body_xml, numbers

TIMESTEP = 0.004
CAMERAS = ('front', 'wrist', 'left', 'right', 'top', 'shoulder')
"""Views of the observation's `images`, in this order; 'front' is the policy's camera."""

DRAWER_TRAVEL = 0.15
CABINET = np.array([0.50, 0.225])
"""Centre of the cabinet's front, x and y; the drawer opens towards -y."""
DRAWER_INSIDE = np.array([[-0.085, 0.012, 0.0], [0.085, 0.155, 0.09]])
"""Lowest and highest corner of the drawer's inside, from the drawer's origin at the centre of its front."""
HANDLE = np.array([0.0, -0.056, 0.045])
"""Centre of the handle, a bar along x, from the drawer's origin."""
BOWL_RADIUS, BOWL_HEIGHT = 0.074, 0.042
BOWL = 'bowl'
MOVING_GROUP = 1
"""Group of the geoms that can move; the others are in group 0. It has no effect on the physics."""
_TABLE_CENTRE = np.array([0.5, 0.0, 0.0])


@dataclasses.dataclass(frozen=True)
class PlacedObject:
  """Object and its pose: position (m) and quaternion (w first)."""
  item: Item
  position: tuple[float, float, float]
  quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)


@dataclasses.dataclass(frozen=True)
class Appearance:
  """Textures and light of a scene, without effect on the physics.

  Attributes:
    table, wall: names of textures.
    light: position of the lamp, m.
    warmth: colour of the lamp, -1 (blue) to 1 (yellow).
    brightness: brightness of lamp and surroundings; 1 is normal.
  """
  table: str = 'oak'
  wall: str = 'plaster'
  light: tuple[float, float, float] = (0.7, -0.4, 1.3)
  warmth: float = 0.0
  brightness: float = 1.0


@dataclasses.dataclass(frozen=True)
class Scene:
  """Initial state of a scene.

  Attributes:
    objects: objects and their poses.
    bowl: x and y of the bowl, m; None without a bowl.
    drawer: opening of the drawer, m.
    appearance: textures and light.
    gripper: position of the gripper, m; it points down, open.
  """
  objects: tuple[PlacedObject, ...]
  bowl: tuple[float, float] | None
  drawer: float
  appearance: Appearance
  gripper: tuple[float, float, float] = (0.42, 0.0, 0.22)


def build(scene: Scene) -> mujoco.MjModel:
  """Build the model of a scene; `world.World` sets its state."""
  bodies = ''.join(body_xml(placed.item, np.array(placed.position), np.array(placed.quaternion))
                   for placed in scene.objects)
  bowl = '' if scene.bowl is None else _bowl_xml(scene.bowl)
  style = scene.appearance
  warm = np.array([1 + 0.12 * style.warmth, 1.0, 1 - 0.18 * style.warmth])
  lamp = (f'<light name="lamp" pos="{numbers(style.light)}" dir="{numbers(_TABLE_CENTRE - style.light)}" cutoff="80" '
          f'exponent="0" diffuse="{numbers(0.75 * style.brightness * warm)}" specular="0.3 0.3 0.3"/>')
  ambient = numbers(0.38 * style.brightness * (2 - warm))
  xml = f"""
<mujoco model="tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="8" iterations="30"/>
  <visual>
    <headlight ambient="{ambient}" diffuse="0 0 0" specular="0 0 0"/>
    <map znear="0.01"/>
    <quality shadowsize="2048" offsamples="4"/>
    <global offwidth="1280" offheight="1024"/>
  </visual>
  <statistic extent="1.5" center="0.5 0 0.1"/>
  <default>{_DEFAULTS}</default>
  <asset>
    <texture name="table" type="2d" builtin="flat" width="{textures.SIZE}" height="{textures.SIZE}"/>
    <texture name="wall" type="2d" builtin="flat" width="{textures.SIZE}" height="{textures.SIZE}"/>
    <material name="table" texture="table" texrepeat="4 4" texuniform="true" specular="0.15" shininess="0.3"/>
    <material name="wall" texture="wall" texrepeat="2 2" texuniform="true" specular="0"/>
  </asset>
  <worldbody>
    {lamp}
    {_ROOM}{_CABINET}{arm.body_xml()}{bowl}{bodies}
  </worldbody>
  <contact><exclude body1="cabinet" body2="drawer"/><exclude body1="room" body2="drawer"/></contact>
  <equality>{arm.EQUALITY_XML}</equality>
  <actuator>{arm.ACTUATORS_XML}</actuator>
</mujoco>"""
  spec = mujoco.MjSpec.from_string(xml)
  for use, name in (('table', style.table), ('wall', style.wall)):
    spec.texture(use).data = textures.texture(name).tobytes()
  model = spec.compile()
  model.geom_group[model.body_weldid[model.geom_bodyid] != 0] = MOVING_GROUP
  return model


_DEFAULTS = """
<default class="object"><geom density="500" condim="6" friction="0.9 0.005 0.0006" solref="0.008 1"/></default>
<default class="fixed"><geom contype="1" conaffinity="3" friction="0.8 0.005 0.0006" condim="3"/></default>
<default class="wall"><geom type="plane" material="wall" contype="0" conaffinity="0"/></default>
<default class="arm"><geom contype="2" conaffinity="0" rgba="0.90 0.90 0.91 1"/></default>
<default class="arm_dark"><geom contype="2" conaffinity="0" rgba="0.22 0.24 0.27 1"/></default>
<default class="hand"><geom contype="2" conaffinity="0" rgba="0.86 0.86 0.88 1"/></default>
<default class="hand_dark"><geom contype="2" conaffinity="0" rgba="0.30 0.31 0.34 1"/></default>
<default class="finger">
  <geom contype="2" conaffinity="0" condim="4" friction="1.6 0.02 0.001" solref="0.008 1"/>
</default>
<geom contype="1" conaffinity="3"/>"""


def _camera(name: str, position: tuple[float, float, float], target: tuple[float, float, float], fovy: float) -> str:
  """Describe a camera at `position` that looks at `target`, upright."""
  back = np.subtract(position, target)
  back = back / np.linalg.norm(back)
  right = np.cross([0, 0, 1.0] if abs(back[2]) < 0.99 else [-1.0, 0, 0], back)
  right = right / np.linalg.norm(right)
  return (f'<camera name="{name}" pos="{numbers(position)}" fovy="{fovy}" '
          f'xyaxes="{numbers(right)} {numbers(np.cross(back, right))}"/>')


_ROOM = f"""
<body name="room">
  <geom class="fixed" name="table" type="box" size="0.55 0.75 0.02" pos="0.40 0 -0.02" material="table"/>
  <geom class="fixed" name="floor" type="plane" size="4 4 0.1" pos="0 0 -0.75" rgba="0.34 0.32 0.31 1"/>
  <geom class="wall" name="back_wall" size="3 2 0.1" pos="-0.88 0 1" xyaxes="0 1 0 0 0 1"/>
  <geom class="wall" name="left_wall" size="3 2 0.1" pos="1 1.98 1" xyaxes="1 0 0 0 0 1"/>
  <geom class="wall" name="right_wall" size="3 2 0.1" pos="1 -1.98 1" xyaxes="-1 0 0 0 0 1"/>
  {_camera('front', (1.07, 0.0, 0.66), (0.46, 0.0, 0.07), 34)}
  {_camera('left', (0.62, 0.85, 0.55), (0.48, 0.0, 0.04), 40)}
  {_camera('right', (0.62, -0.85, 0.55), (0.48, 0.0, 0.04), 40)}
  {_camera('top', (0.50, 0.0, 1.05), (0.50, 0.0, 0.0), 34)}
  {_camera('shoulder', (-0.10, -0.42, 0.75), (0.52, 0.02, 0.03), 40)}
</body>"""


def _cabinet_xml() -> str:
  """Describe the cabinet and its drawer, which slides along y."""
  def box(size: tuple[float, ...], at: tuple[float, ...], shade: str) -> str:
    return f'<geom class="fixed" type="box" size="{numbers(size)}" pos="{numbers(at)}" rgba="{shade} 1"/>'

  body, front, inner, metal = '0.70 0.67 0.62', '0.80 0.77 0.72', '0.55 0.50 0.44', '0.35 0.36 0.38'
  shell = (box((0.112, 0.092, 0.005), (0, 0.092, 0.073), body) + box((0.005, 0.092, 0.034), (0.107, 0.092, 0.034), body)
           + box((0.005, 0.092, 0.034), (-0.107, 0.092, 0.034), body)
           + box((0.112, 0.005, 0.039), (0, 0.187, 0.039), body))
  drawer = (box((0.098, 0.005, 0.030), (0, 0.005, 0.034), front) + box((0.092, 0.080, 0.003), (0, 0.087, 0.007), inner)
            + box((0.003, 0.078, 0.025), (0.089, 0.087, 0.033), inner)
            + box((0.003, 0.078, 0.025), (-0.089, 0.087, 0.033), inner)
            + box((0.092, 0.004, 0.025), (0, 0.163, 0.033), inner))
  x, y, z = HANDLE
  drawer += (f'<geom class="fixed" name="handle" type="capsule" size="0.006" rgba="{metal} 1" '
             f'fromto="{x - 0.06} {y} {z} {x + 0.06} {y} {z}"/>')
  for side in (-0.06, 0.06):
    drawer += f'<geom class="fixed" type="capsule" size="0.005" fromto="{side} {y} {z} {side} 0 {z}" rgba="{metal} 1"/>'
  return (f'<body name="cabinet" pos="{numbers(CABINET)} 0">{shell}<body name="drawer">'
          f'<joint name="drawer" type="slide" axis="0 -1 0" range="0 {DRAWER_TRAVEL}" damping="4" frictionloss="0.6" '
          f'armature="0.05"/>{drawer}</body></body>')


_CABINET = _cabinet_xml()


def _bowl_xml(position: tuple[float, float], segments: int = 16) -> str:
  """Describe a round bowl: a disk, and boxes that lean outwards."""
  geoms = '<geom class="object" type="cylinder" size="0.062 0.004" pos="0 0 0.004" rgba="0.36 0.55 0.60 1"/>'
  middle, lean = BOWL_RADIUS - 0.004, 15
  half = (BOWL_RADIUS + 0.004) * math.tan(math.pi / segments)
  for i in range(segments):
    angle = 2 * math.pi * i / segments
    shade = '0.40 0.60 0.65' if i % 2 else '0.38 0.58 0.63'
    geoms += (f'<geom class="object" type="box" size="0.003 {half:.5f} {BOWL_HEIGHT / 2:.5f}" '
              f'pos="{middle * math.cos(angle):.5f} {middle * math.sin(angle):.5f} {BOWL_HEIGHT / 2 + 0.001:.5f}" '
              f'quat="{numbers(_leaning(angle, math.radians(lean)))}" rgba="{shade} 1"/>')
  return (f'<body name="{BOWL}" pos="{numbers(position)} 0.0005"><freejoint/>'
          f'<inertial pos="0 0 0.012" mass="0.5" diaginertia="0.0011 0.0011 0.002"/>{geoms}</body>')


def _leaning(angle: float, lean: float) -> np.ndarray:
  """Compute the quaternion of a wall that faces `angle` and leans outwards."""
  about_z = np.array([math.cos(angle / 2), 0, 0, math.sin(angle / 2)])
  about_y = np.array([math.cos(lean / 2), 0, math.sin(lean / 2), 0])
  result = np.zeros(4)
  mujoco.mju_mulQuat(result, about_z, about_y)
  return result
