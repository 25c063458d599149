"""Action filters against formulas and brute force."""
import numpy as np
import pytest

from rtjax import actions
from rtjax.policies.action_filters import (
  ActionFilters,
  ConfidenceGate,
  ExponentialSmoothing,
  GripperHysteresis,
  LowConfidence,
  RateLimiter,
  TemporalEnsemble,
)
from rtjax.policies.policy import PolicyOutput

SPEC = actions.RT1
MOTION = np.array([not name.startswith(('terminate', 'gripper')) for name in SPEC.dimension_names])
LOW, HIGH = SPEC.bounds


def output(plan, confidence=0.9):
  """Return a PolicyOutput with this plan [F, A] or action [A]."""
  plan = np.atleast_2d(np.asarray(plan, np.float32))
  return PolicyOutput(SPEC.unpack(plan[0]), np.zeros(11, np.int32), np.zeros((11, 256), np.float32),
                      np.full(11, confidence, np.float32), plan)


def random(seed, *shape):
  """Return actions within the bounds, with one-hot classes."""
  draw = np.random.default_rng(seed)
  made = draw.uniform(LOW, HIGH, (*shape, SPEC.size)).astype(np.float32)
  made[..., :3] = np.eye(3)[draw.integers(0, 3, shape)]
  return made


def every_filter():
  return [TemporalEnsemble(SPEC), TemporalEnsemble(SPEC, 0.7, newest_first=True), ExponentialSmoothing(SPEC, 0.3),
          RateLimiter(SPEC, 0.05, kp=0.6, ki=0.1, kd=0.1), GripperHysteresis(SPEC), ConfidenceGate(SPEC, 0.1),
          ActionFilters(SPEC, ensemble=TemporalEnsemble(SPEC), smoothing=ExponentialSmoothing(SPEC),
                        rate_limiter=RateLimiter(SPEC))]


@pytest.mark.parametrize('number', range(7))
def test_constant_input_is_a_fixed_point(number):
  action = random(number)
  action[9] = -1  # a gripper at its bound, which hysteresis keeps
  apply = every_filter()[number]
  for _ in range(20):
    np.testing.assert_allclose(SPEC.pack(apply(output(np.tile(action, (4, 1))))), action, rtol=1e-6)


@pytest.mark.parametrize('number', range(7))
def test_reset_clears_the_state_and_classes_and_grippers_pass(number):
  plans = random(number, 12, 4)
  apply = every_filter()[number]
  first = [SPEC.pack(apply(output(plan))) for plan in plans]
  apply.reset()
  np.testing.assert_array_equal([SPEC.pack(apply(output(plan))) for plan in plans], first)
  passed = slice(0, 3) if isinstance(apply, GripperHysteresis) else ~MOTION
  np.testing.assert_array_equal(np.array(first)[:, passed], plans[:, 0, passed])


def test_exponential_smoothing_of_a_step_follows_the_formula():
  apply = ExponentialSmoothing(SPEC, 0.25)
  low, high = random(0), random(1)
  apply(output(low))
  for step in range(1, 30):
    expected = high + (low - high) * 0.75**step
    np.testing.assert_allclose(SPEC.pack(apply(output(high)))[MOTION], expected[MOTION], atol=1e-6)


@pytest.mark.parametrize('newest_first', [False, True])
@pytest.mark.parametrize('m', [0.0, 0.01, 1.5])
def test_temporal_ensemble_against_brute_force(m, newest_first):
  plans = random(3, 10, 4)  # step, horizon
  apply = TemporalEnsemble(SPEC, m, newest_first=newest_first)
  for now in range(10):
    made = range(max(0, now - 3), now + 1)
    total, weights = np.zeros(SPEC.size), 0.0
    for i, step in enumerate(reversed(made) if newest_first else made):
      total += np.exp(-m * i) * plans[step, now - step]
      weights += np.exp(-m * i)
    got = SPEC.pack(apply(output(plans[now])))
    np.testing.assert_allclose(got[MOTION], (total / weights)[MOTION], atol=1e-6)
    np.testing.assert_array_equal(got[~MOTION], plans[now, 0, ~MOTION])


