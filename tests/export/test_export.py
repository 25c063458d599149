"""Exports of tiny RT-1 models, loaded in their own runtimes."""
import dataclasses
import importlib
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.tiny_rt1 import TINY

import rtjax
from rtjax import models
from rtjax.checkpoints import PolicyMetadata
from rtjax.export import check
from rtjax.export.step import Step
from rtjax.models import parameters
from rtjax.models.auxiliary.config import AuxiliaryConfig
from rtjax.models.backbones.film_efficientnet import B0_STAGES, EfficientNetConfig, Stage
from rtjax.models.layers import transformer
from rtjax.policies.policy import Policy

# Where the parts of the network do not matter.
SMALL = dataclasses.replace(TINY, layers=1, encoder=EfficientNetConfig(width=0.2, depth=0.2, stages=B0_STAGES[:1]))
CAMERA = (40, 32)  # height and width of the images
NETWORKS = {
    'rt1': dataclasses.replace(TINY, horizon=2),
    'auxiliary': dataclasses.replace(
        TINY, window=1, proprioception_size=7, normalize_instruction=True, bin_smoothing=2.0, decoding='mean',
        auxiliary=AuxiliaryConfig(language_tokens=2, waypoint_weight=10.0),
        encoder=EfficientNetConfig(width=0.2, depth=0.2, head=160, stages=(
            Stage(3, 1, 48, 1, 2, dense=True), Stage(3, 2, 48, 1, 1, dense=True)))),
    'rt1_x': dataclasses.replace(TINY, padding='front', feed_forward='swiglu', images_see_actions=False)}
NEEDS = {'savedmodel': ['tensorflow'], 'stablehlo': ['flatbuffers'], 'onnx': ['tf2onnx', 'onnxruntime'],
         'safetensors': ['safetensors']}
SLOW_SAVEDMODEL = pytest.param('savedmodel', marks=pytest.mark.slow)  # test_equals_the_policy covers it quickly


# RT-1-X's network has one operation that RT-1's lacks, parts of a mask for each example.
@pytest.fixture(scope='module', params=['rt1', 'auxiliary', pytest.param('rt1_x', marks=pytest.mark.slow)])
def network(request):
  model = models.build(NETWORKS[request.param], seed=0)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(transformer, '_BLOCK', 4)  # as in RT-1-X, whose sequence is longer than one block
    yield Policy(model), Step(model, CAMERA)


def exported(format, step, folder, int8=False):
  for package in NEEDS[format] + ['qwix']:
    pytest.importorskip(package)
  module = importlib.import_module(f'rtjax.export.{format}')
  module.save(step, folder, int8)
  return module.load(folder, step)


@pytest.mark.parametrize('format', NEEDS)
def test_equals_the_policy(network, format, tmp_path):
  """Every step agrees, beyond a full window, with a new instruction for each episode."""
  policy, step = network
  if format == 'savedmodel' and step.config.proprioception_size:
    with pytest.raises(NotImplementedError, match="no input for the robot's state"):
      exported(format, step, tmp_path)
    return
  episodes = check.noise_frames(step, 15)
  assert [len(episode.images) for episode in episodes] == [10, 5]
  result = check.compare(check.reference(policy, episodes), exported(format, step, tmp_path), step, episodes)
  assert result.frames == 15 and result.equal == result.tokens == 15 * step.config.action_spec.num_tokens
  assert result.difference < 1e-5 and result.agrees and result.seconds > 0


@pytest.mark.parametrize('format', [SLOW_SAVEDMODEL, 'stablehlo', 'onnx'])
def test_any_batch_size(format, tmp_path):
  """Each robot of a batch gets the same outputs as alone."""
  step = Step(models.build(SMALL, seed=0), CAMERA)
  call = exported(format, step, tmp_path)
  draw = np.random.default_rng(0)
  images = draw.integers(0, 256, (3, *CAMERA, 3), dtype=np.uint8)
  embeddings = draw.normal(size=(3, step.config.embedding_size)).astype(np.float32)
  cache = {name: np.repeat(leaf, 3, 0) for name, leaf in step.cache.items()}
  cache = {name: np.asarray(leaf) for name, leaf in call(cache, images[::-1], embeddings)['cache'].items()}
  together = call(cache, images, embeddings)
  for robot in range(3):
    row = slice(robot, robot + 1)
    alone = call({name: leaf[row] for name, leaf in cache.items()}, images[row], embeddings[row])
    for name in ('logits', 'action'):
      np.testing.assert_allclose(np.asarray(together[name])[row], np.asarray(alone[name]), atol=1e-5)


