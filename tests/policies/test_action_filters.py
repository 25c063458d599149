"""Filters between policy and robot, against formulas, brute force and what each promises."""
import numpy as np
import pytest

from rtjax import actions
from rtjax.policies.action_filters import (
  Average,
  Confidence,
  Ensemble,
  GripperHysteresis,
  Limit,
  LowConfidence,
  Smoothing,
)
from rtjax.policies.policy import PolicyOutput

SPEC = actions.RT1
MOTION = np.array([not name.startswith(('terminate', 'gripper')) for name in SPEC.number_names])
LOW, HIGH = (np.concatenate([getattr(f, end) for f in SPEC.fields]) for end in ('low', 'high'))


def output(plan, confidence=0.9):
  """A PolicyOutput with this plan [F, A] or action [A]."""
  plan = np.atleast_2d(np.asarray(plan, np.float32))
  return PolicyOutput(SPEC.unpack(plan[0]), np.zeros(11, np.int32), np.zeros((11, 256), np.float32),
                      np.full(11, confidence, np.float32), plan)


def random(seed, *shape):
  """Actions within the bounds, with one-hot classes."""
  draw = np.random.default_rng(seed)
  made = draw.uniform(LOW, HIGH, (*shape, SPEC.size)).astype(np.float32)
  made[..., :3] = np.eye(3)[draw.integers(0, 3, shape)]
  return made


def every_filter():
  return [Ensemble(SPEC), Ensemble(SPEC, 0.7, newest_first=True), Average(SPEC, 0.3),
          Limit(SPEC, 0.05, kp=0.6, ki=0.1, kd=0.1), GripperHysteresis(SPEC), Confidence(SPEC, 0.1),
          Smoothing(SPEC, ensemble=Ensemble(SPEC), average=Average(SPEC), limit=Limit(SPEC))]


@pytest.mark.parametrize('number', range(7))
def test_constant_input_is_a_fixed_point(number):
  action = random(number)
  action[9] = -1  # a gripper at its bound, which hysteresis keeps
  smooth = every_filter()[number]
  for _ in range(20):
    np.testing.assert_allclose(SPEC.pack(smooth(output(np.tile(action, (4, 1))))), action, rtol=1e-6)


@pytest.mark.parametrize('number', range(7))
def test_reset_forgets_and_classes_and_grippers_pass(number):
  plans = random(number, 12, 4)
  smooth = every_filter()[number]
  first = [SPEC.pack(smooth(output(plan))) for plan in plans]
  smooth.reset()
  np.testing.assert_array_equal([SPEC.pack(smooth(output(plan))) for plan in plans], first)
  passed = slice(0, 3) if isinstance(smooth, GripperHysteresis) else ~MOTION
  np.testing.assert_array_equal(np.array(first)[:, passed], plans[:, 0, passed])


def test_average_of_a_step_follows_the_formula():
  smooth = Average(SPEC, 0.25)
  low, high = random(0), random(1)
  smooth(output(low))
  for step in range(1, 30):
    expected = high + (low - high) * 0.75**step
    np.testing.assert_allclose(SPEC.pack(smooth(output(high)))[MOTION], expected[MOTION], atol=1e-6)


@pytest.mark.parametrize('newest_first', [False, True])
@pytest.mark.parametrize('m', [0.0, 0.01, 1.5])
def test_ensemble_against_brute_force(m, newest_first):
  plans = random(3, 10, 4)  # step, horizon
  smooth = Ensemble(SPEC, m, newest_first=newest_first)
  for now in range(10):
    made = range(max(0, now - 3), now + 1)
    total, weights = np.zeros(SPEC.size), 0.0
    for i, step in enumerate(reversed(made) if newest_first else made):
      total += np.exp(-m * i) * plans[step, now - step]
      weights += np.exp(-m * i)
    got = SPEC.pack(smooth(output(plans[now])))
    np.testing.assert_allclose(got[MOTION], (total / weights)[MOTION], atol=1e-6)
    np.testing.assert_array_equal(got[~MOTION], plans[now, 0, ~MOTION])


