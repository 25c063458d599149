"""Action filters against jitter, jumps, and actions of low confidence.

    PolicyOutput -> ConfidenceGate -> TemporalEnsemble -> ExponentialSmoothing -> GripperHysteresis -> RateLimiter
                    low confidence: hold, stop, or another action, which skips the other filters

All are off by default: `ActionFilters(spec)` returns the policy's action unchanged. Each also works alone: it is made
from an ActionSpec, reset at the start of every episode, and then called once per step with a PolicyOutput or an action
({field: [size]}). It returns an action.

Filters act on continuous numbers, taken as changes of pose in the units of the spec; rotations that small add up like
vectors. Two kinds of fields keep the policy's newest values, because a mean is no valid value of theirs: classes, and
grippers, which are the fields with 'gripper' in their name. `GripperHysteresis` filters the latter.
"""
import collections
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from rtjax.actions import ActionField, ActionSpec

if TYPE_CHECKING:
  from rtjax.policies.policy import PolicyOutput  # which imports JAX

Action = dict[str, np.ndarray]


class LowConfidence(RuntimeError):
  """The confidence fell below the threshold of a `ConfidenceGate` with action 'stop'."""


class ActionFilter(Protocol):
  """One filter; it keeps state from step to step of an episode."""
  spec: ActionSpec

  def reset(self) -> None:
    """Begin an episode."""
  def __call__(self, given: 'PolicyOutput | Action') -> Action:
    """Return the filtered action of one step."""


class ActionFilters:
  """Pipeline of the filters below in fixed order; None is off.

  An action that the confidence gate puts in place of the policy's skips the other filters and resets them. The rate
  limiter continues from it, so that a held robot neither coasts nor jumps.
  """

  def __init__(self, spec: ActionSpec, *, confidence: 'ConfidenceGate | None' = None,
               ensemble: 'TemporalEnsemble | None' = None, smoothing: 'ExponentialSmoothing | None' = None,
               gripper: 'GripperHysteresis | None' = None, rate_limiter: 'RateLimiter | None' = None):
    self.spec, self._confidence, self._rate_limiter = spec, confidence, rate_limiter
    self._filters: list[ActionFilter] = [f for f in (ensemble, smoothing, gripper, rate_limiter) if f is not None]
    for part in (confidence, *self._filters):
      if part is not None and part.spec != spec:
        raise ValueError(f'{type(part).__name__} was made for an ActionSpec with {list(part.spec.names)}, '
                         f'ActionFilters for one with {list(spec.names)}, or their bounds differ. Pass the '
                         "policy's spec to all.")

  def reset(self) -> None:
    """Begin an episode."""
    for part in (self._confidence, *self._filters):
      if part is not None:
        part.reset()

  def __call__(self, output: 'PolicyOutput') -> Action:
    """Return the action to take. Raises what the filters raise."""
    replacement = None if self._confidence is None else self._confidence.replacement(output)
    if replacement is not None:
      for part in self._filters:
        part.reset()
      if self._rate_limiter is not None:
        self._rate_limiter(replacement)
      return replacement
    given: PolicyOutput | Action = output
    for part in self._filters:
      given = part(given)
    return action_of(given)


class TemporalEnsemble:
  """Weighted mean of the newest and earlier plans' predictions for this step.

  Needs a policy with an action horizon F above 1; up to F predictions overlap. The i-th has weight exp(-m i), counted
  from the oldest (ACT, Zhao et al. 2023, section 4.2, with m = 0.01), or from the newest where `newest_first`.

  Helps where consecutive plans disagree, which makes an arm tremble. Hurts where the scene changes, since old plans do
  not know it (use newest_first and m near 1), and where the policy alternates between two ways, whose mean is neither.
  """

  def __init__(self, spec: ActionSpec, m: float = 0.01, *, newest_first: bool = False):
    if not 0 <= m < np.inf:
      raise ValueError(f'm is {m}, it must be at least 0: 0 gives all predictions the same weight.')
    self.spec, self._m, self._newest_first = spec, m, newest_first
    self.reset()

  def reset(self) -> None:
    self._plans: collections.deque[np.ndarray] = collections.deque()  # the newest first

  def __call__(self, given: 'PolicyOutput | Action') -> Action:
    plan = np.asarray(None if isinstance(given, Mapping) else given.plan, np.float32)
    if plan.ndim != 2 or plan.shape[-1] != self.spec.size:
      raise ValueError(f'TemporalEnsemble got {type(given).__name__} with a plan of shape {plan.shape}, expected a '
                       f'PolicyOutput with plan [F, {self.spec.size}]. Put it first, directly after the policy.')
    if len(plan) < 2:
      raise ValueError('TemporalEnsemble needs a policy with an action horizon above 1, this one plans a single step. '
                       'Use ExponentialSmoothing, or train with --model.horizon 4.')
    _check_finite(self.spec, plan)
    self._plans.appendleft(plan)
    while len(self._plans) > len(plan):
      self._plans.pop()
    predictions = np.stack([p[age] for age, p in enumerate(self._plans)])  # [up to F, A], the newest first
    if not self._newest_first:
      predictions = predictions[::-1]
    weights = np.exp(-self._m * np.arange(len(predictions)))
    return _merge(self.spec, plan[0], weights @ predictions / weights.sum())


