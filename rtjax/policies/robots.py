"""What a robot is sent: a policy's action in the convention that SimplerEnv's robots, and with them ManiSkill2, take.

    command = robots.get('widowx', policy.config.action_spec)     once; reset() at the start of every episode
    command(output).action      float32 [7]: x y z (m), axis times angle (rad), gripper
    command(output).terminate   the policy says that it is done

Both presets read the fields of `rt1` and `rt1_x`, and those of `arm7d`. Which numbers mean what, from simpler-env/
SimplerEnv, policies/rt1/rt1_model.py (rt1) and policies/octo/octo_model.py (arm7d):

                google_robot                                  widowx
    rt1         metres; rotation_delta is axis times angle;   scaled down, roll pitch yaw, as the RT-1-X training
                gripper a change, 1 closes and -1 opens        data was scaled up; gripper a place, -1 closed 1 open
    arm7d       metres, roll pitch yaw; the gripper's          metres, roll pitch yaw; the gripper open above one half
                opening turned into a lasting change

`scale` multiplies motion, translation and rotation alike. `arm7d` has no field to say that it is done.
"""
import difflib
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.policies.action_filters import Action, action_of

if TYPE_CHECKING:
  from rtjax.policies.policy import PolicyOutput  # which imports JAX


class Command(NamedTuple):
  """What the robot is to do in one step.

  Attributes:
    action: float32 [7], see the module's docstring.
    terminate: whether the policy ends the episode.
  """
  action: np.ndarray
  terminate: bool


class Robot(Protocol):
  def reset(self) -> None:
    """Forgets the episode so far."""
  def __call__(self, given: 'PolicyOutput | Action') -> Command:
    """The command of one step, from a PolicyOutput or an action ({field: [size]})."""


