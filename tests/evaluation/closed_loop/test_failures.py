"""Failure reasons and outcomes, by cases."""
import pytest

from rtjax.evaluation.closed_loop import failures

INFO = {'success': False, 'skill': 'pick', 'task': 'pick: red cube', 'moved': 1.0, 'touched': [], 'dropped': False,
        'displaced': {'red cube': 0.0, 'blue cube': 0.0, 'bowl': 0.0}}
NEAR = {'skill': 'move_near', 'task': 'move_near: red cube, blue cube'}
INTO = {'skill': 'put_into', 'task': 'put_into: red cube, bowl'}
DRAWER = {'skill': 'open_drawer', 'task': 'open_drawer'}
BLUE_MOVED = {'touched': ['blue cube'], 'displaced': {'blue cube': 0.1}}


@pytest.mark.parametrize(('changes', 'held', 'closed', 'reason', 'outcome', 'wrong'), [
    ({'success': True}, {'red cube'}, True, None, 'success', None),
    ({'moved': 0.01}, set(), True, 'no motion', 'no motion', None),
    ({}, set(), False, 'timeout', 'no contact', None),
    ({}, set(), True, 'missed grasp', 'no contact', None),
    ({'touched': ['red cube']}, set(), False, 'missed grasp', 'touched only', None),
    ({'touched': ['red cube'], 'displaced': {'red cube': 0.2}}, set(), False, 'missed grasp', 'moved target', None),
    ({'touched': ['red cube']}, {'red cube'}, True, 'timeout', 'held target', None),
    ({'touched': ['red cube'], 'dropped': True}, {'red cube'}, True, 'dropped', 'held target', None),
    (BLUE_MOVED, {'blue cube'}, True, 'wrong object', 'held other object', 'blue cube'),
    (BLUE_MOVED, set(), True, 'wrong object', 'moved other object', 'blue cube'),
    (BLUE_MOVED | {'dropped': True}, {'blue cube'}, True, 'wrong object', 'held other object', 'blue cube'),
    # Displaced without contact with the gripper.
    ({'displaced': {'blue cube': 0.1}}, set(), False, 'timeout', 'no contact', None),
    # The target was held as well; the other object was in the way.
    (BLUE_MOVED, {'red cube', 'blue cube'}, True, 'timeout', 'held target', None),
    # Further objects of the task are not wrong.
    (NEAR | BLUE_MOVED, set(), True, 'missed grasp', 'touched only', None),
    (INTO | {'touched': ['bowl'], 'displaced': {'bowl': 0.1}}, set(), True, 'missed grasp', 'touched only', None),
    (DRAWER | {'touched': ['drawer']}, set(), True, 'timeout', 'touched only', None),
    (DRAWER | BLUE_MOVED, set(), True, 'wrong object', 'moved other object', 'blue cube'),
    (DRAWER | BLUE_MOVED | {'touched': ['blue cube', 'drawer']}, set(), True, 'timeout', 'touched only', None),
    ({'skill': 'knock', 'task': 'knock: red cube', 'touched': ['red cube']}, set(), True, 'timeout', 'touched only',
     None),
    ({'failure': 'physics'}, set(), True, 'physics', 'no contact', None),
    ({'failure': 'strange'}, set(), True, 'error', 'no contact', None),
])
def test_cases(changes, held, closed, reason, outcome, wrong):
  info = INFO | changes
  assert failures.reason(info, held, closed) == reason
  assert failures.outcome(info, held) == outcome
  assert failures.wrong_object(info, held) == wrong
  assert reason is None or reason in failures.REASONS
  assert outcome in failures.OUTCOMES


def test_environment_with_little_info():
  assert failures.reason({'success': False}, set(), True) == 'timeout'
  assert failures.reason({'failure': 'error'}, set(), False) == 'error'
  assert failures.outcome({}, set()) == 'no motion'


def test_wrong_object_is_the_held_one_or_the_one_moved_furthest():
  info = INFO | {'touched': ['blue cube', 'green can'], 'displaced': {'blue cube': 0.05, 'green can': 0.3}}
  assert failures.wrong_object(info, {'blue cube'}) == 'blue cube'
  assert failures.wrong_object(info, set()) == 'green can'


@pytest.mark.parametrize(('name', 'target', 'shared'), [
    ('blue cube', 'red cube', 'same kind'), ('red can', 'red cube', 'same colour'), ('blue can', 'red cube', 'neither'),
    ('apple', 'pear', 'neither'), ('bowl', 'red cube', 'neither')])
def test_shared_property(name, target, shared):
  assert failures.shared_property(name, target) == shared