class ExponentialSmoothing:
  """Exponential moving average of the actions: `y += alpha (x - y)`.

  Helps against noise from step to step. Hurts by lag: a change of the input is followed after about 1 / alpha steps, so
  grasps come late and the robot overshoots. Above 0.5 the effect is small, below 0.2 rarely usable.
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
  """Binary gripper that switches only on a clear command.

  Each gripper number takes one of its bounds.

  It switches when the number is beyond `margin` on the other side of the middle, as a fraction of half the range: with
  0.5 and bounds 0 and 1, above 0.75 and below 0.25. The first number takes the nearer bound.

  Helps where a gripper command flutters around its middle and drops objects. Hurts where half-open is intended, and
  where the number is a speed (Google robot) with 0 for no motion: the gripper then keeps pressing, which that robot
  tolerates.
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
      position = (action[f.name] - low) / (high - low) * 2 - 1  # -1 at the low bound, 1 at the high one
      was_high = self._high.get(f.name, position > 0)
      self._high[f.name] = np.where(was_high, position > -self._margin, position > self._margin)
      action[f.name] = np.where(self._high[f.name], high, low)
    return action


class RateLimiter:
  """PID controller that follows the action by at most `rate` per step.

      change = kp error + ki sum(errors) + kd (error - previous error), clipped to +-rate

  The default gains make it a plain rate limiter. The first action passes unchanged. Errors are not summed while the
  change is clipped, so that the sum does not wind up.

  Helps against single jumps, which trip a robot's own limits. Hurts by lag while it catches up, and with ki or kd by
  overshoot: lower kp first, and try them last.

  Args:
    rate: largest change of a number per step, as a fraction of its range (high - low).
  """

  def __init__(self, spec: ActionSpec, rate: float = 0.1, *, kp: float = 1.0, ki: float = 0.0, kd: float = 0.0):
    if not 0 < rate <= 1:
      raise ValueError(f'rate is {rate}, it must be above 0 and at most 1, the full range in one step.')
    if not 0 < kp <= 1 or min(ki, kd) < 0:
      raise ValueError(f'kp, ki, kd are {kp}, {ki}, {kd}; kp must be above 0 and at most 1, ki and kd at least 0.')
    self.spec, self._gains = spec, (kp, ki, kd)
    self._low, self._high = spec.bounds
    self._rate = rate * (self._high - self._low)
    self.reset()

  def reset(self) -> None:
    self._position: np.ndarray | None = None
    self._sum = self._previous = np.zeros(self.spec.size)

  def __call__(self, given: 'PolicyOutput | Action') -> Action:
    numbers = _numbers(self.spec, given)
    target = np.clip(numbers, self._low, self._high)
    if self._position is None:
      self._position = target
    kp, ki, kd = self._gains
    error = target - self._position
    change = kp * error + ki * (self._sum + error) + kd * (error - self._previous)
    self._sum = np.where(np.abs(change) > self._rate, self._sum, self._sum + error)
    self._previous = error
    self._position = np.clip(self._position + np.clip(change, -self._rate, self._rate), self._low, self._high)
    return _merge(self.spec, numbers, self._position)


