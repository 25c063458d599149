"""Between a policy and a robot: filters for actions that jitter, limits for those that jump, doubt about those unsure.

    PolicyOutput -> Confidence -> Ensemble -> Average -> GripperHysteresis -> Limit -> action
                    in doubt: held, stopped, or your own action, past the filters

All are off until chosen: `Smoothing(spec)` gives the policy's action unchanged. Each works alone too: made from an
ActionSpec, `reset()` at the start of every episode, then called once per step with a PolicyOutput or an action
({field: [size]}), giving an action.

Filters act on the continuous numbers. Two kinds of field pass through them as the policy gave them last, because a
mean is none of their values: classes (half terminated is nothing), and grippers, the fields with 'gripper' in their
name (half closed drops things). `GripperHysteresis` is for the latter. The numbers are taken as changes of pose, in the
units of the spec; rotations that small add up like vectors.
"""
import collections
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rtjax.actions import ActionField, ActionSpec

if TYPE_CHECKING:
  from rtjax.policies.policy import PolicyOutput  # which imports JAX

Action = dict[str, np.ndarray]


class LowConfidence(RuntimeError):
  """The policy is too unsure to go on, and `Confidence` was told to stop then."""


class Smoothing:
  """All of the below in their fixed order; what is None is off.

  An action given in doubt goes to the robot at once, past the filters, and they start anew: a held robot neither coasts
  nor jumps, since `Limit` goes on from the held action.
  """

  def __init__(self, spec: ActionSpec, *, confidence: 'Confidence | None' = None, ensemble: 'Ensemble | None' = None,
               average: 'Average | None' = None, gripper: 'GripperHysteresis | None' = None,
               limit: 'Limit | None' = None):
    self.spec, self._confidence, self._limit = spec, confidence, limit
    self._filters: list[Any] = [f for f in (ensemble, average, gripper, limit) if f is not None]
    for stage in (confidence, *self._filters):
      if stage is not None and stage.spec != spec:
        raise ValueError(f'{type(stage).__name__} was made for an ActionSpec with {list(stage.spec.names)}, Smoothing '
                         f"for one with {list(spec.names)}, or their bounds differ. Give all the policy's own.")

  def reset(self) -> None:
    """Forgets the episode so far."""
    for stage in (self._confidence, *self._filters):
      if stage is not None:
        stage.reset()

  def __call__(self, output: 'PolicyOutput') -> Action:
    """The action to take. Raises what the stages raise."""
    if self._confidence is not None:
      instead = self._confidence.instead(output)
      if instead is not None:
        for stage in self._filters:
          stage.reset()
        if self._limit is not None:
          self._limit(instead)
        return instead
    given: PolicyOutput | Action = output
    for stage in self._filters:
      given = stage(given)
    return action_of(given)


class Ensemble:
  """The mean of all predictions for this step: the newest plan's, and those that earlier plans made for it.

  Needs a policy with an action horizon F above 1; up to F predictions overlap. The i-th weighs exp(-m i), counted from
  the oldest (ACT, Zhao et al. 2023, section 4.2, with m = 0.01), or from the newest where `newest_first`.

  Helps where neighbouring plans disagree, which makes an arm tremble. Hurts where the scene changes, since old plans
  have not seen it (then newest_first, m near 1), and where the policy hesitates between two ways: their mean is
  neither.
  """

  def __init__(self, spec: ActionSpec, m: float = 0.01, *, newest_first: bool = False):
    if not 0 <= m < np.inf:
      raise ValueError(f'm is {m}, it must be at least 0: 0 weighs all predictions alike.')
    self.spec, self._m, self._newest_first = spec, m, newest_first
    self.reset()

  def reset(self) -> None:
    self._plans: collections.deque[np.ndarray] = collections.deque()  # the newest first

  def __call__(self, output: 'PolicyOutput') -> Action:
    plan = np.asarray(getattr(output, 'plan', None), np.float32)
    if plan.ndim != 2 or plan.shape[-1] != self.spec.size:
      raise ValueError(f'Ensemble got {type(output).__name__} with a plan of shape {plan.shape}, expected a '
                       f'PolicyOutput with plan [F, {self.spec.size}]. It comes first, right behind the policy.')
    if len(plan) < 2:
      raise ValueError('Ensemble needs a policy with an action horizon above 1, this one plans a single step. Use '
                       'Average, or train with --model.horizon 4.')
    _finite(self.spec, plan)
    self._plans.appendleft(plan)
    while len(self._plans) > len(plan):
      self._plans.pop()
    predictions = np.stack([p[age] for age, p in enumerate(self._plans)])  # [up to F, A], the newest first
    if not self._newest_first:
      predictions = predictions[::-1]
    weights = np.exp(-self._m * np.arange(len(predictions)))
    return _merge(self.spec, plan[0], weights @ predictions / weights.sum())


