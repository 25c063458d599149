"""Success conditions of tasks, and validity of initial states."""
import dataclasses
import math

import numpy as np
import pytest

pytest.importorskip('mujoco', reason="needs the extra 'sim'")

from rtjax.envs.tabletop import layout, splits, tasks
from rtjax.envs.tabletop.arm import rotation_matrix
from rtjax.envs.tabletop.objects import Item
from rtjax.envs.tabletop.scene import DRAWER_TRAVEL, Appearance, PlacedObject, Scene
from rtjax.envs.tabletop.tasks import Task, success
from rtjax.envs.tabletop.world import Pose, State, World

CAN, CUBE = Item('can', 'red'), Item('cube', 'blue')


def pose(x=0.5, y=0.0, z=0.036, tilt=0.0):
  return Pose(np.array([x, y, z]), rotation_matrix(np.array([tilt, 0, 0])), 0.0)


def state(can=None, cube=None, bowl=None, drawer=0.0, held=None, touched=(), on=('table',)):
  poses = {CAN.name: can or pose(), CUBE.name: cube or pose(y=-0.2, z=0.022)}
  if bowl:
    poses['bowl'] = bowl
  return State(np.array([0.4, 0, 0.2]), np.eye(3), 1.0, poses, drawer, frozenset(touched), held,
               {CAN.name: frozenset(on), CUBE.name: frozenset({'table'})})


START = state()
LIFTED = {'can': pose(z=0.15), 'held': CAN.name, 'touched': [CAN.name], 'on': ()}
LYING = {'can': pose(z=0.024, tilt=1.57)}
IN_BOWL = {'can': pose(z=0.045), 'bowl': pose(z=0), 'on': ('bowl',)}
IN_DRAWER = {'can': pose(y=0.225 - 0.15 + 0.08, z=0.047), 'drawer': 0.15, 'on': ('drawer',)}
PICK, KNOCK, UPRIGHT = Task('pick', CAN), Task('knock', CAN), Task('upright', CAN)
NEAR = Task('move_near', CAN, CUBE)
INTO_BOWL, INTO_DRAWER = Task('put_into', CAN, 'bowl'), Task('put_into', CAN, 'drawer')


@pytest.mark.parametrize('task, done, failures', [
    (PICK, LIFTED, [{'held': None}, {'held': CUBE.name}, {'can': pose(z=0.08)}, {'on': ('table',)}, {'on': ('bowl',)}]),
    (KNOCK, LYING, [{'can': pose(tilt=0.9)}, {'held': CAN.name}, {'on': ()}]),
    (UPRIGHT, {}, [LYING, {'can': pose(tilt=0.3)}, {'touched': [CAN.name]}, {'on': ()}, {'can': pose(z=0.06)}]),
    (NEAR, {'can': pose(y=-0.11)}, [{'can': pose(y=-0.09)}, {'touched': [CAN.name]}, {'on': ()}]),
    (Task('open_drawer'), {'drawer': 0.125}, [{'drawer': 0.115}]),
    (Task('close_drawer'), {'drawer': 0.01}, [{'drawer': 0.02}]),
    (INTO_BOWL, IN_BOWL, [{'can': pose(x=0.58, z=0.045)}, {'touched': [CAN.name]}, {'can': pose(z=0.1)},
                          {'bowl': pose(z=0, tilt=1)}, {'on': ('bowl', 'table')}]),
    (INTO_DRAWER, IN_DRAWER, [{'can': pose(y=0.0)}, {'touched': [CAN.name]}, {'drawer': 0.05},
                              {'can': pose(y=0.15, z=0.12)}]),
    (Task('take_out', CAN, 'bowl'), {'bowl': pose(x=0.62, z=0)},
     [IN_BOWL, {'on': ('bowl', 'table')}, {'on': ()}, {'touched': [CAN.name]}]),
    (Task('take_out', CAN, 'drawer'), {'drawer': 0.15}, [IN_DRAWER, {'on': ('drawer',)}, {'touched': [CAN.name]}]),
], ids=lambda v: v.key if isinstance(v, Task) else '')
def test_each_condition_is_required(task, done, failures):
  assert success(task, state(**done), START)
  for change in failures:
    assert not success(task, state(**done | change), START), change


def test_near_is_measured_from_edge_to_edge():
  for gap in (0.0, 0.01, 0.06):
    y = CAN.shape.radius + CUBE.shape.radius + gap
    assert math.isclose(tasks.gap(CAN, CUBE, state(can=pose(y=0), cube=pose(y=-y))), gap, abs_tol=1e-9)


@pytest.mark.parametrize('skill', tasks.SKILLS)
def test_settled_initial_states_are_not_solved(skill):
  rng = np.random.default_rng(1)
  valid = 0
  for _ in range(8):
    episode = layout.sample(splits.get('seen'), rng, skill)
    state = World(episode.scene).state()
    if layout.is_valid_start(episode, state):
      valid += 1
      assert not success(episode.task, state, state)
  assert valid >= 6


def test_solved_initial_states_are_rejected():
  objects = PlacedObject(CAN, (0.5, 0.0, 0.0365)), PlacedObject(CUBE, (0.5, -0.08, 0.0225))
  near = Scene(objects, None, 0.0, Appearance())
  far = dataclasses.replace(near, objects=(near.objects[0], PlacedObject(CUBE, (0.5, -0.2, 0.0225))))
  for scene, valid in ((near, False), (far, True)):
    episode = layout.Episode(NEAR, '', scene)
    assert layout.is_valid_start(episode, World(scene).state()) == valid
  shut = layout.Episode(Task('close_drawer'), '', dataclasses.replace(far, drawer=0.0))
  assert not layout.is_valid_start(shut, World(shut.scene).state())


def test_fallen_and_overlapping_objects_are_rejected():
  fallen = PlacedObject(CAN, (0.5, 0.0, 0.026), (math.cos(0.7854), math.sin(0.7854), 0, 0))
  inside = PlacedObject(CUBE, (0.5, 0.01, 0.0225))
  for objects in ((fallen,), (PlacedObject(CAN, (0.5, 0.0, 0.0365)), inside)):
    episode = layout.Episode(PICK, '', Scene(objects, None, 0.0, Appearance()))
    assert not layout.is_valid_start(episode, World(episode.scene).state())


def test_containers_hold_objects_physically():
  """A ball stays in the bowl and in the drawer, with contact."""
  ball = Item('ball', 'red')
  for position, drawer, container in (((0.5, -0.1, 0.06), 0.0, 'bowl'),
                                   ((0.5, 0.225 - DRAWER_TRAVEL + 0.08, 0.06), 0.146, 'drawer')):
    world = World(Scene((PlacedObject(ball, position),), (0.5, -0.1), drawer, Appearance()))
    settled = world.state()
    assert tasks.inside(container, ball.name, settled)
    assert container in settled.supports[ball.name]
    assert success(Task('put_into', ball, container), settled, settled)