@pytest.mark.parametrize('format', [SLOW_SAVEDMODEL, *(format for format in NEEDS if format != 'savedmodel')])
def test_int8_is_close_and_smaller(format, tmp_path):
  model = models.build(SMALL, seed=0)
  policy, step = Policy(model), Step(model, CAMERA)
  episodes = check.noise_frames(step, 10)
  folders = [tmp_path / 'float32', tmp_path / 'int8']
  for folder in folders:
    folder.mkdir()
  exported(format, step, folders[0])
  quantized = exported(format, step, folders[1], int8=True)
  result = check.compare(check.reference(policy, episodes), quantized, step, episodes)
  # Some tokens differ: the two best logits of an untrained model are about as close.
  assert 0 < result.difference < 0.1 and result.equal > 0.8 * result.tokens
  assert check.folder_size(folders[1]) < check.folder_size(folders[0])


def test_int8_weights_cannot_overflow_16_bit_sums(tmp_path):
  """A processor without VNNI adds two products in 16 bits; with 7-bit weights the sum cannot overflow."""
  step = Step(models.build(SMALL, seed=0), CAMERA)
  exported('onnx', step, tmp_path, int8=True)
  onnx = pytest.importorskip('onnx')
  graph = onnx.load(tmp_path / 'policy.onnx').graph
  weights = [onnx.numpy_helper.to_array(w) for w in graph.initializer if w.data_type == onnx.TensorProto.INT8]
  largest = max(int(np.abs(w.astype(int)).max()) for w in weights if w.ndim == 2)
  assert largest > 0 and 2 * largest * 255 < 2 ** 15


def test_images_are_resized_as_in_training(tmp_path):
  model = models.build(SMALL, seed=0)
  metadata = PolicyMetadata(image_size=(64, 64))
  policy, step = Policy(model, metadata), Step(model, CAMERA, metadata)
  episodes = check.noise_frames(step, 3)
  result = check.compare(check.reference(policy, episodes), exported('savedmodel', step, tmp_path), step, episodes)
  assert result.agrees


@pytest.mark.parametrize('format', ['stablehlo', 'onnx'])
def test_logits_that_are_not_finite_give_no_action(format, tmp_path):
  """With one damaged weight every number of the action is NaN, not the lowest bound; the comparison refuses."""
  model = models.build(SMALL, seed=0)
  bias = model.transformer.output.bias
  bias[...] = bias[...].at[3].set(np.nan)
  step = Step(model, CAMERA)
  episodes, call = check.noise_frames(step, 1), exported(format, step, tmp_path)
  outputs = call(step.cache, *(array[None] for array in next(iter(episodes[0]))))
  assert np.isnan(np.asarray(outputs['action'])).all()
  with pytest.raises(ValueError, match='the export computed NaN or infinite logits'):
    check.compare([], call, step, episodes)


def test_comparison_detects_another_model(tmp_path):
  both = [models.build(SMALL, seed=seed) for seed in range(2)]
  policy, step, other = Policy(both[0]), Step(both[0], CAMERA), Step(both[1], CAMERA)
  episodes = check.noise_frames(step, 3)
  result = check.compare(check.reference(policy, episodes), exported('stablehlo', other, tmp_path), step, episodes)
  assert not result.agrees and result.equal < result.tokens


