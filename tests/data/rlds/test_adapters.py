"""Adapters against hand-computed numbers, on episodes written and read by TFDS."""
import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers import rlds_episodes
from helpers.paths import ROOT

from rtjax import actions
from rtjax.data.rlds import adapters
from rtjax.data.rlds.episodes import Dataset

V = np.array([[0.5, -0.25, 0.0], [0.02, -0.01, 0.1]], np.float32)
R = np.array([[0.125, -0.5, 0.0], [0.01, 0.04, -0.06]], np.float32)
END = np.array([0, 1], np.float32)
FLAGS = np.array([[0, 1, 0], [1, 0, 0]], np.int32)
PARTS = {'world_vector': V, 'rotation_delta': R}
ZERO = np.zeros((2, 3))
COLUMN = np.array([[-1], [1]], np.float32)

# Bridge: 0.05 m becomes 1.75 and 0.25 rad 1.4, so factors 35 and 5.6; clipped 0.01 inside.
BRIDGE_V = [[1.74, -1.74, 0], [0.7, -0.35, 1.74]]
BRIDGE_R = [[0.7, -1.39, 0], [0.056, 0.224, -0.336]]
RT1_PARTS = PARTS | {
    'gripper_closedness_action': COLUMN, 'terminate_episode': FLAGS,
    'base_displacement_vector': np.array([[1, 2], [3, 4]], np.float32),
    'base_displacement_vertical_rotation': np.array([[5], [6]], np.float32)}
# Taco Play to [-1, 1]: x from [0, 0.8], y [-0.5, 0.7], z [0, 0.6], angles [-3.2, 3.2], [-0.8, 0.2], [-1.8, 2.5].
# Its last number is 1 where the gripper is to be open.
TACO = np.array([[0.4, 0.1, 0.15, 1.6, -0.3, 0.35, 1], [0.8, -0.5, 9.0, -3.2, 0.2, 1.425, -1]], np.float32)

# dataset: (recorded action, expected world_vector, rotation_delta, gripper)
CASES = {
    'fractal20220817_data': (RT1_PARTS, V, R, COLUMN),
    'kuka': (RT1_PARTS, V, R, COLUMN),
    'bridge': (PARTS | {'terminate_episode': END, 'open_gripper': [True, False]}, BRIDGE_V, BRIDGE_R, COLUMN),
    'bridge_dataset': ({'action': np.concatenate([V, R, [[1], [0.4]]], 1).astype(np.float32)},
                       BRIDGE_V, BRIDGE_R, COLUMN),
    'taco_play': ({'actions': TACO, 'terminate_episode': END},
                  [[0, 0, -0.5], [0.99, -0.99, 0.99]], [[0.5, 0, 0], [-0.99, 0.99, 0.5]], COLUMN),
    'jaco_play': ({'world_vector': V, 'gripper_closedness_action': COLUMN, 'terminate_episode': FLAGS},
                  [[4.078885, -2.523507, 0.035416], [0.155578, -0.043395, 0.931858]], ZERO, COLUMN),
    'berkeley_cable_routing': (PARTS | {'terminate_episode': END}, V, R, ZERO[:, :1]),
    'roboturk': (PARTS | {'terminate_episode': END, 'gripper_closedness_action': COLUMN}, V, R, COLUMN),
    'nyu_door_opening_surprising_effectiveness': (
        PARTS | {'terminate_episode': END, 'gripper_closedness_action': COLUMN},
        [[10, -5, 0], [0.4, -0.2, 2]], [[1.875, -7.5, 0], [0.15, 0.6, -0.9]], COLUMN),
    'viola': (PARTS | {'terminate_episode': END, 'gripper_closedness_action': COLUMN[:, 0]},
              [[0.875, -0.4375, 0], [0.035, -0.0175, 0.175]], [[0.375, -1.5, 0], [0.03, 0.12, -0.18]], COLUMN),
    'berkeley_autolab_ur5': (
        PARTS | {'terminate_episode': END, 'gripper_closedness_action': COLUMN[:, 0]},
        [[50, -25, 0], [2, -1, 10]], [[1.875, -7.5, 0], [0.15, 0.6, -0.9]], COLUMN),
    'toto': (PARTS | {'terminate_episode': END, 'open_gripper': [True, False]},
             [[1, -0.5, 0], [0.04, -0.02, 0.2]], R, COLUMN),
}
PUBLISHED_WEIGHTS = {
    'fractal20220817_data': 150, 'bridge': 50, 'jaco_play': 20, 'berkeley_cable_routing': 20, 'roboturk': 10,
    'taco_play': 5, 'nyu_door_opening_surprising_effectiveness': 5, 'berkeley_autolab_ur5': 5, 'toto': 5,
    'viola': 3}


