"""Robot commands against hand calculations and identities of rotations."""
import numpy as np
import pytest

from rtjax import actions
from rtjax.policies import robots
from rtjax.policies.policy import PolicyOutput


def rt1(world=(0, 0, 0), rotation=(0, 0, 0), gripper=0.0, terminate=(0, 1, 0)):
  action = {'terminate_episode': terminate, 'world_vector': world, 'rotation_delta': rotation,
            'gripper_closedness_action': [gripper], 'base_displacement_vertical_rotation': [0.5],
            'base_displacement_vector': [0.5, 0.5]}
  return {name: np.asarray(value, np.float32) for name, value in action.items()}


def arm(translation=(0, 0, 0), rotation=(0, 0, 0), gripper=1.0):
  return {name: np.asarray(value, np.float32) for name, value in
          {'translation': translation, 'rotation': rotation, 'gripper': [gripper]}.items()}


def about(axis, angle):
  """Return the matrix of a rotation about x, y or z."""
  c, s = np.cos(angle), np.sin(angle)
  return {'x': np.array([[1, 0, 0], [0, c, -s], [0, s, c]]), 'y': np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
          'z': np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])}[axis]


def matrix(vector):
  """Return the rotation matrix of axis times angle (Rodrigues' formula)."""
  angle = np.linalg.norm(vector)
  if angle == 0:
    return np.eye(3)
  x, y, z = vector / angle
  cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
  return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@pytest.mark.parametrize('size', [1e-9, 1e-3, 0.25, 1.0, np.pi])
def test_axis_angle_is_the_same_rotation(size):
  for roll, pitch, yaw in np.random.default_rng(0).uniform(-size, size, (50, 3)):
    vector = robots.axis_angle(np.array([roll, pitch, yaw]))
    np.testing.assert_allclose(matrix(vector), about('z', yaw) @ about('y', pitch) @ about('x', roll), atol=1e-9)
    assert np.linalg.norm(vector) <= np.pi + 1e-9


def test_axis_angle_by_hand():
  np.testing.assert_array_equal(robots.axis_angle(np.zeros(3)), np.zeros(3))
  np.testing.assert_allclose(robots.axis_angle(np.array([0, -0.3, 0])), [0, -0.3, 0], atol=1e-15)
  # A quarter turn about x, then one about z, is a third of a turn about the cube's diagonal.
  np.testing.assert_allclose(robots.axis_angle(np.array([np.pi / 2, 0, np.pi / 2])),
                             2 * np.pi / 3 / np.sqrt(3) * np.ones(3), atol=1e-12)


@pytest.mark.parametrize('spec', [actions.RT1, actions.RT1_X])
def test_google_robot_takes_rt1_actions_unchanged(spec):
  robot = robots.get('google_robot', spec)
  action, terminate = robot(rt1((0.1, -0.2, 0.3), (0.3, 0.4, 0.5), -0.7))
  assert action.dtype == np.float32 and terminate is False
  np.testing.assert_array_equal(action, np.float32([0.1, -0.2, 0.3, 0.3, 0.4, 0.5, -0.7]))


def test_google_robot_small_actions():
  """The tokens nearest to zero are +-1/255 (gripper, metres) and +-pi/510 (radians, above the filter)."""
  raw = actions.RT1.detokenize(np.int32([1] + [127] * 3 + [128] * 3 + [128, 127, 127, 127]))
  given = actions.RT1.unpack(raw)
  robot = robots.GoogleRobot(actions.RT1)
  np.testing.assert_allclose(robot(given).action, [-1 / 255] * 3 + [np.pi / 510] * 3 + [0], rtol=1e-5)
  still = robots.GoogleRobot(actions.RT1, filter_motion=True)
  np.testing.assert_allclose(still(given).action, [0] * 3 + [np.pi / 510] * 3 + [0], rtol=1e-5)
  np.testing.assert_allclose(still(rt1((0.004, -0.004, 0.006), (0, -0.0049, -0.0051), 0.011)).action,
                             [0, 0, 0.006, 0, 0, -0.0051, 0.011], rtol=1e-6)


@pytest.mark.parametrize('name', ['google_robot', 'widowx'])
def test_terminate_is_the_first_class(name):
  robot = robots.get(name, actions.RT1)
  assert [robot(rt1(terminate=t)).terminate for t in np.eye(3)] == [True, False, False]
  assert robots.get(name, actions.ARM_7D)(arm()).terminate is False