class GoogleRobot:
  """The mobile manipulator of RT-1, its base standing still.

  The tokens around zero stand for numbers beside it (+-1/255 for 256 bins), so a policy cannot say exactly nothing.
  A gripper's change below 0.01 therefore counts as none.

  Args:
    spec: the policy's, with the fields of `rt1`, `rt1_x` or `arm7d`.
    scale: of motion.
    filter_motion: numbers of motion below 0.005 (m, rad) count as none too. Against creeping in place; SimplerEnv runs
      without it.
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
      translation, rotation = self._moved(action['world_vector']), self._moved(action['rotation_delta'])
      gripper = _without_small(action['gripper_closedness_action'], self._SMALL_GRIPPER)
    else:
      translation, rotation = self._moved(action['translation']), axis_angle(self._moved(action['rotation']))
      gripper = self._gripper(action['gripper'])
    return _command(translation * self._scale, rotation * self._scale, gripper, action)

  def _moved(self, motion: np.ndarray) -> np.ndarray:
    return _without_small(motion, self._SMALL_MOTION) if self._filter else motion


class WidowX:
  """The WidowX 250 of Bridge.

  Args:
    spec: the policy's, with the fields of `rt1`, `rt1_x` or `arm7d`.
    scale: of motion.
  """
  # What world_vector and rotation_delta of RT-1-X span for Bridge, and what that is in metres and radians.
  _TRAINED, _MEANT = (1.75, 1.4), (0.05, 0.25)

  def __init__(self, spec: ActionSpec, *, scale: float = 1.0):
    self._spec, self._scale = spec, _positive(scale)
    self._is_rt1 = _is_rt1('widowx', spec)

  def reset(self) -> None:
    pass

  def __call__(self, given: 'PolicyOutput | Action') -> Command:
    action = _checked(self._spec, given)
    if self._is_rt1:
      translation, rotation = (
          np.clip(action[name] / trained, -1, 1) * meant for name, trained, meant in
          zip(('world_vector', 'rotation_delta'), self._TRAINED, self._MEANT, strict=True))
      opens = -action['gripper_closedness_action'] > 0
    else:
      translation, rotation, opens = action['translation'], action['rotation'], action['gripper'] > 0.5
    return _command(translation * self._scale, axis_angle(rotation) * self._scale, np.where(opens, 1, -1), action)


ROBOTS = {'google_robot': GoogleRobot, 'widowx': WidowX}


def get(name: str, spec: ActionSpec) -> Robot:
  """The preset called `name`, one of `ROBOTS`, for a policy with this ActionSpec.

  Raises:
    ValueError: there is no such preset, or it cannot read the spec's fields.
  """
  if name not in ROBOTS:
    close = difflib.get_close_matches(name, ROBOTS, 1)
    raise ValueError(f'unknown robot {name!r}, expected one of {sorted(ROBOTS)}.'
                     + (f' Did you mean {close[0]!r}?' if close else ''))
  return ROBOTS[name](spec)


class StickyGripper:
  """An opening (1 open, 0 closed) as the change that the Google robot takes (1 closes, -1 opens).

  A change by more than half within one step is a decision, and is repeated for 15 steps, in which the slow gripper
  arrives; smaller changes go through as they are.
  """
  _CHANGE, _REPEAT = 0.5, 15

  def __init__(self) -> None:
    self.reset()

  def reset(self) -> None:
    self._opening: np.ndarray | None = None
    self._decision, self._left = np.zeros(1), 0

  def __call__(self, opening: np.ndarray) -> np.ndarray:
    change = np.zeros(1) if self._opening is None else self._opening - opening
    self._opening = opening
    if not self._left and abs(change[0]) > self._CHANGE:
      self._decision, self._left = change, self._REPEAT
    if not self._left:
      return change
    self._left -= 1
    return self._decision


def axis_angle(roll_pitch_yaw: np.ndarray) -> np.ndarray:
  """Rotations about the fixed axes x, then y, then z (rad) as one: axis times angle, float64 [3], angle at most pi."""
  half = np.asarray(roll_pitch_yaw, float) / 2
  (cx, cy, cz), (sx, sy, sz) = np.cos(half), np.sin(half)
  # The quaternion of z times that of y times that of x.
  real = cz * cy * cx + sz * sy * sx
  vector = np.array([cz * cy * sx - sz * sy * cx, cz * sy * cx + sz * cy * sx, sz * cy * cx - cz * sy * sx])
  if real < 0:  # The same rotation, the shorter way round.
    real, vector = -real, -vector
  length = np.linalg.norm(vector)
  return vector * (2 * np.arctan2(length, real) / length) if length else vector


def _is_rt1(name: str, spec: ActionSpec) -> bool:
  if spec.names not in (actions.RT1.names, actions.ARM_7D.names):
    raise ValueError(f'the robot {name!r} reads actions of rt1, rt1_x or arm7d, this policy gives {list(spec.names)}. '
                     'Write a function of your own; rtjax/policies/robots.py shows how short it is.')
  return spec.names == actions.RT1.names


def _checked(spec: ActionSpec, given: 'PolicyOutput | Action') -> Action:
  numbers = spec.pack(action_of(given)).astype(float)
  if numbers.shape != (spec.size,) or not np.isfinite(numbers).all():
    raise ValueError(f'action is {numbers}, expected {spec.size} finite numbers: one step of one robot.')
  return {name: np.asarray(value) for name, value in spec.unpack(numbers).items()}


def _command(translation: np.ndarray, rotation: np.ndarray, gripper: np.ndarray, action: Action) -> Command:
  # Class 0 of the three means: done (google-deepmind/open_x_embodiment, the RT-1-X colab).
  terminate = action.get('terminate_episode')
  return Command(np.concatenate([translation, rotation, gripper]).astype(np.float32),
                 terminate is not None and bool(terminate.argmax() == 0))


def _without_small(numbers: np.ndarray, small: float) -> np.ndarray:
  return np.where(np.abs(numbers) < small, 0, numbers)


def _positive(scale: float) -> float:
  if not 0 < scale < np.inf:
    raise ValueError(f'scale is {scale}, it must be above 0.')
  return scale
