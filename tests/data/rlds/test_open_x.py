"""Adapters of public datasets, each on an episode of its layout: order, units, gripper, instruction and cameras."""
import numpy as np
import pytest
from helpers import rlds_layouts

from rtjax import actions
from rtjax.data.language import ComputedVectors
from rtjax.data.rlds import adapters, open_x
from rtjax.data.rlds.episodes import Dataset
from rtjax.language.instructions import HashedNgrams, hashed_ngrams

TEXT = 'put the cup down'
CHANGE = np.float32([0.01, -0.02, 0.03, 0.04, -0.05, 0.06])
OPENING = np.float32([1, 0, 1])  # of the three steps
ROBOSUITE = [0.05] * 3 + [0.5] * 3


def signed(opening: float, open_: float, closed: float) -> float:
  return open_ if opening else closed


def flat(opening, scale=1.0, open_=1.0, closed=0.0, before=0, after=0):
  """`action` with six changes in recorded units, and the gripper's number."""
  numbers = np.concatenate([np.full(before, 9), CHANGE / scale, [signed(opening, open_, closed)], np.full(after, 9)])
  return {'action': numbers.astype(np.float32)}


def quaternion(opening, **gripper):
  from scipy.spatial.transform import Rotation
  turned = Rotation.from_euler('xyz', CHANGE[3:]).as_quat()
  return {'action': np.float32([*CHANGE[:3], *turned, signed(opening, **gripper)])}


def droid(opening):
  return {'action': np.full(7, 9.0), 'action_dict/cartesian_velocity': CHANGE / ([0.075] * 3 + [0.15] * 3),
          'action_dict/gripper_position': np.array([1.0 - opening])}


def bc_z(opening):
  def ten(first):
    return np.concatenate([first, np.full(27, 9)]).astype(np.float32)
  return {'action/future/xyz_residual': ten(CHANGE[:3]), 'action/future/axis_angle_residual': ten(CHANGE[3:]),
          'action/future/target_close': np.array([1 - opening, *[9] * 9], np.int64)}


def fanuc(opening):
  state = np.full(13, 9, np.float32)
  state[6] = 1 - opening
  return {'action': CHANGE, 'observation/state': state}


def dlr_edan(opening):
  return {'action': np.float32([*CHANGE[:3], *CHANGE[[5, 3, 4]], 1 - opening])}


def kitchen(opening):
  return {'action': np.float32([*CHANGE[:3] * 1000, *np.rad2deg(CHANGE[3:]), opening, 9])}


# {dataset: (action of a step by its opening, cameras by view, state, instruction, vectors' encoder)}
RLDS = 'language_instruction'
LARGE, SMALL = 'universal-sentence-encoder-large/5', 'universal-sentence-encoder/4'
WRIST = {'image': 'image', 'wrist': 'wrist_image'}
DROID = ({'image': 'exterior_image_1_left', 'exterior_2': 'exterior_image_2_left', 'wrist': 'wrist_image_left'},
         'cartesian_position', RLDS, None)
FMB = ({'image': 'image_side_1', 'side_2': 'image_side_2', 'wrist': 'image_wrist_1', 'wrist_2': 'image_wrist_2'},
       'eef_pose', RLDS, LARGE)


def robosuite(opening):
  return flat(opening, ROBOSUITE, -1, 1)


def as_recorded(opening):
  return flat(opening)


LAYOUTS = {
    **{name: (droid, *DROID) for name in ('droid', 'droid_100', 'droid_101', 'r2d2_faceblur')},
    **{f'libero_{name}': (robosuite, WRIST, 'state', RLDS, None) for name in (
        'spatial_no_noops', 'object_no_noops', 'goal_no_noops', '10_no_noops', '90')},
    'bridge_orig': (as_recorded, {'image': 'image_0', **{f'image_{i}': f'image_{i}' for i in (1, 2, 3)}}, 'state', RLDS,
                    LARGE),
    'bc_z': (bc_z, {'image': 'image'}, 'present/xyz', 'observation/natural_language_instruction', SMALL),
    'stanford_hydra_dataset_converted_externally_to_rlds': (
        lambda opening: flat(opening, open_=0, closed=1), WRIST, 'state', RLDS, LARGE),
    **{name: (robosuite, WRIST, 'state', RLDS, LARGE) for name in (
        'austin_buds_dataset_converted_externally_to_rlds', 'austin_sailor_dataset_converted_externally_to_rlds',
        'austin_sirius_dataset_converted_externally_to_rlds', 'utaustin_mutex')},
    'nyu_franka_play_dataset_converted_externally_to_rlds': (
        lambda opening: flat(opening, closed=-1, before=7, after=1),
        {'image': 'image', 'additional': 'image_additional_view'}, 'state', RLDS, LARGE),
    'maniskill_dataset_converted_externally_to_rlds': (
        lambda opening: flat(opening, 0.1, closed=-1), WRIST, 'state', RLDS, LARGE),
    'furniture_bench_dataset_converted_externally_to_rlds': (
        lambda opening: quaternion(opening, open_=-1, closed=1), WRIST, 'state', RLDS, LARGE),
    'dlr_edan_shared_control_converted_externally_to_rlds': (dlr_edan, {'image': 'image'}, 'state', RLDS, LARGE),
    'berkeley_fanuc_manipulation': (fanuc, WRIST, 'state', RLDS, LARGE),
    'cmu_stretch': (lambda opening: flat(opening, after=1), {'image': 'image'}, 'state', RLDS, LARGE),
    'dobbe': (as_recorded, {'image': 'wrist_image'}, 'state', RLDS, LARGE),
    'fmb': (as_recorded, *FMB), 'fmb_dataset': (as_recorded, *FMB),
    'ucsd_kitchen_dataset_converted_externally_to_rlds': (kitchen, {'image': 'image'}, 'state', RLDS, LARGE),
    'iamlab_cmu_pickup_insert_converted_externally_to_rlds': (
        lambda opening: quaternion(opening, open_=1, closed=0), WRIST, 'state', RLDS, LARGE),
}
POSES = ('ucsd_kitchen_dataset_converted_externally_to_rlds', 'iamlab_cmu_pickup_insert_converted_externally_to_rlds')


