"""SavedModel with the interface of released RT-1 policies, in plain TensorFlow ops.

    policy = tf.saved_model.load(folder)
    state = policy.get_initial_state(batch_size=1)
    step = policy.action(time_step, state)          # step.action: {name: [B, size]}, step.state: for the next call

`time_step` is a TimeStep (tf_agents' or one of the same fields). Its observation holds all inputs of released policies,
of which `image` and `natural_language_embedding` are used, or these two alone. The state is the model's cache in place
of six raw images; pass it back unchanged. `step.info` holds logits [B, K*F, V] and tokens. policy_specs.pbtxt is for
tf_agents' `SavedModelPyTFEagerPolicy(folder, load_specs_from_pbtxt=True)`.

The signature `action`, for servers that call SavedModels by name, takes `image`, `natural_language_embedding` and
`state_NAME`, and returns `action_NAME`, `state_NAME` and `info_NAME`.
"""
import pathlib
from collections import namedtuple
from typing import Any

import numpy as np
from google.protobuf import text_format

# Not public in TensorFlow; tf_agents reads and writes specifications with them.
from tensorflow.python.framework.tensor_spec import BoundedTensorSpec
from tensorflow.python.saved_model import nested_structure_coder

from rtjax.data.tf import tf
from rtjax.export.quantize import quantized
from rtjax.export.step import Step
from rtjax.export.tensorflow_step import TensorFlowStep

# A SavedModel identifies tuples by name and fields: these equal tf_agents' own.
TimeStep = namedtuple('TimeStep', ('step_type', 'reward', 'discount', 'observation'))
PolicyStep = namedtuple('PolicyStep', ('action', 'state', 'info'))
Trajectory = namedtuple(
    'Trajectory', ('step_type', 'observation', 'action', 'policy_info', 'next_step_type', 'reward', 'discount'))

# Inputs that released policies take and do not use.
_UNUSED = {
    'base_pose_tool_reached': (7,), 'gripper_closed': (1,), 'gripper_closedness_commanded': (1,),
    'height_to_bottom': (1,), 'orientation_box': (2, 3), 'orientation_start': (4,),
    'robot_orientation_positions_box': (3, 3), 'rotation_delta_to_go': (3,), 'src_rotation': (4,), 'vector_to_go': (3,),
    'workspace_bounds': (3, 3)}


def save(step: Step, folder: pathlib.Path, int8: bool) -> None:
  """Write the SavedModel; `int8` weights are dequantised in each call."""
  if step.config.proprioception_size:
    raise NotImplementedError("the interface of released policies has no input for the robot's state, which this model "
                              'uses.')
  call = TensorFlowStep(quantized(step) if int8 else step)
  policy = tf.Module()
  policy.model_variables = call.variables
  policy.train_step = tf.Variable(-1, trainable=False, dtype=tf.int64)  # unknown, as PolicySaver has it

  def act(observation: dict[str, Any], state: dict[str, Any]) -> Any:
    outputs = call(state, observation['image'], observation['natural_language_embedding'])
    return PolicyStep(_fields(step, outputs['action'][:, 0]), outputs['cache'],
                      {'logits': outputs['logits'], 'tokens': outputs['tokens']})

  def serve(**inputs: Any) -> dict[str, Any]:
    result = act(inputs, {name: inputs[f'state_{name}'] for name in step.cache})
    return {f'{part}_{name}': value for part in PolicyStep._fields for name, value in getattr(result, part).items()}

  def get_initial_state(batch_size: Any) -> dict[str, Any]:
    return {name: tf.repeat(value, batch_size, 0) for name, value in step.cache.items()}

  policy.action = tf.function(lambda time_step, policy_state: act(time_step.observation, policy_state),
                              autograph=False)
  policy.get_initial_state = tf.function(get_initial_state, autograph=False, input_signature=[
      tf.TensorSpec((), tf.int32, 'batch_size')])
  policy.get_train_step = tf.function(lambda: policy.train_step.read_value(), autograph=False, input_signature=[])
  released, used = _observations(step)
  for observation in (released, used):
    policy.action.get_concrete_function(*_batched((_time_step(observation), _state(step))))
  served = used | {f'state_{name}': spec for name, spec in _state(step).items()}
  tf.saved_model.save(policy, str(folder), signatures={
      'action': tf.function(serve, autograph=False).get_concrete_function(**{
          name: tf.TensorSpec((None, *spec.shape), spec.dtype, name) for name, spec in served.items()}),
      'get_initial_state': policy.get_initial_state.get_concrete_function()})
  _write_specs(step, folder / 'policy_specs.pbtxt')


