"""Physics of one episode, and the state read from it."""
import dataclasses
import logging

import mujoco
import numpy as np

from rtjax.envs.tabletop import arm
from rtjax.envs.tabletop.scene import BOWL, CABINET, DRAWER_INSIDE, HANDLE, TIMESTEP, Scene, build

CONTROL_HZ = 5
TABLE, DRAWER = 'table', 'drawer'

_SUBSTEPS = round(1 / CONTROL_HZ / TIMESTEP)
# Share of the commanded motion at each substep: the arm arrives a little before the next image.
_TIME = np.minimum(np.arange(1, _SUBSTEPS + 1) / (0.7 * _SUBSTEPS), 1)
_PROFILE = _TIME * _TIME * (3 - 2 * _TIME)
_SETTLING_SUBSTEPS = 100

# Without a handler MuJoCo writes a file MUJOCO_LOG.TXT into the working directory.
mujoco.set_mju_user_warning(logging.getLogger('mujoco').warning)


class PhysicsError(RuntimeError):
  """The physics diverged, or MuJoCo warned that it may."""


@dataclasses.dataclass(frozen=True)
class Pose:
  """Position [3] (m), rotation [3, 3] and speed (m/s) of a body."""
  position: np.ndarray
  rotation: np.ndarray
  speed: float

  @property
  def tilt(self) -> float:
    """Angle between the body's z axis and upright, radians, 0 to pi."""
    return float(np.arccos(np.clip(self.rotation[2, 2], -1, 1)))


@dataclasses.dataclass(frozen=True)
class State:
  """State of the world at one moment.

  Attributes:
    position: position of the gripper [3], m.
    rotation: rotation of the gripper [3, 3], relative to pointing straight down.
    opening: opening of the gripper, 0 closed to 1 open.
    poses: poses of the objects and the bowl, by name.
    drawer: opening of the drawer, m.
    touched: names of bodies in contact with the gripper or the arm (objects, 'bowl', 'drawer', 'table').
    held: name of the object between both fingers, or None.
    supports: names of bodies in contact with each object ('table', 'drawer', 'bowl', objects).
  """
  position: np.ndarray
  rotation: np.ndarray
  opening: float
  poses: dict[str, Pose]
  drawer: float
  touched: frozenset[str]
  held: str | None
  supports: dict[str, frozenset[str]]

  @property
  def drawer_origin(self) -> np.ndarray:
    """Centre of the drawer's front on the table, [3]."""
    return np.array([CABINET[0], CABINET[1] - self.drawer, 0.0])

  @property
  def handle(self) -> np.ndarray:
    return self.drawer_origin + HANDLE

  def in_drawer(self, name: str) -> bool:
    """Return whether the object's centre is inside the drawer."""
    local = self.poses[name].position - self.drawer_origin
    return bool(np.all(local > DRAWER_INSIDE[0]) and np.all(local < DRAWER_INSIDE[1]))


class World:
  """Physics simulation of a scene, with its objects settled at the start.

  MuJoCo's `model` and `data` are public, for renderers.
  """

  def __init__(self, scene: Scene):
    self.model = build(scene)
    self.data = mujoco.MjData(self.model)
    self._kinematics = arm.InverseKinematics(self.model)
    self._joints = np.array([int(self.model.joint(name).qposadr[0]) for name in arm.JOINTS])
    self._finger = int(self.model.joint('left_finger').qposadr[0])
    self._drawer = int(self.model.joint('drawer').qposadr[0])
    self._site = self.model.site('grip').id
    self.names = tuple(placed.item.name for placed in scene.objects) + ((BOWL,) if scene.bowl is not None else ())
    self._owners = self._geom_owners()
    self._fingers = tuple(self.model.body(name).id for name in ('left_finger', 'right_finger'))
    self._initialize(scene)

  def step(self, position: np.ndarray, rotation: np.ndarray, is_open: bool) -> None:
    """Move the gripper towards a pose for one control step.

    A control step takes 1 / CONTROL_HZ seconds.

    Raises:
      PhysicsError: the simulation became unstable.
    """
    control = self.data.ctrl
    goal = self._kinematics.solve(self.data.qpos[self._joints], position, rotation)
    control[7] = arm.OPENING if is_open else -0.02
    for angles in control[:7] + (goal - control[:7]) * _PROFILE[:, None]:
      control[:7] = angles
      mujoco.mj_step(self.model, self.data)
    self._finish()

  def state(self) -> State:
    """Read the present state."""
    touched, between_fingers, supports = self._contacts()
    poses = {}
    for name in self.names:
      body = self.data.body(name)
      poses[name] = Pose(body.xpos.copy(), body.xmat.reshape(3, 3).copy(), float(np.linalg.norm(body.cvel[3:])))
    return State(
        position=self.data.site_xpos[self._site].copy(),
        rotation=self.data.site_xmat[self._site].reshape(3, 3) @ arm.DOWN.T,
        opening=float(np.clip(self.data.qpos[self._finger] / arm.OPENING, 0, 1)),
        poses=poses, drawer=float(self.data.qpos[self._drawer]), touched=touched,
        held=next((name for name in self.names if name in between_fingers), None), supports=supports)

  def _initialize(self, scene: Scene) -> None:
    self.data.qpos[self._drawer] = scene.drawer
    angles = self._kinematics.solve(arm.HOME, np.array(scene.gripper), np.eye(3))
    for _ in range(4):
      angles = self._kinematics.solve(angles, np.array(scene.gripper), np.eye(3))
    self.data.qpos[self._joints] = self.data.ctrl[:7] = angles
    for finger in ('left_finger', 'right_finger'):
      self.data.joint(finger).qpos = arm.OPENING
    self.data.ctrl[7] = arm.OPENING
    for _ in range(_SETTLING_SUBSTEPS):
      mujoco.mj_step(self.model, self.data)
    self._finish()

  def _finish(self) -> None:
    """Update derived quantities and check that the simulation is stable."""
    mujoco.mj_forward(self.model, self.data)
    unstable = any(self.data.warning[kind].number for kind in (
        mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC))
    if unstable or not np.isfinite(self.data.qpos).all():
      raise PhysicsError('the simulation became unstable.')

  def _geom_owners(self) -> list[str]:
    """Return the owner of each geom.

    It is an object's name, 'bowl', 'drawer', 'cabinet', 'table', 'left_finger', 'right_finger', 'arm' or ''.
    """
    owners = []
    for geom in range(self.model.ngeom):
      body = self.model.body(self.model.geom_bodyid[geom]).name
      if body in self.names or body in (DRAWER, 'left_finger', 'right_finger'):
        owners.append(body)
      elif body == 'room':
        owners.append(TABLE if self.model.geom(geom).name == TABLE else '')
      elif body == 'cabinet':
        owners.append('cabinet')
      else:
        owners.append('arm')
    return owners

  def _contacts(self) -> tuple[frozenset[str], set[str], dict[str, frozenset[str]]]:
    """Return contacts of the robot, of both fingers, and of each object."""
    by_part: dict[str, set[str]] = {'left_finger': set(), 'right_finger': set(), 'arm': set()}
    supports: dict[str, set[str]] = {name: set() for name in self.names}
    for first, second in self.data.contact.geom[:self.data.ncon]:
      one, other = self._owners[first], self._owners[second]
      for a, b in ((one, other), (other, one)):
        if a in by_part and b not in by_part:
          by_part[a].add(b)
        elif a in supports and b not in by_part:
          supports[a].add(b)
    touched = frozenset().union(*by_part.values()) - {''}
    return touched, by_part['left_finger'] & by_part['right_finger'], {
        name: frozenset(others) for name, others in supports.items()}