class Average:
  """Exponential moving average: `y += alpha (x - y)`, from the first action on.

  Helps against noise from step to step. Hurts by lag: a step in the input is followed after about 1 / alpha steps, so
  grasps come late and the robot overshoots what it approaches. Above 0.5 it is hardly felt, below 0.2 rarely usable.
  """

  def __init__(self, spec: ActionSpec, alpha: float = 0.5):
    if not 0 < alpha <= 1:
      raise ValueError(f'alpha is {alpha}, it must be above 0 and at most 1; 1 changes nothing, smaller is smoother.')
    self.spec, self._alpha = spec, alpha
    self.reset()

  def reset(self) -> None:
    self._mean: np.ndarray | None = None

  def __call__(self, given: 'PolicyOutput | Action') -> Action:
    numbers = _numbers(self.spec, given)
    self._mean = numbers if self._mean is None else self._mean + self._alpha * (numbers - self._mean)
    return _merge(self.spec, numbers, self._mean)


class GripperHysteresis:
  """Makes each gripper number one of its two bounds, and changes it only when the policy clearly asks for it.

  It changes beyond `margin` on the other side of the middle, as a fraction of half the range: with 0.5 and bounds 0
  and 1, above 0.75 and below 0.25. The first number takes the bound that is nearer.

  Helps where a gripper flutters around its middle and lets go. Hurts where half-open is meant, and where the number is
  a speed (Google robot) whose 0 means stay: the gripper then presses on, which that one allows.
  """

  def __init__(self, spec: ActionSpec, margin: float = 0.5):
    if not 0 <= margin < 1:
      raise ValueError(f'margin is {margin}, it must be at least 0 and below 1.')
    self.spec = spec
    self._fields = [f for f in spec.fields if _is_gripper(f)]
    if not self._fields:
      raise ValueError(f"GripperHysteresis: no field of {list(spec.names)} has 'gripper' in its name.")
    self._margin = margin
    self.reset()

  def reset(self) -> None:
    self._high: dict[str, np.ndarray] = {}

  def __call__(self, given: 'PolicyOutput | Action') -> Action:
    action = _unpack(self.spec, _numbers(self.spec, given))
    for f in self._fields:
      low, high = np.asarray(f.low, np.float32), np.asarray(f.high, np.float32)
      place = (action[f.name] - low) / (high - low) * 2 - 1  # -1 at the low bound, 1 at the high one
      was_high = self._high.get(f.name, place > 0)
      self._high[f.name] = np.where(was_high, place > -self._margin, place > self._margin)
      action[f.name] = np.where(self._high[f.name], high, low)
    return action


class Limit:
  """A PID controller that follows the action and changes by at most `rate` a step, within the spec's bounds.

      change = kp error + ki sum(errors) + kd (error - previous error), cut to +-rate

  Gains as given follow at once up to the rate: a plain rate limiter. The first action passes as it is. Errors are not
  summed while the change is cut, so that the sum does not wind up.

  Helps against single jumps, which trip a robot's own limits. Hurts by lag while it catches up, and with ki or kd
  by overshoot: lower kp first, and try them last.

  Args:
    rate: largest change of a number per step, as a fraction of its range (high - low).
  """

  def __init__(self, spec: ActionSpec, rate: float = 0.1, *, kp: float = 1.0, ki: float = 0.0, kd: float = 0.0):
    if not 0 < rate <= 1:
      raise ValueError(f'rate is {rate}, it must be above 0 and at most 1, the whole range in one step.')
    if not 0 < kp <= 1 or min(ki, kd) < 0:
      raise ValueError(f'kp, ki, kd are {kp}, {ki}, {kd}; kp must be above 0 and at most 1, ki and kd at least 0.')
    self.spec, self._gains = spec, (kp, ki, kd)
    self._low, self._high = (np.concatenate([getattr(f, end) for f in spec.fields]) for end in ('low', 'high'))
    self._rate = rate * (self._high - self._low)
    self.reset()

  def reset(self) -> None:
    self._at: np.ndarray | None = None
    self._sum = self._previous = np.zeros(self.spec.size)

  def __call__(self, given: 'PolicyOutput | Action') -> Action:
    numbers = _numbers(self.spec, given)
    target = np.clip(numbers, self._low, self._high)
    if self._at is None:
      self._at = target
    kp, ki, kd = self._gains
    error = target - self._at
    change = kp * error + ki * (self._sum + error) + kd * (error - self._previous)
    self._sum = np.where(np.abs(change) > self._rate, self._sum, self._sum + error)
    self._previous = error
    self._at = np.clip(self._at + np.clip(change, -self._rate, self._rate), self._low, self._high)
    return _merge(self.spec, numbers, self._at)