@pytest.mark.parametrize('gains', [{}, {'kp': 0.4}, {'kp': 0.9, 'ki': 0.5}, {'ki': 0.3, 'kd': 1.0}])
@pytest.mark.parametrize('seed', range(5))
def test_limit_never_exceeds_rate_and_bounds(gains, seed):
  smooth = Limit(SPEC, 0.07, **gains)
  wild = random(seed, 200) * 1.5
  got = np.array([SPEC.pack(smooth(output(action))) for action in wild])[:, MOTION]
  low, high = LOW[MOTION], HIGH[MOTION]
  assert (np.abs(np.diff(got, axis=0)) <= 0.07 * (high - low) + 1e-6).all()
  assert (got >= low - 1e-6).all() and (got <= high + 1e-6).all()


def test_limit_without_gains_goes_straight_to_a_new_value():
  smooth = Limit(SPEC, 0.1)
  smooth(output(np.zeros(SPEC.size)))
  target = np.where(MOTION, HIGH * 0.75, 0)
  for step in range(1, 6):
    expected = np.minimum(HIGH * 0.75, step * 0.1 * (HIGH - LOW))
    np.testing.assert_allclose(SPEC.pack(smooth(output(target)))[MOTION], expected[MOTION], rtol=1e-5)


def test_limit_as_pid_against_the_recurrence():
  """Far from all bounds, one number is followed by hand."""
  smooth = Limit(SPEC, 1.0, kp=0.5, ki=0.1, kd=0.2)
  smooth(output(np.zeros(SPEC.size)))
  at = total = previous = 0.0
  target = np.where(MOTION, 0.01, 0)
  for _ in range(30):
    error = 0.01 - at
    total += error
    at, previous = at + 0.5 * error + 0.1 * total + 0.2 * (error - previous), error
    np.testing.assert_allclose(SPEC.pack(smooth(output(target)))[3], at, atol=1e-8)
  assert abs(at - 0.01) < 1e-3


def test_limit_does_not_wind_up():
  """After a long climb at the rate, the sum of errors must not carry it far beyond."""
  smooth = Limit(SPEC, 0.01, kp=0.5, ki=0.2)
  smooth(output(np.where(MOTION, LOW, 0)))
  target = np.where(MOTION, HIGH / 2, 0)
  got = np.array([SPEC.pack(smooth(output(target))) for _ in range(200)])[:, 3]
  assert got.max() < 0.5 + 0.03 * 2 and abs(got[-1] - 0.5) < 1e-3


def test_gripper_changes_only_beyond_the_margin():
  smooth = GripperHysteresis(actions.ARM_7D, 0.5)

  def gripper(opening):
    action = {'translation': [0.01, 0, 0], 'rotation': [0, 0, 0.1], 'gripper': [opening]}
    done = smooth(action)
    np.testing.assert_array_equal(done['translation'], np.float32([0.01, 0, 0]))
    return done['gripper'].item()
  assert [gripper(o) for o in (0.6, 0.4, 0.3, 0.2, 0.6, 0.74, 0.76, 0.4)] == [1, 1, 1, 0, 0, 0, 1, 1]
  smooth.reset()
  assert gripper(0.4) == 0


def test_order_is_ensemble_average_limit():
  plans = random(5, 15, 3)
  together = Smoothing(SPEC, limit=Limit(SPEC, 0.1), average=Average(SPEC, 0.4), ensemble=Ensemble(SPEC))
  ensemble, average, limit = Ensemble(SPEC), Average(SPEC, 0.4), Limit(SPEC, 0.1)
  for plan in plans:
    expected = limit(average(ensemble(output(plan))))
    np.testing.assert_array_equal(SPEC.pack(together(output(plan))), SPEC.pack(expected))


