"""Labels of failures, by cases."""
import pytest

from rtjax.evaluation.closed_loop import failures

FACTS = {'success': False, 'skill': 'pick', 'task': 'pick: red cube', 'moved': 1.0, 'touched': [], 'dropped': False,
         'displaced': {'red cube': 0.0, 'blue cube': 0.0, 'bowl': 0.0}}
NEAR = {'skill': 'move_near', 'task': 'move_near: red cube, blue cube'}
INTO = {'skill': 'put_into', 'task': 'put_into: red cube, bowl'}
DRAWER = {'skill': 'open_drawer', 'task': 'open_drawer'}
BLUE_MOVED = {'touched': ['blue cube'], 'displaced': {'blue cube': 0.1}}


@pytest.mark.parametrize(('changes', 'held', 'closed', 'label', 'deed', 'wrong'), [
    ({'success': True}, {'red cube'}, True, None, 'as asked', None),
    ({'moved': 0.01}, set(), True, 'no motion', 'nothing', None),
    ({}, set(), False, 'timeout', 'moved in air', None),
    ({}, set(), True, 'missed grasp', 'moved in air', None),
    ({'touched': ['red cube']}, set(), False, 'missed grasp', 'touched only', None),
    ({'touched': ['red cube'], 'displaced': {'red cube': 0.2}}, set(), False, 'missed grasp', 'moved the target', None),
    ({'touched': ['red cube']}, {'red cube'}, True, 'timeout', 'held the target', None),
    ({'touched': ['red cube'], 'dropped': True}, {'red cube'}, True, 'dropped', 'held the target', None),
    (BLUE_MOVED, {'blue cube'}, True, 'wrong object', 'held another', 'blue cube'),
    (BLUE_MOVED, set(), True, 'wrong object', 'moved another', 'blue cube'),
    (BLUE_MOVED | {'dropped': True}, {'blue cube'}, True, 'wrong object', 'held another', 'blue cube'),
    # Displaced without being touched: by another object, or by itself.
    ({'displaced': {'blue cube': 0.1}}, set(), False, 'timeout', 'moved in air', None),
    # The right one too: another was in the way.
    (BLUE_MOVED, {'red cube', 'blue cube'}, True, 'timeout', 'held the target', None),
    # What the task names besides the target is not wrong.
    (NEAR | BLUE_MOVED, set(), True, 'missed grasp', 'touched only', None),
    (INTO | {'touched': ['bowl'], 'displaced': {'bowl': 0.1}}, set(), True, 'missed grasp', 'touched only', None),
    (DRAWER | {'touched': ['drawer']}, set(), True, 'timeout', 'touched only', None),
    (DRAWER | BLUE_MOVED, set(), True, 'wrong object', 'moved another', 'blue cube'),
    (DRAWER | BLUE_MOVED | {'touched': ['blue cube', 'drawer']}, set(), True, 'timeout', 'touched only', None),
    ({'skill': 'knock', 'task': 'knock: red cube', 'touched': ['red cube']}, set(), True, 'timeout', 'touched only',
     None),
    ({'failure': 'physics'}, set(), True, 'physics', 'moved in air', None),
    ({'failure': 'strange'}, set(), True, 'error', 'moved in air', None),
])
def test_cases(changes, held, closed, label, deed, wrong):
  facts = FACTS | changes
  assert failures.label(facts, held, closed) == label
  assert failures.deed(facts, held) == deed
  assert failures.wrong_object(facts, held) == wrong
  assert label is None or label in failures.LABELS
  assert deed in failures.DEEDS


def test_an_environment_that_tells_little():
  assert failures.label({'success': False}, set(), True) == 'timeout'
  assert failures.label({'failure': 'error'}, set(), False) == 'error'
  assert failures.deed({}, set()) == 'nothing'


def test_the_one_held_is_the_wrong_object():
  facts = FACTS | {'touched': ['blue cube', 'green can'], 'displaced': {'blue cube': 0.05, 'green can': 0.3}}
  assert failures.wrong_object(facts, {'blue cube'}) == 'blue cube'
  assert failures.wrong_object(facts, set()) == 'green can'


@pytest.mark.parametrize(('name', 'target', 'shared'), [
    ('blue cube', 'red cube', 'same kind'), ('red can', 'red cube', 'same colour'), ('blue can', 'red cube', 'neither'),
    ('apple', 'pear', 'neither'), ('bowl', 'red cube', 'neither')])
def test_likeness(name, target, shared):
  assert failures.likeness(name, target) == shared
