"""Robot interfaces: actions as commands in SimplerEnv's and ManiSkill2's convention.

    robot = robots.get('widowx', policy.config.action_spec)     reset() at the start of every episode
    robot(output).action      float32 [7]: x y z (m), axis times angle (rad), gripper
    robot(output).terminate   whether the policy ends the episode

Both robots take the fields of `rt1` and `rt1_x`, and those of `arm7d`. The conventions are those of
simpler-env/SimplerEnv, policies/rt1/rt1_model.py (rt1) and policies/octo/octo_model.py (arm7d):

                google_robot                                  widowx
    rt1         metres; rotation_delta is axis times angle;   scaled back from the bounds of RT-1-X's training data,
                gripper a change, 1 closes and -1 opens       roll pitch yaw; gripper a position, -1 closed 1 open
    arm7d       metres, roll pitch yaw; a change of the       metres, roll pitch yaw; gripper open above one half
                gripper's opening is repeated

`scale` multiplies translation and rotation. `arm7d` has no field that ends the episode.
"""
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.policies.action_filters import Action, action_of
from rtjax.runtime.suggest import did_you_mean

if TYPE_CHECKING:
  from rtjax.policies.policy import PolicyOutput  # which imports JAX


class Command(NamedTuple):
  """Command of one step.

  Attributes:
    action: float32 [7], see the module's docstring.
    terminate: whether the policy ends the episode.
  """
  action: np.ndarray
  terminate: bool


class Robot(Protocol):
  """Converter of actions to the commands of one kind of robot."""
  def reset(self) -> None:
    """Begin an episode."""
  def __call__(self, given: 'PolicyOutput | Action') -> Command:
    """Return the command of one step, from a PolicyOutput or an action."""


class GoogleRobot:
  """The mobile manipulator of RT-1, with a fixed base.

  No token stands for exactly zero (the nearest are +-1/255 for 256 bins), so a gripper change below 0.01 is set to
  zero.

  Args:
    spec: the policy's, with the fields of `rt1`, `rt1_x` or `arm7d`.
    scale: factor of the motion.
    filter_motion: also set motion below 0.005 (m, rad) to zero, against creeping in place; SimplerEnv does not.
  """
  _SMALL_GRIPPER, _SMALL_MOTION = 1e-2, 5e-3

  def __init__(self, spec: ActionSpec, *, scale: float = 1.0, filter_motion: bool = False):
    self._spec, self._scale, self._filter = spec, _positive(scale), filter_motion
    self._is_rt1 = _is_rt1('google_robot', spec)
    self._gripper = StickyGripper()

  def reset(self) -> None:
    self._gripper.reset()

  def __call__(self, given: 'PolicyOutput | Action') -> Command:
    action = _checked(self._spec, given)
    if self._is_rt1:
      translation, rotation = self._motion(action['world_vector']), self._motion(action['rotation_delta'])
      gripper = _zero_small(action['gripper_closedness_action'], self._SMALL_GRIPPER)
    else:
      translation, rotation = self._motion(action['translation']), axis_angle(self._motion(action['rotation']))
      gripper = self._gripper(action['gripper'])
    return _command(translation * self._scale, rotation * self._scale, gripper, action)

  def _motion(self, motion: np.ndarray) -> np.ndarray:
    return _zero_small(motion, self._SMALL_MOTION) if self._filter else motion


class WidowX:
  """The WidowX 250 of Bridge.

  Args:
    spec: the policy's, with the fields of `rt1`, `rt1_x` or `arm7d`.
    scale: factor of the motion.
  """
  # Bounds of world_vector and rotation_delta in RT-1-X's data for Bridge, and the same in metres and radians.
  _DATA_BOUNDS, _ROBOT_BOUNDS = (1.75, 1.4), (0.05, 0.25)

  def __init__(self, spec: ActionSpec, *, scale: float = 1.0):
    self._spec, self._scale = spec, _positive(scale)
    self._is_rt1 = _is_rt1('widowx', spec)

  def reset(self) -> None:
    pass

  def __call__(self, given: 'PolicyOutput | Action') -> Command:
    action = _checked(self._spec, given)
    if self._is_rt1:
      translation, rotation = (
          np.clip(action[name] / data, -1, 1) * robot for name, data, robot in
          zip(('world_vector', 'rotation_delta'), self._DATA_BOUNDS, self._ROBOT_BOUNDS, strict=True))
      opens = -action['gripper_closedness_action'] > 0
    else:
      translation, rotation, opens = action['translation'], action['rotation'], action['gripper'] > 0.5
    return _command(translation * self._scale, axis_angle(rotation) * self._scale, np.where(opens, 1, -1), action)