def test_interface_of_released_policies(tmp_path):
  """Called as by SavedModelPyTFEagerPolicy with all observations, with the used ones alone, and by signature."""
  tf = pytest.importorskip('tensorflow')
  from rtjax.export.savedmodel import TimeStep
  config = dataclasses.replace(TINY, action_spec=rtjax.actions.RT1)
  step = Step(models.build(config, seed=0), CAMERA)
  exported('savedmodel', step, tmp_path)
  policy = tf.saved_model.load(str(tmp_path))
  state = policy.get_initial_state(batch_size=2)
  vectors = {name: tf.zeros((2, *shape)) for name, shape in [
      ('base_pose_tool_reached', (7,)), ('gripper_closed', (1,)), ('gripper_closedness_commanded', (1,)),
      ('height_to_bottom', (1,)), ('orientation_box', (2, 3)), ('orientation_start', (4,)),
      ('robot_orientation_positions_box', (3, 3)), ('rotation_delta_to_go', (3,)), ('src_rotation', (4,)),
      ('vector_to_go', (3,)), ('workspace_bounds', (3, 3))]}
  observation = vectors | {
      'image': tf.zeros((2, *CAMERA, 3), tf.uint8), 'natural_language_embedding': tf.ones((2, 512)),
      'natural_language_instruction': tf.constant(['', ''])}
  time_step = TimeStep(tf.ones(2, tf.int32), tf.zeros(2), tf.ones(2), observation)
  output = policy.action(time_step, state)
  assert {name: (value.dtype.name, tuple(value.shape)) for name, value in output.action.items()} == {
      'terminate_episode': ('int32', (2, 3)), 'world_vector': ('float32', (2, 3)),
      'rotation_delta': ('float32', (2, 3)), 'gripper_closedness_action': ('float32', (2, 1)),
      'base_displacement_vertical_rotation': ('float32', (2, 1)), 'base_displacement_vector': ('float32', (2, 2))}
  used = {name: observation[name] for name in ('image', 'natural_language_embedding')}
  again = policy.action(time_step._replace(observation=used), state)
  np.testing.assert_array_equal(again.info['logits'], output.info['logits'])
  served = policy.signatures['action'](**used, **{f'state_{name}': leaf for name, leaf in state.items()})
  np.testing.assert_array_equal(served['info_tokens'], output.info['tokens'])
  assert {name.removeprefix('action_') for name in served if name.startswith('action_')} == set(output.action)
  assert policy.action(time_step, output.state).state['num_frames'].numpy().tolist() == [2, 2]
  assert 'world_vector' in (tmp_path / 'policy_specs.pbtxt').read_text()


def test_stablehlo_runs_without_rtjax(tmp_path):
  model = models.build(SMALL, seed=0)
  exported('stablehlo', Step(model, CAMERA), tmp_path)
  code = (f'import sys, numpy as np\nfrom jax import export\n'
          f'program = export.deserialize(bytearray(open({str(tmp_path / "policy.stablehlo")!r}, "rb").read()))\n'
          f'cache = dict(np.load({str(tmp_path / "cache.npz")!r}))\n'
          f'out = program.call(cache, np.zeros((1, 40, 32, 3), np.uint8), np.ones((1, 512), np.float32))\n'
          f'assert "rtjax" not in sys.modules and program.platforms == ("cpu", "cuda", "tpu")\n'
          f'print(out["tokens"][0].tolist())')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  policy = Policy(model)
  policy.reset(embedding=np.ones(512, np.float32))
  assert json.loads(done.stdout) == policy.step(np.zeros((40, 32, 3), np.uint8)).tokens.tolist()


@pytest.mark.parametrize('name', NETWORKS)
def test_safetensors_is_a_model(name, tmp_path):
  safetensors = pytest.importorskip('safetensors.numpy')
  model = models.build(NETWORKS[name], seed=0)
  metadata = PolicyMetadata(embedding_id='some encoder', image_size=(64, 64))
  exported('safetensors', Step(model, CAMERA, metadata), tmp_path)
  file = tmp_path / 'policy.safetensors'
  named = parameters.named(model)
  assert safetensors.load_file(file).keys() == named.keys()
  for path in (tmp_path, file):
    read = rtjax.load_model(path)
    assert read.config == model.config
    assert all(np.array_equal(value, named[key]) for key, value in parameters.named(read).items())
  policy = rtjax.load_policy(tmp_path)
  assert policy.metadata.embedding_id == 'some encoder' and policy.metadata.image_size == (64, 64)


def test_safetensors_that_cannot_be_read(tmp_path):
  safetensors = pytest.importorskip('safetensors.numpy')
  file = tmp_path / 'some.safetensors'
  file.write_bytes(b'nothing')
  with pytest.raises(ValueError, match='cannot be read'):
    rtjax.load_model(file)
  safetensors.save_file({'x': np.zeros(1)}, file)
  with pytest.raises(ValueError, match='no export of rtjax'):
    rtjax.load_model(file)
  model = models.build(SMALL, seed=0)
  from rtjax.pretrained import safetensors as reader
  values = {key: np.asarray(value) for key, value in parameters.named(model).items()}
  values.pop('transformer/output/bias')
  reader.write(file, values, Step(model, CAMERA).metadata)
  with pytest.raises(ValueError, match='missing: transformer/output/bias'):
    rtjax.load_model(file)


def test_error_names_the_primitive_without_a_tensorflow_op():
  pytest.importorskip('tensorflow')
  from rtjax.data.tf import tf
  from rtjax.export import tf_ops
  closed, _ = tf_ops.trace(jax.lax.cumsum, np.zeros((2, 3), np.float32))
  with pytest.raises(NotImplementedError, match='cumsum'):
    tf_ops.Translation(closed, None)([tf.zeros((2, 3))], 2)