@pytest.mark.parametrize('gains', [{}, {'kp': 0.4}, {'kp': 0.9, 'ki': 0.5}, {'ki': 0.3, 'kd': 1.0}])
@pytest.mark.parametrize('seed', range(5))
def test_rate_limiter_never_exceeds_rate_and_bounds(gains, seed):
  apply = RateLimiter(SPEC, 0.07, **gains)
  wild = random(seed, 200) * 1.5
  got = np.array([SPEC.pack(apply(output(action))) for action in wild])[:, MOTION]
  low, high = LOW[MOTION], HIGH[MOTION]
  assert (np.abs(np.diff(got, axis=0)) <= 0.07 * (high - low) + 1e-6).all()
  assert (got >= low - 1e-6).all() and (got <= high + 1e-6).all()


def test_rate_limiter_without_gains_moves_straight_to_a_new_value():
  apply = RateLimiter(SPEC, 0.1)
  apply(output(np.zeros(SPEC.size)))
  target = np.where(MOTION, HIGH * 0.75, 0)
  for step in range(1, 6):
    expected = np.minimum(HIGH * 0.75, step * 0.1 * (HIGH - LOW))
    np.testing.assert_allclose(SPEC.pack(apply(output(target)))[MOTION], expected[MOTION], rtol=1e-5)


def test_rate_limiter_as_pid_against_the_recurrence():
  """One number, far from all bounds, against the formula."""
  apply = RateLimiter(SPEC, 1.0, kp=0.5, ki=0.1, kd=0.2)
  apply(output(np.zeros(SPEC.size)))
  at = total = previous = 0.0
  target = np.where(MOTION, 0.01, 0)
  for _ in range(30):
    error = 0.01 - at
    total += error
    at, previous = at + 0.5 * error + 0.1 * total + 0.2 * (error - previous), error
    np.testing.assert_allclose(SPEC.pack(apply(output(target)))[3], at, atol=1e-8)
  assert abs(at - 0.01) < 1e-3


def test_rate_limiter_does_not_wind_up():
  """The sum of errors of a long change at the full rate must not cause a large overshoot."""
  apply = RateLimiter(SPEC, 0.01, kp=0.5, ki=0.2)
  apply(output(np.where(MOTION, LOW, 0)))
  target = np.where(MOTION, HIGH / 2, 0)
  got = np.array([SPEC.pack(apply(output(target))) for _ in range(200)])[:, 3]
  assert got.max() < 0.5 + 0.03 * 2 and abs(got[-1] - 0.5) < 1e-3


def test_gripper_changes_only_beyond_the_margin():
  apply = GripperHysteresis(actions.ARM_7D, 0.5)

  def gripper(opening):
    action = {'translation': [0.01, 0, 0], 'rotation': [0, 0, 0.1], 'gripper': [opening]}
    done = apply(action)
    np.testing.assert_array_equal(done['translation'], np.float32([0.01, 0, 0]))
    return done['gripper'].item()
  assert [gripper(o) for o in (0.6, 0.4, 0.3, 0.2, 0.6, 0.74, 0.76, 0.4)] == [1, 1, 1, 0, 0, 0, 1, 1]
  apply.reset()
  assert gripper(0.4) == 0


def test_order_of_the_filters():
  plans = random(5, 15, 3)
  together = ActionFilters(SPEC, rate_limiter=RateLimiter(SPEC, 0.1), smoothing=ExponentialSmoothing(SPEC, 0.4),
                           ensemble=TemporalEnsemble(SPEC))
  ensemble, average, limit = TemporalEnsemble(SPEC), ExponentialSmoothing(SPEC, 0.4), RateLimiter(SPEC, 0.1)
  for plan in plans:
    expected = limit(average(ensemble(output(plan))))
    np.testing.assert_array_equal(SPEC.pack(together(output(plan))), SPEC.pack(expected))


def test_off_by_default():
  given = output(random(0))
  assert ActionFilters(SPEC)(given) is given.action


