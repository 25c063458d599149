"""Franka's kinematics and inverse kinematics."""
import numpy as np
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from rtjax.envs.tabletop import arm
from rtjax.envs.tabletop.scene import Appearance, Scene, build


@pytest.fixture(scope='module')
def kinematics():
  return arm.InverseKinematics(build(Scene((), None, 0.0, Appearance())))


# Modified Denavit-Hartenberg parameters of the Panda (a, d, alpha), from Franka's documentation.
DH = [(0, 0.333, 0), (0, 0, -np.pi / 2), (0, 0.316, np.pi / 2), (0.0825, 0, np.pi / 2), (-0.0825, 0.384, -np.pi / 2),
      (0, 0, np.pi / 2), (0.088, 0, np.pi / 2)]
FLANGE_TO_GRIP = 0.107 + 0.126


def denavit_hartenberg_pose(angles):
  total = np.eye(4)
  for (a, d, alpha), q in zip(DH, angles, strict=True):
    c, s, ca, sa = np.cos(q), np.sin(q), np.cos(alpha), np.sin(alpha)
    total = total @ np.array([
        [c, -s, 0, a], [s * ca, c * ca, -sa, -d * sa], [s * sa, c * sa, ca, d * ca], [0, 0, 0, 1]])
  return total


def test_franka_kinematics(kinematics):
  rng = np.random.default_rng(0)
  for _ in range(20):
    angles = arm.HOME + rng.uniform(-0.5, 0.5, 7)
    expected = denavit_hartenberg_pose(angles)
    position, rotation = kinematics.pose(angles)
    np.testing.assert_allclose(position, (expected @ [0, 0, FLANGE_TO_GRIP, 1])[:3], atol=1e-5)
    np.testing.assert_allclose((rotation @ arm.DOWN)[:, 2], expected[:3, 2], atol=1e-5)  # the hand's direction


def test_home_points_down(kinematics):
  np.testing.assert_allclose(kinematics.pose(arm.HOME)[1], np.eye(3), atol=1e-3)


def test_inverse_kinematics_reaches(kinematics):
  rng = np.random.default_rng(0)
  for _ in range(30):
    position = rng.uniform((0.36, -0.25, 0.02), (0.64, 0.2, 0.3))
    rotation = arm.from_euler(rng.uniform((-0.2, -0.2, -1), (0.2, 0.2, 1)))
    angles = arm.HOME
    for _ in range(5):
      angles = kinematics.solve(angles, position, rotation)
    reached, reached_rotation = kinematics.pose(angles)
    np.testing.assert_allclose(reached, position, atol=1e-3)
    assert np.linalg.norm(arm.rotation_vector(rotation @ reached_rotation.T)) < 5e-3


def test_null_space_pull_brings_the_elbow_back(kinematics):
  """The joints approach home while the gripper keeps its pose."""
  start = arm.HOME + np.array([0.5, 0, -0.5, 0, 0.3, 0, 0])
  position, rotation = kinematics.pose(start)
  angles = start
  for step in range(100):
    angles = kinematics.solve(angles, position + np.array([0, 0, 0.01 * (step % 2)]), rotation)
  np.testing.assert_allclose(kinematics.pose(angles)[0], position + np.array([0, 0, 0.01]), atol=1e-3)
  assert np.linalg.norm(angles - arm.HOME) < 0.4 * np.linalg.norm(start - arm.HOME)


def test_out_of_reach_stays_within_limits(kinematics):
  angles = kinematics.solve(arm.HOME, np.array([3.0, 0, 0.5]), np.eye(3))
  assert np.isfinite(angles).all() and np.all(np.abs(angles) < 3.8)


@pytest.mark.parametrize('angles', [(0.1, -0.2, 0.3), (0, 0, -1.2), (-0.25, 0.25, 0.25)])
def test_euler_angles_round_trip(angles):
  np.testing.assert_allclose(arm.to_euler(arm.from_euler(np.array(angles))), angles, atol=1e-9)


def test_euler_angles_turn_about_fixed_axes():
  rolled_then_yawed = arm.from_euler(np.array([np.pi / 2, 0, np.pi / 2]))
  np.testing.assert_allclose(rolled_then_yawed @ [0, 1, 0], [0, 0, 1], atol=1e-9)
  np.testing.assert_allclose(rolled_then_yawed @ [1, 0, 0], [0, 1, 0], atol=1e-9)
