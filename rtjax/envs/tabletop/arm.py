"""Franka arm with a parallel gripper, and its inverse kinematics.

Joint frames and ranges are the Panda's (Denavit-Hartenberg parameters and limits of Franka's manual). The shapes are
capsules of this project, and so is the gripper, with longer fingers and a narrower hand. The gripper's pose is that of
the point between the fingertips (the site 'grip'), relative to pointing straight down with the fingers opening along y.
"""
import mujoco
import numpy as np

JOINTS = tuple(f'joint{i}' for i in range(1, 8))
HOME = np.array([0.0, 0.05, 0.0, -2.35, 0.0, 2.40, 0.785])
OPENING = 0.04
"""Travel of each finger from the middle, m."""
TIP = 0.012
"""Distance from the point between the fingertips to their ends, m."""

# Rotation of the site 'grip' at the gripper's zero rotation: its z axis points down, x forward.
DOWN = np.diag([1.0, -1.0, -1.0])

_RANGES = ((-2.8973, 2.8973), (-1.7628, 1.7628), (-2.8973, 2.8973), (-3.0718, -0.0698), (-2.8973, 2.8973),
           (-0.0175, 3.7525), (-2.8973, 2.8973))
# Joint frame in its parent: position, and rotation about x in quarter turns.
_FRAMES = (((0, 0, 0.333), 0), ((0, 0, 0), -1), ((0, -0.316, 0), 1), ((0.0825, 0, 0), 1), ((-0.0825, 0.384, 0), -1),
           ((0, 0, 0), 1), ((0.088, 0, 0), 1))
_Point = tuple[float, float, float]
# Capsules of each link (from, to, radius, dark), and the link's mass, kg.
_LINKS: tuple[tuple[list[tuple[_Point, _Point, float, bool]], float], ...] = (
    ([((0, 0, -0.17), (0, 0, -0.04), 0.058, False), ((0, -0.05, 0), (0, 0.05, 0), 0.060, True)], 0.9),
    ([((0, -0.02, 0), (0, -0.17, 0), 0.055, False)], 0.9),
    ([((0, 0, -0.12), (0, 0, -0.05), 0.055, False), ((0.01, 0, 0), (0.0825, 0, 0), 0.045, False),
      ((0.0825, -0.05, 0), (0.0825, 0.05, 0), 0.052, True)], 0.75),
    ([((0, 0.02, 0), (-0.0825, 0.10, 0), 0.045, False), ((-0.0825, 0.10, 0), (-0.0825, 0.15, 0), 0.047, False)], 0.75),
    ([((0, 0, -0.23), (0, 0, -0.06), 0.046, False), ((0, -0.045, 0), (0, 0.045, 0), 0.048, True)], 0.6),
    ([((0, 0, 0), (0.088, 0, 0), 0.042, False), ((0.088, 0.0, 0), (0.088, 0.03, 0), 0.044, False)], 0.45),
    ([((0, 0, 0.03), (0, 0, 0.068), 0.040, True)], 0.21),
)
_KP = (3000, 3000, 2400, 2400, 2000, 2000, 1600)


def body_xml() -> str:
  """Describe the arm as nested MJCF bodies."""
  xml, end = '', ''
  for i, ((position, quarter_turns), (capsules, mass), (low, high)) in enumerate(
      zip(_FRAMES, _LINKS, _RANGES, strict=True)):
    geoms = ''.join(
        f'<geom class="{"arm_dark" if dark else "arm"}" type="capsule" size="{radius}" '
        f'fromto="{" ".join(map(str, (*start, *stop)))}" mass="{mass / len(capsules)}"/>'
        for start, stop, radius, dark in capsules)
    xml += (f'<body name="link{i + 1}" pos="{" ".join(map(str, position))}" gravcomp="1" '
            f'euler="{quarter_turns * np.pi / 2} 0 0">'
            f'<joint name="{JOINTS[i]}" axis="0 0 1" range="{low} {high}" armature="0.4" damping="1"/>{geoms}')
    end += '</body>'
  base = ('<geom class="arm_dark" type="cylinder" size="0.085 0.02" pos="-0.02 0 0.02"/>'
          '<geom class="arm" type="capsule" size="0.062" fromto="0 0 0.06 0 0 0.15"/>')
  return f'<body name="base">{base}{xml}{_HAND}{end}</body>'


_FINGER = """
<body name="{name}" pos="0 0 0.055" gravcomp="1">
  <joint name="{name}" type="slide" axis="0 {side} 0" range="0 0.04" armature="0.05" damping="10"/>
  <geom class="finger" type="box" size="0.010 0.006 0.032" pos="0 {offset} 0.038" rgba="0.25 0.26 0.28 1" mass="0.05"/>
  <geom class="finger" type="box" size="0.009 0.005 0.012" pos="0 {offset} 0.071" rgba="0.10 0.10 0.11 1" mass="0.02"/>
</body>"""