def test_hold_keeps_gripper_and_classes_and_stops_motion():
  apply = ActionFilters(SPEC, confidence=ConfidenceGate(SPEC, 0.5), smoothing=ExponentialSmoothing(SPEC, 0.3),
                        rate_limiter=RateLimiter(SPEC, 0.1))
  confident, unsure = random(0), random(1)
  apply(output(confident, 0.5))
  held = SPEC.pack(apply(output(unsure, 0.49)))
  np.testing.assert_array_equal(held, np.where(MOTION, 0, confident))
  # With confidence again, it leaves the held action within the rate limit.
  after = SPEC.pack(apply(output(confident)))
  np.testing.assert_allclose(
      after[MOTION], np.clip(confident, -0.1 * (HIGH - LOW), 0.1 * (HIGH - LOW))[MOTION], rtol=1e-5)
  apply.reset()
  np.testing.assert_array_equal(SPEC.pack(apply(output(unsure, 0.1))), np.where(MOTION, 0, unsure))


def test_stop_lasts_until_reset():
  apply = ConfidenceGate(SPEC, 0.5, 'stop')
  given = output(random(0))
  assert apply(given) is given.action
  for confidence in (0.2, 0.9):
    with pytest.raises(LowConfidence, match=f'is {confidence:.2f}, the threshold is 0.5'):
      apply(output(random(1), confidence))
  apply.reset()
  apply(given)


def test_callback_gets_the_output_and_returns_the_action():
  outputs = []
  replacement = random(2)

  def ask(out):
    outputs.append(out)
    return SPEC.unpack(replacement)
  apply = ActionFilters(SPEC, confidence=ConfidenceGate(SPEC, 0.5, ask), smoothing=ExponentialSmoothing(SPEC))
  unsure = output(random(1), 0.3)
  np.testing.assert_array_equal(SPEC.pack(apply(unsure)), replacement)
  assert outputs == [unsure]
  with pytest.raises(ValueError, match="lacks the field 'terminate_episode'"):
    ConfidenceGate(SPEC, 0.5, lambda out: {})(unsure)


@pytest.mark.parametrize(('make', 'message'), [
    (lambda: ExponentialSmoothing(SPEC, 0), 'alpha is 0, it must be above 0'),
    (lambda: TemporalEnsemble(SPEC, -1), 'm is -1, it must be at least 0'),
    (lambda: RateLimiter(SPEC, 0), 'rate is 0, it must be above 0'),
    (lambda: RateLimiter(SPEC, kp=2), 'kp must be above 0 and at most 1'),
    (lambda: GripperHysteresis(SPEC, 1), 'margin is 1'),
    (lambda: GripperHysteresis(actions.ActionSpec((actions.ActionField('wheels', 2),))), r"no field of \['wheels'\]"),
    (lambda: ConfidenceGate(SPEC, 2), 'threshold is 2'),
    (lambda: ConfidenceGate(SPEC, 0.5, 'wait'), "action is 'wait', expected 'hold'"),
    (lambda: ConfidenceGate(actions.ActionSpec((actions.ActionField('joint', 1, 1.0, 2.0),)), 0.5), 'exclude 0'),
    (lambda: ActionFilters(SPEC, smoothing=ExponentialSmoothing(actions.RT1_X)),
     'ExponentialSmoothing was made for an ActionSpec with'),
    (lambda: TemporalEnsemble(SPEC)(output(random(0))), 'action horizon above 1'),
    (lambda: TemporalEnsemble(SPEC)(output(random(0)).action), 'got dict with a plan of shape'),
    (lambda: ExponentialSmoothing(SPEC)(output(random(0) * np.nan)),
     r"NaN or infinite numbers in \['base_displacement_vec"),
    (lambda: TemporalEnsemble(SPEC)(output(random(0, 3) * np.nan)), 'NaN'),
    (lambda: ExponentialSmoothing(SPEC)(SPEC.unpack(random(0, 3))), r'\(3, 13\), expected \(13,\)'),
])
def test_bad_input(make, message):
  with pytest.raises(ValueError, match=message):
    make()