def step(name, t):
  action, cameras, state, instruction, encoder = LAYOUTS[name]
  values = {f'observation/{state}': np.arange(3, dtype=np.float32), instruction: TEXT, 'is_last': np.bool_(t == 2),
            'observation/depth': np.zeros((70, 70), np.float32)}
  values |= {f'observation/{camera}': np.full((8, 8, 3), 20 * i + t, np.uint8)
             for i, camera in enumerate(cameras.values())}
  if encoder:
    values[instruction.replace('instruction', 'embedding')] = np.ones(512, np.float32)
  return values | action(int(OPENING[t]))


def open_layout(tmp_path, name, spec, **options):
  folder = rlds_layouts.write(tmp_path, name, 3, lambda t: step(name, t))
  cameras, encoder = LAYOUTS[name][1], LAYOUTS[name][4]
  vectors = None if encoder else ComputedVectors(HashedNgrams())
  return Dataset(folder, 'train', spec, views=tuple(cameras), proprioception=True, vectors=vectors, **options)


def test_every_adapter_is_tested():
  families = {name.replace('*', '') for name in (a.name for a in open_x.ADAPTERS)}
  assert {name for name in families if not any(layout.startswith(name) for layout in LAYOUTS)} == {'language_table'}


@pytest.mark.parametrize('name', LAYOUTS)
def test_an_episode_of_each_layout(name, tmp_path):
  spec = actions.POSE_7D if name in POSES else actions.ARM_7D
  dataset = open_layout(tmp_path, name, spec)
  (episode,) = dataset.read_all()
  np.testing.assert_allclose(episode.actions[:, :6], [CHANGE] * 3, atol=1e-6)
  opened = episode.actions[:, 6:].argmax(1) if name in POSES else episode.actions[:, 6]
  np.testing.assert_array_equal(opened, OPENING)
  np.testing.assert_array_equal(episode.instructions, [TEXT] * 3)
  encoder = LAYOUTS[name][4]
  assert dataset.embedding_id == (encoder or 'hashed-ngrams/1')
  np.testing.assert_array_equal(episode.embeddings, np.ones((3, 512)) if encoder else [hashed_ngrams(TEXT)] * 3)
  for view in range(len(LAYOUTS[name][1])):
    image = next(dataset.decoder(None)(episode, [1], view))
    assert abs(image.mean() - (20 * view + 1)) < 2  # JPEG
  assert episode.proprioception is not None and dataset.adapter.name == name
  assert 'observation/depth' not in dataset._used