def test_off_by_default():
  given = output(random(0))
  assert Smoothing(SPEC)(given) is given.action


def test_hold_keeps_gripper_and_classes_and_stands_still():
  smooth = Smoothing(SPEC, confidence=Confidence(SPEC, 0.5), average=Average(SPEC, 0.3), limit=Limit(SPEC, 0.1))
  sure, unsure = random(0), random(1)
  smooth(output(sure, 0.5))
  held = SPEC.pack(smooth(output(unsure, 0.49)))
  np.testing.assert_array_equal(held, np.where(MOTION, 0, sure))
  # Trusted again, it leaves the held action no faster than the limit allows.
  after = SPEC.pack(smooth(output(sure)))
  np.testing.assert_allclose(
      after[MOTION], np.clip(sure, -0.1 * (HIGH - LOW), 0.1 * (HIGH - LOW))[MOTION], rtol=1e-5)
  smooth.reset()
  np.testing.assert_array_equal(SPEC.pack(smooth(output(unsure, 0.1))), np.where(MOTION, 0, unsure))


def test_stop_lasts_until_reset():
  smooth = Confidence(SPEC, 0.5, 'stop')
  given = output(random(0))
  assert smooth(given) is given.action
  for confidence in (0.2, 0.9):
    with pytest.raises(LowConfidence, match=f'sure to {confidence:.2f}, the threshold is 0.5'):
      smooth(output(random(1), confidence))
  smooth.reset()
  smooth(given)


def test_callback_gets_the_output_and_gives_the_action():
  asked = []
  instead = random(2)

  def ask(out):
    asked.append(out)
    return SPEC.unpack(instead)
  smooth = Smoothing(SPEC, confidence=Confidence(SPEC, 0.5, ask), average=Average(SPEC))
  unsure = output(random(1), 0.3)
  np.testing.assert_array_equal(SPEC.pack(smooth(unsure)), instead)
  assert asked == [unsure]
  with pytest.raises(ValueError, match="lacks the field 'terminate_episode'"):
    Confidence(SPEC, 0.5, lambda out: {})(unsure)


@pytest.mark.parametrize(('make', 'message'), [
    (lambda: Average(SPEC, 0), 'alpha is 0, it must be above 0'),
    (lambda: Ensemble(SPEC, -1), 'm is -1, it must be at least 0'),
    (lambda: Limit(SPEC, 0), 'rate is 0, it must be above 0'),
    (lambda: Limit(SPEC, kp=2), 'kp must be above 0 and at most 1'),
    (lambda: GripperHysteresis(SPEC, 1), 'margin is 1'),
    (lambda: GripperHysteresis(actions.ActionSpec((actions.ActionField('wheels', 2),))), r"no field of \['wheels'\]"),
    (lambda: Confidence(SPEC, 2), 'threshold is 2'),
    (lambda: Confidence(SPEC, 0.5, 'wait'), "action is 'wait', expected 'hold'"),
    (lambda: Confidence(actions.ActionSpec((actions.ActionField('joint', 1, 1.0, 2.0),)), 0.5), 'leave out 0'),
    (lambda: Smoothing(SPEC, average=Average(actions.RT1_X)), 'Average was made for an ActionSpec with'),
    (lambda: Ensemble(SPEC)(output(random(0))), 'action horizon above 1'),
    (lambda: Ensemble(SPEC)(output(random(0)).action), 'got dict with a plan of shape'),
    (lambda: Average(SPEC)(output(random(0) * np.nan)), r"NaN or infinite numbers in \['base_displacement_vec"),
    (lambda: Ensemble(SPEC)(output(random(0, 3) * np.nan)), 'NaN'),
    (lambda: Average(SPEC)(SPEC.unpack(random(0, 3))), r'\(3, 13\), expected \(13,\)'),
])
def test_bad_input(make, message):
  with pytest.raises(ValueError, match=message):
    make()