@pytest.mark.parametrize('name', CASES)
def test_maps_to_rt1(name, tmp_path):
  given, world_vector, rotation_delta, gripper = CASES[name]
  written = rlds_episodes.episode(name, 2, **given)
  (steps,) = rlds_episodes.read(rlds_episodes.write(tmp_path, name, {'train': [written]}))
  adapter = adapters.get(name)

  action = adapter.action(steps)

  spec = actions.get('rt1')
  assert spec.pack({key: action[key] for key in spec.names}).shape == (2, spec.size)
  assert all(part.dtype == np.float32 for part in action.values())
  np.testing.assert_allclose(action['world_vector'], world_vector, atol=1e-5)
  np.testing.assert_allclose(action['rotation_delta'], rotation_delta, atol=1e-5)
  np.testing.assert_array_equal(action['gripper_closedness_action'], gripper)
  np.testing.assert_array_equal(action['terminate_episode'], FLAGS)
  has_base = given is RT1_PARTS
  for part in ('base_displacement_vector', 'base_displacement_vertical_rotation'):
    np.testing.assert_array_equal(action[part], RT1_PARTS[part] * has_base)

  for camera in (adapter.image, *adapter.views.values()):
    assert adapters.feature(steps, camera).shape == (2,)  # encoded
  assert adapters.feature(steps, adapter.embedding).shape == (2, 512)
  assert adapters.feature(steps, adapter.instruction)[0] == b'pick the red cube'
  if adapter.proprioception:
    assert adapters.feature(steps, adapter.proprioception).ndim == 2


@pytest.mark.parametrize('name', CASES)
def test_missing_feature_is_named(name):
  given = CASES[name][0]
  steps = {'action': dict(given), 'is_last': END} if 'action' not in given else {'is_last': END}
  lost = 'action' if 'action' in given else f'action/{next(iter(given))}'
  steps.get('action', {}).pop(next(iter(given)), None)
  with pytest.raises(ValueError, match=f'no feature {lost!r}, it has .*your_robot'):
    adapters.get(name).action(steps)


@pytest.mark.parametrize('name', ['bridge', 'bridge_dataset'])
def test_bridge_also_gives_arm7d(name):
  given = CASES[name][0]
  steps = {'is_last': END} | (given if 'action' in given else {'action': given})
  if name == 'bridge':
    steps['action'] = {key: np.asarray(value) for key, value in given.items()}
  action = adapters.get(name).action(steps)
  spec = actions.get('arm7d')
  opening = [[1], [0]] if name == 'bridge' else [[1], [0.4]]
  np.testing.assert_allclose(spec.pack({key: action[key] for key in spec.names}), np.concatenate([V, R, opening], 1))


@pytest.mark.parametrize(('name', 'signs'), [('taco_play', [[1], [-1]]), ('toto', [[1], [0]])])
def test_signs_of_rt1_x_remain_available(name, signs, tmp_path):
  """The released notebook passes both numbers on, so that an open gripper is 1."""
  written = rlds_episodes.episode(name, 2, **CASES[name][0])
  folder = str(rlds_episodes.write(tmp_path, name, {'train': [written]}))
  gripper = {}
  for released in (False, True):
    (episode,) = Dataset(folder, 'train', actions.RT1_X, rt1_x_grippers=released).read_all()
    fields = actions.RT1_X.unpack(episode.actions)
    gripper[released] = fields.pop('gripper_closedness_action')
  np.testing.assert_array_equal(gripper[False], COLUMN)
  np.testing.assert_array_equal(gripper[True], signs)


def test_only_two_adapters_correct_rt1_x():
  corrected = {name for name, adapter in adapters.ADAPTERS.items() if adapter.rt1_x_action}
  assert corrected == {'taco_play', 'toto'}


def test_a_cut_episode_does_not_terminate():
  action = adapters.arm_action(np.zeros((2, 7)), np.array([False, False]))
  np.testing.assert_array_equal(action['terminate_episode'], [[0, 1, 0]] * 2)