class Confidence:
  """What to do where the policy is unsure: where the mean probability of its tokens is below `threshold`.

  - 'hold': no motion in this step; gripper and classes stay as last trusted (the policy's own, before any).
  - 'stop': raises LowConfidence, now and in every further step until `reset`.
  - a function: gets the PolicyOutput, returns the action to take instead; it may ask a person.

  Helps where the policy sees what it was never trained on. Hurts where it is rightly unsure: between two ways around an
  obstacle, or in bins so fine that the probability is spread over neighbours. The right threshold differs between
  policies: note the mean of `output.confidence` in episodes that go well, and start from their 5th percentile. A held
  robot sees the same picture again and may be unsure for ever: count the steps, and ask someone.
  """

  def __init__(self, spec: ActionSpec, threshold: float,
               action: Literal['hold', 'stop'] | Callable[['PolicyOutput'], Action] = 'hold'):
    if not 0 <= threshold <= 1:
      raise ValueError(f'threshold is {threshold}, it must be a probability, from 0 (never) to 1.')
    if not callable(action) and action not in ('hold', 'stop'):
      raise ValueError(f"action is {action!r}, expected 'hold', 'stop' or a function.")
    if action == 'hold' and not _moves(spec)[_smoothed(spec)].all():
      raise ValueError('hold means zero motion, and the bounds of this ActionSpec leave out 0: its numbers are no '
                       "changes of pose. Choose 'stop' or a function.")
    self.spec, self._threshold, self._do = spec, threshold, action
    self.reset()

  def reset(self) -> None:
    self._trusted: np.ndarray | None = None
    self._stopped = False

  def __call__(self, output: 'PolicyOutput') -> Action:
    """The policy's action, or the one to take instead."""
    instead = self.instead(output)
    return action_of(output) if instead is None else instead

  def instead(self, output: 'PolicyOutput') -> Action | None:
    """None if the policy is sure enough, else the action to take in place of its own.

    Raises:
      LowConfidence: it is not, and `action` is 'stop'.
    """
    mean = float(np.mean(output.confidence))
    numbers = _numbers(self.spec, output)
    if mean >= self._threshold and not self._stopped:
      self._trusted = numbers
      return None
    if self._do == 'stop':
      self._stopped = True
      raise LowConfidence(f'the policy is sure to {mean:.2f}, the threshold is {self._threshold}. Stop the robot; '
                          'reset() starts anew.')
    if callable(self._do):
      return _unpack(self.spec, _numbers(self.spec, self._do(output)))
    kept = numbers if self._trusted is None else self._trusted
    return _merge(self.spec, kept, np.zeros(self.spec.size))


def _is_gripper(field: ActionField) -> bool:
  return field.kind == 'continuous' and 'gripper' in field.name


def _smoothed(spec: ActionSpec) -> np.ndarray:
  """bool [A]: the numbers that filters act on."""
  return np.repeat([f.kind == 'continuous' and not _is_gripper(f) for f in spec.fields], [f.size for f in spec.fields])


def _moves(spec: ActionSpec) -> np.ndarray:
  """bool [A]: the numbers that can be zero."""
  return np.concatenate([np.less_equal(f.low, 0) & np.greater_equal(f.high, 0) for f in spec.fields])


def action_of(given: 'PolicyOutput | Action') -> Action:
  return dict(given) if isinstance(given, Mapping) else given.action


def _numbers(spec: ActionSpec, given: 'PolicyOutput | Action') -> np.ndarray:
  """float64 [A]: a filter's state is kept as precisely, so that rounding does not add up."""
  numbers = spec.pack(action_of(given))
  if numbers.shape != (spec.size,):
    raise ValueError(f'action has shape {numbers.shape}, expected ({spec.size},): one step of one robot.')
  _finite(spec, numbers)
  return numbers.astype(np.float64)


def _finite(spec: ActionSpec, numbers: np.ndarray) -> None:
  if not np.isfinite(numbers).all():
    bad = sorted({spec.number_names[place[-1]] for place in np.argwhere(~np.isfinite(numbers))})
    raise ValueError(f'action holds NaN or infinite numbers in {bad}; a filter would never forget them.')


def _merge(spec: ActionSpec, given: np.ndarray, filtered: np.ndarray) -> Action:
  """The filtered numbers, with classes and grippers as given."""
  return _unpack(spec, np.where(_smoothed(spec), filtered, given))


def _unpack(spec: ActionSpec, numbers: np.ndarray) -> Action:
  return {name: np.asarray(value) for name, value in spec.unpack(numbers.astype(np.float32)).items()}