_HAND = f"""
<body name="hand" pos="0 0 0.107" euler="0 0 -0.78539816" gravcomp="1">
  <geom class="hand" type="box" size="0.022 0.062 0.020" pos="0 0 0.020" mass="0.4"/>
  <geom class="hand_dark" type="box" size="0.018 0.055 0.008" pos="0 0 0.047" mass="0.1"/>
  <site name="grip" pos="0 0 0.126" size="0.003" group="4"/>
  <camera name="wrist" pos="0.085 0 0.010" xyaxes="0 1 0 0.94 0 0.34" fovy="70"/>
  {_FINGER.format(name='left_finger', side=1, offset=0.006)}
  {_FINGER.format(name='right_finger', side=-1, offset=-0.006)}
</body>"""

ACTUATORS_XML = ''.join(
    f'<position name="{name}" joint="{name}" kp="{kp}" dampratio="1" ctrlrange="{low} {high}" forcerange="-87 87"/>'
    for name, kp, (low, high) in zip(JOINTS, _KP, _RANGES, strict=True)) + (
        '<position name="gripper" joint="left_finger" kp="800" kv="40" ctrlrange="-0.02 0.04" forcerange="-25 25"/>')

EQUALITY_XML = '<joint joint1="right_finger" joint2="left_finger" polycoef="0 1 0 0 0" solref="0.005 1"/>'


class InverseKinematics:
  """Damped least squares from a gripper pose to joint angles.

  A pull towards the home pose acts in the null space of the gripper's pose: it moves the elbow, never the gripper.
  """

  def __init__(self, model: mujoco.MjModel, iterations: int = 12, damping: float = 0.03, pull: float = 0.05):
    self._model, self._data = model, mujoco.MjData(model)  # a copy: the simulation keeps its state
    self._iterations, self._damped, self._pull = iterations, damping ** 2 * np.eye(6), pull
    self._site = model.site('grip').id
    self._dof_addresses = [int(model.joint(name).dofadr[0]) for name in JOINTS]
    self._qpos_addresses = [int(model.joint(name).qposadr[0]) for name in JOINTS]
    self._low, self._high = model.jnt_range[[model.joint(name).id for name in JOINTS]].T
    self._jacobian = np.zeros((6, model.nv))

  def solve(self, start: np.ndarray, position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Compute joint angles [7] near `start` for a gripper pose.

    An unreachable pose gives the angles that come closest.

    Args:
      start: joint angles [7].
      position: [3], m.
      rotation: [3, 3], relative to pointing straight down.
    """
    angles = np.array(start, float)
    for _ in range(self._iterations):
      error = self._error(angles, position, rotation)
      if np.abs(error).max() < 1e-4:
        break
      jacobian = self._jacobian[:, self._dof_addresses]
      inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + self._damped)
      pull = self._pull * (HOME - angles)
      step = inverse @ error + pull - inverse @ (jacobian @ pull)
      angles = np.clip(angles + np.clip(step, -0.3, 0.3), self._low, self._high)
    return angles

  def pose(self, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the gripper's position [3] and rotation [3, 3] at joint angles [7]."""
    self._data.qpos[self._qpos_addresses] = angles
    mujoco.mj_kinematics(self._model, self._data)
    return (self._data.site_xpos[self._site].copy(),
            self._data.site_xmat[self._site].reshape(3, 3) @ DOWN.T)

  def _error(self, angles: np.ndarray, position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    current, current_rotation = self.pose(angles)
    mujoco.mj_comPos(self._model, self._data)
    mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._site)
    return np.concatenate([position - current, rotation_vector(rotation @ current_rotation.T)])


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
  """Convert a rotation matrix to axis times angle, radians."""
  quaternion, vector = np.zeros(4), np.zeros(3)
  mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(matrix, float).ravel())
  mujoco.mju_quat2Vel(vector, quaternion, 1.0)
  return vector


def rotation_matrix(vector: np.ndarray) -> np.ndarray:
  """Convert axis times angle (radians) to a rotation matrix."""
  angle = float(np.linalg.norm(vector))
  quaternion, matrix = np.zeros(4), np.zeros(9)
  mujoco.mju_axisAngle2Quat(quaternion, np.asarray(vector, float) / max(angle, 1e-12), angle)
  mujoco.mju_quat2Mat(matrix, quaternion)
  return matrix.reshape(3, 3)


def from_euler(angles: np.ndarray) -> np.ndarray:
  """Convert roll, pitch, yaw to a rotation matrix.

  The angles are radians about the fixed x, then y, then z axes.
  """
  x, y, z = (rotation_matrix(angle * axis) for angle, axis in zip(angles, np.eye(3), strict=True))
  return z @ y @ x


def to_euler(matrix: np.ndarray) -> np.ndarray:
  """Convert a rotation matrix to roll, pitch, yaw: the inverse of `from_euler`."""
  pitch = -np.arcsin(np.clip(matrix[2, 0], -1, 1))
  return np.array([np.arctan2(matrix[2, 1], matrix[2, 2]), pitch, np.arctan2(matrix[1, 0], matrix[0, 0])])