def test_weights_are_those_of_rt1_x():
  assert {name: adapters.get(name).weight for name in PUBLISHED_WEIGHTS} == PUBLISHED_WEIGHTS


def test_misshapen_arm_action():
  with pytest.raises(ValueError, match=r'\(2, 6\), expected \[steps, 7\]'):
    adapters.arm_action(np.zeros((2, 6)), END)


def test_names(monkeypatch):
  monkeypatch.setattr(adapters, 'ADAPTERS', dict(adapters.ADAPTERS))
  with pytest.raises(ValueError, match=r"Did you mean 'bridge_dataset'.*your_robot"):
    adapters.get('bridge_datasets')
  mine = dataclasses.replace(adapters.get('reach'), name='mine')
  adapters.register(mine)
  assert adapters.get('mine') is mine


def test_cameras():
  adapter = adapters.get('jaco_play')
  assert adapter.camera('image') == 'observation/image' and adapter.camera('wrist') == 'observation/image_wrist'
  with pytest.raises(ValueError, match=r"no view 'wrst', it has \['image', 'wrist'\].*Did you mean 'wrist'"):
    adapter.camera('wrst')
  with pytest.raises(ValueError, match="'mine': a view is called 'image'"):
    dataclasses.replace(adapter, name='mine', views={'image': 'observation/image_wrist'})


def test_feature_suggests_the_nearest():
  with pytest.raises(ValueError, match="Did you mean 'observation/image_0'"):
    adapters.feature({'observation': {'image_0': ZERO, 'state': ZERO}}, 'observation/image')


def test_bridge_sample(shared):
  (*_, steps) = rlds_episodes.read(shared / 'data/bridge_dataset/1.0.0')
  action = adapters.get('bridge_dataset').action(steps)
  spec = actions.get('arm7d')
  np.testing.assert_array_equal(spec.pack({name: action[name] for name in spec.names}), steps['action'])
  assert adapters.feature(steps, adapters.get('bridge_dataset').embedding).shape == (len(steps['action']), 512)


def test_example_of_the_docs(monkeypatch):
  monkeypatch.setattr(adapters, 'ADAPTERS', dict(adapters.ADAPTERS))
  docs = (ROOT / 'docs/guides/your_robot.md').read_text()
  (code,) = [block for block in re.findall(r'```python\n(.*?)```', docs, re.S) if 'register(' in block]
  exec(code, {})
  steps = {'action': {'ee_delta': np.concatenate([V, R], 1), 'closed': np.array([0, 1], np.float32)}, 'is_last': END}
  action = adapters.get('my_robot').action(steps)
  np.testing.assert_array_equal(action['translation'], V)
  np.testing.assert_array_equal(action['gripper'], [[1], [0]])
  np.testing.assert_array_equal(action['gripper_closedness_action'], COLUMN)


def test_import_is_light():
  code = 'import sys, rtjax.data.rlds.adapters; sys.exit("tensorflow" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def test_metadata_keeps_the_action_spec():
  joints = actions.ActionField('joints', 6, -3.2, (1, 2, 3, 3, 3, 3), unit='rad')
  own = actions.ActionSpec((joints, actions.classes('grip', 2)))
  stored = json.loads(json.dumps(adapters.standard_metadata(own, 'some/1')))
  assert adapters.stored_spec(stored) == own
  assert adapters.stored_spec(None) is None and adapters.stored_spec({'layout': 'rtjax/1'}) is None


def test_a_registered_adapter_precedes_metadata(monkeypatch):
  monkeypatch.setattr(adapters, 'ADAPTERS', dict(adapters.ADAPTERS))
  metadata = adapters.standard_metadata(actions.ARM_7D, 'some/1')
  assert adapters.get('mine', metadata).embedding_id == 'some/1'
  mine = adapters.Adapter('mine', adapters.flat_arm)
  adapters.register(mine)
  assert adapters.get('mine', metadata) is mine
  with pytest.raises(ValueError, match='no adapter'):
    adapters.get('other', metadata | {'layout': 'unknown/7'})
  with pytest.raises(ValueError, match=r"'other' has the layout 'rtjax/2', this version .* reads 'rtjax/1': read it"):
    adapters.get('other', metadata | {'layout': 'rtjax/2'})