@pytest.mark.parametrize('name', sorted(set(LAYOUTS) - set(POSES)))
def test_rt1_fields_of_each_layout(name, tmp_path):
  (episode,) = open_layout(tmp_path, name, actions.RT1).read_all()
  fields = actions.RT1.unpack(episode.actions)
  np.testing.assert_allclose(fields['world_vector'], [CHANGE[:3] * 35] * 3, rtol=1e-4)
  np.testing.assert_allclose(fields['rotation_delta'], [CHANGE[3:] * 5.6] * 3, rtol=1e-4)
  np.testing.assert_array_equal(fields['gripper_closedness_action'][:, 0], 1 - 2 * OPENING)  # 1 closes
  np.testing.assert_array_equal(fields['terminate_episode'], [[0, 1, 0], [0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize('name', ['language_table', 'language_table_sim', 'language_table_blocktoblock_oracle_sim'])
def test_language_table(name, tmp_path):
  """Two numbers, a text of UTF-8 bytes padded with zeros, and no gripper."""
  raw = np.zeros(512, np.int32)
  raw[:19] = list('schiebe zum grünen'.encode())
  planar = np.float32([0.02, -0.01])
  folder = rlds_layouts.write(tmp_path, name, 2, lambda t: {
      'action': planar, 'is_last': np.bool_(t == 1), 'observation/instruction': raw,
      'observation/rgb': np.zeros((8, 8, 3), np.uint8), 'observation/effector_translation': np.zeros(2, np.float32),
      'observation/effector_target_translation': np.zeros(2, np.float32)})
  vectors = ComputedVectors(HashedNgrams())
  (arm,) = Dataset(folder, 'train', actions.ARM_7D, vectors=vectors, proprioception=True).read_all()
  np.testing.assert_array_equal(arm.actions, [[*planar, 0, 0, 0, 0, 1]] * 2)
  assert arm.instructions[0] == 'schiebe zum grünen'
  (own,) = Dataset(folder, 'train', actions.LANGUAGE_TABLE, vectors=vectors).read_all()
  np.testing.assert_array_equal(own.actions, [planar] * 2)
  assert own.waypoints is None
  (rt1,) = Dataset(folder, 'train', actions.RT1, vectors=vectors).read_all()
  assert not actions.RT1.unpack(rt1.actions)['gripper_closedness_action'].any()


def test_a_robot_without_vectors_says_which_flag_helps(tmp_path):
  folder = rlds_layouts.write(tmp_path, 'droid', 3, lambda t: step('droid', t))
  with pytest.raises(ValueError, match=r'stores no instruction vectors.*--pipeline.encoder hashed-ngrams/1.*RT-2'):
    Dataset(folder, 'train', actions.ARM_7D)


def test_an_unknown_layout_lists_its_features_and_fitting_adapters(tmp_path):
  folder = rlds_layouts.write(tmp_path, 'my_robot', 3, lambda t: step('libero_90', t))
  with pytest.raises(ValueError, match=r"'my_robot'.* action float32 \[7\].*language_instruction text.*"
                                       r"observation/image uint8 \[8, 8, 3\].*'libero_\*'.*your_robot"):
    Dataset(folder, 'train', actions.ARM_7D)


def test_padding_of_a_quaternion_is_no_rotation():
  steps = {'action': np.zeros((2, 8), np.float32), 'is_last': np.array([False, True])}
  action = adapters.get('furniture_bench_dataset_converted_externally_to_rlds').action(steps)
  np.testing.assert_array_equal(action['rotation'], np.zeros((2, 3)))


def test_the_users_own_metadata_precedes_a_built_in_name(monkeypatch):
  monkeypatch.setattr(adapters, 'ADAPTERS', dict(adapters.ADAPTERS))
  metadata = adapters.standard_metadata(actions.ARM_7D, 'some/1')
  assert adapters.get('droid', metadata).embedding_id == 'some/1'
  assert adapters.get('libero_mine', metadata).embedding_id == 'some/1'
  mine = adapters.Adapter('droid', adapters.flat_arm)
  adapters.register(mine)
  assert adapters.get('droid', metadata) is mine


def test_libero_gives_the_controllers_numbers_as_recorded(tmp_path):
  """OpenVLA's datasets: in 5 cm and 0.5 rad, -1 opens and 1 closes, eight numbers of state."""
  recorded = np.float32([[0.9, -0.3, 0, 0.1, 0, -0.375, -1], [-1, 0, 0.5, 0, 0, 0, 1]])
  state = np.arange(16, dtype=np.float32).reshape(2, 8)
  folder = rlds_layouts.write(tmp_path, 'libero_object_no_noops', 2, lambda t: {
      'action': recorded[t], 'is_last': np.bool_(t == 1), 'language_instruction': TEXT, 'observation/state': state[t],
      'observation/joint_state': np.zeros(7, np.float32), 'observation/image': np.zeros((8, 8, 3), np.uint8),
      'observation/wrist_image': np.zeros((8, 8, 3), np.uint8)})
  dataset = Dataset(folder, 'train', actions.LIBERO, proprioception=True, vectors=ComputedVectors(HashedNgrams()))
  (episode,) = dataset.read_all()
  np.testing.assert_array_equal(episode.actions, recorded)
  np.testing.assert_array_equal(episode.proprioception, state)


def test_libero_counts_what_it_clips():
  """The field of RT-1 holds at most 5 cm; the controller's own numbers reach as far as its 1, 5 cm along an axis."""
  steps = {'action': np.array([[1.2, 0, 0, 0, 0, 0, -1]], np.float32), 'is_last': np.array([False])}
  fields = adapters.get('libero_10_no_noops').action(steps)
  assert fields.limited['world_vector'].tolist() == [[True, False, False]]
  assert fields['osc_position'].tolist() == [[pytest.approx(1.2), 0, 0]]