def load(folder: pathlib.Path, step: Step) -> Any:
  """Return the policy in TensorFlow: (cache, images, embeddings) -> outputs of `Step`."""
  policy = tf.saved_model.load(str(folder))

  def run(cache: dict[str, np.ndarray], images: np.ndarray, embeddings: np.ndarray) -> dict[str, Any]:
    count = len(images)
    observation = {'image': tf.constant(images), 'natural_language_embedding': tf.constant(embeddings)}
    result = policy.action(TimeStep(tf.ones(count, tf.int32), tf.zeros(count), tf.ones(count), observation),
                           {name: tf.constant(value) for name, value in cache.items()})
    action = np.concatenate([result.action[name] for name in step.config.action_spec.names], -1, dtype=np.float32)
    return {'cache': {name: value.numpy() for name, value in result.state.items()}, 'action': action[:, None],
            **{name: value.numpy() for name, value in result.info.items()}}
  return run


def _fields(step: Step, action: Any) -> dict[str, Any]:
  """Split [B, A] into fields; classes are int32, as in released policies."""
  parts = tf.split(action, [f.size for f in step.config.action_spec.fields], -1)
  return {f.name: tf.cast(part, tf.int32) if f.kind == 'classes' else part
          for f, part in zip(step.config.action_spec.fields, parts, strict=True)}


def _observations(step: Step) -> list[dict[str, Any]]:
  """Return two observation specs: all inputs of released policies, the used ones."""
  used = {'image': tf.TensorSpec((*step.camera_size, 3), tf.uint8, 'image'),
          'natural_language_embedding': tf.TensorSpec((step.config.embedding_size,), tf.float32,
                                                      'natural_language_embedding')}
  unused = {name: tf.TensorSpec(shape, tf.float32, name) for name, shape in _UNUSED.items()}
  instruction = {'natural_language_instruction': tf.TensorSpec((), tf.string, 'natural_language_instruction')}
  return [used | unused | instruction, used]


def _time_step(observation: dict[str, Any]) -> TimeStep:
  return TimeStep(tf.TensorSpec((), tf.int32, 'step_type'), tf.TensorSpec((), tf.float32, 'reward'),
                  BoundedTensorSpec((), tf.float32, 0.0, 1.0, 'discount'), observation)


def _state(step: Step) -> dict[str, Any]:
  return {name: tf.TensorSpec(value.shape[1:], value.dtype, name) for name, value in step.cache.items()}


def _batched(specs: Any) -> Any:
  return tf.nest.map_structure(lambda spec: tf.TensorSpec((None, *spec.shape), spec.dtype, spec.name), specs)


def _write_specs(step: Step, path: pathlib.Path) -> None:
  config, time_step = step.config, _time_step(_observations(step)[0])
  action = {f.name: BoundedTensorSpec(
      (f.size,), tf.int32 if f.kind == 'classes' else tf.float32, np.asarray(f.low, np.float32),
      np.asarray(f.high, np.float32), f.name) for f in config.action_spec.fields}
  tokens = config.action_spec.num_tokens * config.horizon
  info = {'logits': tf.TensorSpec((tokens, config.action_spec.vocab_size), tf.float32, 'logits'),
          'tokens': tf.TensorSpec((tokens,), tf.int32, 'tokens')}
  trajectory = Trajectory(time_step.step_type, time_step.observation, action, info, time_step.step_type,
                          time_step.reward, time_step.discount)
  specs = {'collect_data_spec': trajectory, 'policy_state_spec': _state(step)}
  path.write_text(text_format.MessageToString(nested_structure_coder.encode_structure(specs)))