def test_google_robot_repeats_a_large_change_of_the_opening():
  robot = robots.get('google_robot', actions.ARM_7D)
  openings = [1, 0.9, 0.1] + [0.1] * 13 + [1, 1, 0.1]

  def gripper():
    return [float(robot(arm((0.01, 0.02, -0.03), gripper=opening)).action[6]) for opening in openings]
  # No change at first; a tenth; closing by 0.8 for 15 steps, whatever the input; then the input's changes again.
  expected = [0, 0.1] + [0.8] * 15 + [0, 0.9]
  np.testing.assert_allclose(gripper(), expected, atol=1e-6)
  robot.reset()
  np.testing.assert_allclose(gripper(), expected, atol=1e-6)


def test_widowx_scales_rt1_back():
  robot = robots.get('widowx', actions.RT1_X)
  np.testing.assert_allclose(robot(rt1((1.75, -0.875, 2.0), (0, 0, 0.7), 1.0)).action,
                             [0.05, -0.025, 0.05, 0, 0, 0.125, -1], rtol=1e-6)
  np.testing.assert_allclose(robot(rt1(rotation=(-2, 0, 0), gripper=-0.01)).action,
                             [0, 0, 0, -0.25, 0, 0, 1], rtol=1e-6)
  turned = robot(rt1(rotation=(0.7, -1.4, 0.56))).action
  np.testing.assert_allclose(turned[3:6], robots.axis_angle(np.array([0.125, -0.25, 0.1])), rtol=1e-6)
  assert turned[6] == -1  # a change of 0 closes, as in SimplerEnv


def test_widowx_inverts_the_scaling_of_the_training_data():
  """Bridge's seven numbers come back, up to the 0.01 that the pipeline keeps from the bounds."""
  adapters = pytest.importorskip('rtjax.data.rlds.adapters')
  draw = np.random.default_rng(0)
  motion = np.concatenate([draw.uniform(-0.05, 0.05, (20, 3)), draw.uniform(-0.25, 0.25, (20, 3)),
                           draw.integers(0, 2, (20, 1))], -1).astype(np.float32)
  recorded = adapters.arm_action(motion, np.arange(20) == 19)
  by_rt1, by_arm = robots.get('widowx', actions.RT1_X), robots.get('widowx', actions.ARM_7D)
  for step in range(20):
    action = {name: value[step] for name, value in recorded.items()}
    one = by_rt1({name: action[name] for name in actions.RT1_X.names})
    other = by_arm({name: action[name] for name in actions.ARM_7D.names})
    np.testing.assert_allclose(one.action, other.action, atol=0.01 * 0.25 / 1.4 + 1e-6)
    assert one.terminate == (step == 19)
    assert other.action[6] == 2 * motion[step, 6] - 1


@pytest.mark.parametrize('robot', [robots.GoogleRobot, robots.WidowX])
def test_scale_multiplies_motion_only(robot):
  given = arm((0.01, 0.02, 0.03), (0.1, -0.2, 0.2))
  full, half = robot(actions.ARM_7D)(given).action, robot(actions.ARM_7D, scale=0.5)(given).action
  np.testing.assert_allclose(half, full * np.float32([0.5] * 6 + [1]), rtol=1e-6)


def test_takes_a_policy_output():
  given = arm((0.01, 0.02, 0.03))
  output = PolicyOutput(given, np.zeros(7), np.zeros((7, 256)), np.ones(7), np.zeros((1, 7)))
  np.testing.assert_array_equal(*(robots.get('widowx', actions.ARM_7D)(g).action for g in (given, output)))


def test_bad_input():
  with pytest.raises(ValueError, match=r"unknown robot 'windowx'.*Did you mean 'widowx'\?"):
    robots.get('windowx', actions.RT1)
  with pytest.raises(ValueError, match=r"'widowx' takes .*rt1_x or arm7d, this policy has \['wheels'\]"):
    robots.get('widowx', actions.ActionSpec((actions.ActionField('wheels', 2),)))
  with pytest.raises(ValueError, match='scale is 0'):
    robots.WidowX(actions.RT1, scale=0)
  with pytest.raises(ValueError, match='finite'):
    robots.WidowX(actions.ARM_7D)(arm((np.nan, 0, 0)))
  with pytest.raises(ValueError, match="lacks the field 'gripper'"):
    robots.WidowX(actions.ARM_7D)({'translation': np.zeros(3), 'rotation': np.zeros(3)})