class ConfidenceGate:
  """Replacement of actions whose mean token probability is below `threshold`.

  Helps on inputs unlike the training data. Hurts where several actions are equally right: between two ways around an
  obstacle, or in bins so fine that neighbours share the probability. The best threshold differs between policies:
  record the mean of `output.confidence` in successful episodes, and start from its 5th percentile. A held robot gets
  the same
  image again and may stay below the threshold: count the steps, and call an operator.

  Args:
    action: 'hold': no motion in this step; gripper and classes keep the last confident values (the policy's own before
      there are any). 'stop': raise LowConfidence, in this and every further step until `reset`. A function: gets the
      PolicyOutput and returns the action to take; it may ask an operator.
  """

  def __init__(self, spec: ActionSpec, threshold: float,
               action: Literal['hold', 'stop'] | Callable[['PolicyOutput'], Action] = 'hold'):
    if not 0 <= threshold <= 1:
      raise ValueError(f'threshold is {threshold}, it must be a probability, from 0 (never) to 1.')
    if not callable(action) and action not in ('hold', 'stop'):
      raise ValueError(f"action is {action!r}, expected 'hold', 'stop' or a function.")
    if action == 'hold' and not _can_be_zero(spec)[_is_filtered(spec)].all():
      raise ValueError("action is 'hold', which means zero motion, but the bounds of this ActionSpec exclude 0: its "
                       "numbers are no changes of pose. Choose 'stop' or a function.")
    self.spec, self._threshold, self._action = spec, threshold, action
    self.reset()

  def reset(self) -> None:
    self._confident: np.ndarray | None = None  # the last action above the threshold
    self._stopped = False

  def __call__(self, output: 'PolicyOutput') -> Action:
    """Return the policy's action, or its replacement. Raises LowConfidence, see `replacement`."""
    replacement = self.replacement(output)
    return action_of(output) if replacement is None else replacement

  def replacement(self, output: 'PolicyOutput') -> Action | None:
    """Return the action to take instead; None at sufficient confidence.

    Raises:
      LowConfidence: the confidence is too low, now or in an earlier step, and `action` is 'stop'.
    """
    mean = float(np.mean(output.confidence))
    numbers = _numbers(self.spec, output)
    if mean >= self._threshold and not self._stopped:
      self._confident = numbers
      return None
    if self._action == 'stop':
      self._stopped = True
      raise LowConfidence(f'the confidence of the policy is {mean:.2f}, the threshold is {self._threshold}. Stop the '
                          'robot; call reset() to start again.')
    if callable(self._action):
      return _unpack(self.spec, _numbers(self.spec, self._action(output)))
    kept = numbers if self._confident is None else self._confident
    return _merge(self.spec, kept, np.zeros(self.spec.size))


def action_of(given: 'PolicyOutput | Action') -> Action:
  """Return the action of a PolicyOutput, or a copy of an action."""
  return dict(given) if isinstance(given, Mapping) else given.action


def _is_gripper(field: ActionField) -> bool:
  return field.kind == 'continuous' and 'gripper' in field.name


def _is_filtered(spec: ActionSpec) -> np.ndarray:
  """Return bool [A], True for the numbers that filters act on."""
  return np.repeat([f.kind == 'continuous' and not _is_gripper(f) for f in spec.fields], [f.size for f in spec.fields])


def _can_be_zero(spec: ActionSpec) -> np.ndarray:
  """Return bool [A], True for the numbers whose bounds include 0."""
  low, high = spec.bounds
  return (low <= 0) & (high >= 0)


def _numbers(spec: ActionSpec, given: 'PolicyOutput | Action') -> np.ndarray:
  """Return float64 [A], so that rounding does not add up."""
  numbers = spec.pack(action_of(given))
  if numbers.shape != (spec.size,):
    raise ValueError(f'action has shape {numbers.shape}, expected ({spec.size},): one step of one robot.')
  _check_finite(spec, numbers)
  return numbers.astype(np.float64)


def _check_finite(spec: ActionSpec, numbers: np.ndarray) -> None:
  if not np.isfinite(numbers).all():
    bad = sorted({spec.dimension_names[index[-1]] for index in np.argwhere(~np.isfinite(numbers))})
    raise ValueError(f'action holds NaN or infinite numbers in {bad}, which would stay in the state of the filters.')


def _merge(spec: ActionSpec, given: np.ndarray, filtered: np.ndarray) -> Action:
  """Return the filtered numbers, with classes and grippers as given."""
  return _unpack(spec, np.where(_is_filtered(spec), filtered, given))


def _unpack(spec: ActionSpec, numbers: np.ndarray) -> Action:
  return {name: np.asarray(value) for name, value in spec.unpack(numbers.astype(np.float32)).items()}