ROBOTS = {'google_robot': GoogleRobot, 'widowx': WidowX}


def get(name: str, spec: ActionSpec) -> Robot:
  """Return the robot called `name` for a policy with this ActionSpec.

  Raises:
    ValueError: the name is unknown, or the robot does not take the spec's fields.
  """
  if name not in ROBOTS:
    raise ValueError(f'unknown robot {name!r}, expected one of {sorted(ROBOTS)}.{did_you_mean(name, ROBOTS)}')
  return ROBOTS[name](spec)


class StickyGripper:
  """Converter of a gripper opening to the Google robot's gripper command.

  An opening of 1 is open, 0 closed; a command of 1 closes, -1 opens.

  A change by more than half in one step is repeated for 15 steps, until the slow gripper has arrived; smaller changes
  pass unchanged.
  """
  _THRESHOLD, _REPEAT = 0.5, 15

  def __init__(self) -> None:
    self.reset()

  def reset(self) -> None:
    self._opening: np.ndarray | None = None
    self._repeated, self._steps_left = np.zeros(1), 0

  def __call__(self, opening: np.ndarray) -> np.ndarray:
    change = np.zeros(1) if self._opening is None else self._opening - opening
    self._opening = opening
    if not self._steps_left and abs(change[0]) > self._THRESHOLD:
      self._repeated, self._steps_left = change, self._REPEAT
    if not self._steps_left:
      return change
    self._steps_left -= 1
    return self._repeated


def axis_angle(roll_pitch_yaw: np.ndarray) -> np.ndarray:
  """Convert rotations about fixed x, y, z (rad) to axis times angle.

  Args:
    roll_pitch_yaw: applied in this order.

  Returns:
    float64 [3], the angle at most pi.
  """
  half = np.asarray(roll_pitch_yaw, float) / 2
  (cx, cy, cz), (sx, sy, sz) = np.cos(half), np.sin(half)
  # Quaternion product z y x.
  real = cz * cy * cx + sz * sy * sx
  vector = np.array([cz * cy * sx - sz * sy * cx, cz * sy * cx + sz * cy * sx, sz * cy * cx - cz * sy * sx])
  if real < 0:  # the same rotation with an angle below pi
    real, vector = -real, -vector
  length = np.linalg.norm(vector)
  return vector * (2 * np.arctan2(length, real) / length) if length else vector


def _is_rt1(name: str, spec: ActionSpec) -> bool:
  if spec.names not in (actions.RT1.names, actions.ARM_7D.names):
    raise ValueError(f'the robot {name!r} takes the actions rt1, rt1_x or arm7d, this policy has {list(spec.names)}. '
                     'Write a converter like those in rtjax/policies/robots.py.')
  return spec.names == actions.RT1.names


def _checked(spec: ActionSpec, given: 'PolicyOutput | Action') -> Action:
  numbers = spec.pack(action_of(given)).astype(float)
  if numbers.shape != (spec.size,) or not np.isfinite(numbers).all():
    raise ValueError(f'action is {numbers}, expected {spec.size} finite numbers: one step of one robot.')
  return {name: np.asarray(value) for name, value in spec.unpack(numbers).items()}


def _command(translation: np.ndarray, rotation: np.ndarray, gripper: np.ndarray, action: Action) -> Command:
  # Class 0 of the three ends the episode (google-deepmind/open_x_embodiment, the RT-1-X colab).
  terminate = action.get('terminate_episode')
  return Command(np.concatenate([translation, rotation, gripper]).astype(np.float32),
                 terminate is not None and bool(terminate.argmax() == 0))


def _zero_small(numbers: np.ndarray, threshold: float) -> np.ndarray:
  return np.where(np.abs(numbers) < threshold, 0, numbers)


def _positive(scale: float) -> float:
  if not 0 < scale < np.inf:
    raise ValueError(f'scale is {scale}, it must be above 0.')
  return scale
