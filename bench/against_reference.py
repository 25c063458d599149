"""rtjax against official RT-1 and RT-1-X code, steps in turn.

    git clone https://github.com/google-research/robotics_transformer
    python3.11 -m venv reference && reference/bin/pip install tensorflow-cpu==2.15.1 tf-agents==0.19
    python bench/against_reference.py --code robotics_transformer --python reference/bin/python [--pairs 5]
    git clone https://github.com/google-deepmind/open_x_embodiment      # runs in rtjax's environment, with TensorFlow
    python bench/against_reference.py --code open_x_embodiment/models --only rt1_x_policy

Times the policy step (one image of 256x320, 11 tokens) and the training step (2 windows of 6 frames, Adam) of the full
network with random weights, on the CPU. Each code runs in a process of its own, and the steps alternate, so that other
work on the machine slows both alike: only the ratio counts. Prints a line of JSON per kind of step: medians, and the
ratio of every pair. The first step of each process compiles and is not counted.
"""
import argparse
import collections
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np

Step = Callable[[], Any]
_TENSORFLOW = 'policy', 'train'
_FILES = {'policy': 'transformer_network.py', 'train': 'transformer_network.py',
          'rt1_x_policy': 'rt1_inference_example.py'}  # one of each clone
_BATCH, _WINDOW, _IMAGE = 2, 6, (256, 320, 3)
_ACTIONS = {'world_vector': (3, 1.0), 'rotation_delta': (3, np.pi / 2), 'gripper_closedness_action': (1, 1.0),
            'base_displacement_vertical_rotation': (1, np.pi), 'base_displacement_vector': (2, 1.0)}


def rtjax_policy() -> Step:
  from steps import policy_step

  from rtjax.models import RT1Config, build
  return policy_step(build(RT1Config(), seed=0))


def rtjax_train() -> Step:
  from steps import TrainingStep

  from rtjax import configs, models
  preset = configs.get('rt1')
  config = dataclasses.replace(preset, model=dataclasses.replace(preset.model, dtype='float32'), batch_size=_BATCH,
                               grad_accum_steps=1)
  return TrainingStep(config, models.build(config.model, seed=0))


def rtjax_rt1_x_policy() -> Step:
  from steps import policy_step

  from rtjax.models import RT1_X, build
  return policy_step(build(RT1_X, seed=0))


def reference_rt1_x_policy() -> Step:
  """One call of the example's policy, with the last 15 images."""
  import jax
  jax.tree_map = jax.tree.map  # its old name, gone from JAX
  import rt1
  import rt1_inference_example
  network = rt1.RT1(num_image_tokens=81, num_action_tokens=11, layer_size=256, vocab_size=512,
                    world_vector_range=(-2.0, 2.0))
  shapes = {'image': jax.ShapeDtypeStruct((1, 15, 300, 300, 3), np.float32),
            'natural_language_embedding': jax.ShapeDtypeStruct((1, 15, 512), np.float32)}
  keys, random = {name: jax.random.key(0) for name in ('params', 'random')}, np.random.default_rng(0)
  leaves = jax.eval_shape(
      lambda shapes: network.init(keys, shapes, act=None, act_tokens=np.zeros((1, 6, 11)), train=False), shapes)
  variables = jax.tree.map(
      lambda leaf: (random.normal(0, 0.02, leaf.shape) if leaf.ndim > 1 else np.ones(leaf.shape)).astype(leaf.dtype),
      leaves)
  policy = rt1_inference_example.RT1Policy(model=network, variables=variables)
  window = {'image': _images(15), 'natural_language_embedding': np.zeros((15, 512), np.float32)}
  return lambda: policy.action(window)


def reference_policy() -> Step:
  """One call of the policy that `SequenceAgent` would deploy."""
  import tensorflow as tf
  from tf_agents.trajectories import time_step as ts
  policy, images = _reference_agent(tf).policy, _images(8)
  state = policy.get_initial_state(1)

  @tf.function
  def act(image: Any, state: Any) -> Any:
    observation = {'image': tf.image.convert_image_dtype(image, tf.float32)[None],
                   'natural_language_embedding': tf.zeros((1, 512))}
    return policy.action(ts.restart(observation, batch_size=1), state)

  def run() -> None:
    nonlocal state
    result = act(tf.constant(images[np.random.randint(8)]), state)
    state = result.state
    result.action['world_vector'].numpy()
  return run


def reference_train() -> Step:
  """One call of `SequenceAgent.train`."""
  import tensorflow as tf
  from tf_agents.trajectories import trajectory
  agent, lead, random = _reference_agent(tf), (_BATCH, _WINDOW), np.random.default_rng(0)
  images = tf.constant(_images(*lead))
  actions = _struct({name: tf.constant(random.uniform(-bound, bound, (*lead, size)), tf.float32)
                     for name, (size, bound) in _ACTIONS.items()})
  actions['terminate_episode'] = tf.one_hot(tf.zeros(lead, tf.int32), 3, dtype=tf.int32)

  @tf.function
  def step() -> Any:
    observation = _struct({'image': tf.image.convert_image_dtype(images, tf.float32),
                           'natural_language_embedding': tf.zeros((*lead, 512))})
    ones = tf.ones(lead)
    middle = tf.ones(lead, tf.int32)
    return agent.train(trajectory.Trajectory(middle, observation, actions, (), middle, ones, ones)).loss
  return lambda: step().numpy()


def _reference_agent(tf: Any) -> Any:
  """Return the official agent with the network of its published configuration."""
  import functools

  from robotics_transformer import sequence_agent, transformer_network
  from robotics_transformer.film_efficientnet import film_efficientnet_encoder, pretrained_efficientnet_encoder
  from tf_agents.specs import tensor_spec
  from tf_agents.trajectories import time_step as ts
  # Random weights: those of ImageNet need not be in the clone.
  pretrained_efficientnet_encoder._MODELS['b3'] = lambda weights, **settings: film_efficientnet_encoder.EfficientNetB3(
      weights=None, **settings)
  observations = _struct({'image': tensor_spec.BoundedTensorSpec(_IMAGE, tf.float32, 0, 1, 'image'),
                          'natural_language_embedding': tensor_spec.TensorSpec([512], tf.float32, 'embedding')})
  actions = _struct({'terminate_episode': tensor_spec.BoundedTensorSpec([3], tf.int32, 0, 1, 'terminate_episode')})
  for name, (size, bound) in _ACTIONS.items():
    actions[name] = tensor_spec.BoundedTensorSpec([size], tf.float32, -bound, bound, name)
  network = functools.partial(
      transformer_network.TransformerNetwork, num_layers=8, layer_size=128, num_heads=8, feed_forward_size=512,
      vocab_size=256, token_embedding_size=512, crop_size=236, action_order=list(actions))
  agent = sequence_agent.SequenceAgent(
      ts.time_step_spec(observations), actions, network, tf.keras.optimizers.Adam(1e-4), time_sequence_length=_WINDOW,
      train_step_counter=tf.compat.v1.train.get_or_create_global_step())
  agent.initialize()
  return agent


class _Struct(collections.OrderedDict):
  """An ordered dictionary in place of tensor2robot's TensorSpecStruct."""


def _struct(entries: dict[str, Any]) -> Any:
  from tensor2robot.utils import tensorspec_utils
  return tensorspec_utils.TensorSpecStruct(entries)


def _add_reference(code: str) -> None:
  """Make the official code importable.

  Pip has no tensor2robot, of which it needs one class: a stand-in.
  """
  folder = tempfile.mkdtemp(prefix='reference-')
  pathlib.Path(folder, 'robotics_transformer').symlink_to(pathlib.Path(code).resolve())
  sys.path.insert(0, folder)
  names = 'tensor2robot', 'tensor2robot.utils', 'tensor2robot.utils.tensorspec_utils'
  sys.modules.update({name: types.ModuleType(name) for name in names})
  sys.modules[names[1]].tensorspec_utils = sys.modules[names[2]]  # type: ignore[attr-defined]
  sys.modules[names[2]].TensorSpecStruct = _Struct  # type: ignore[attr-defined]


def _images(*lead: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (*lead, *_IMAGE), dtype=np.uint8)


def work(name: str, code: str) -> None:
  """Run a step for every line on stdin, and print its seconds."""
  answers = os.dup(1)
  os.dup2(2, 1)  # what libraries print must not end up between the answers
  if name == 'reference_rt1_x_policy':
    sys.path.insert(0, code)  # its files import each other by their names alone
  elif name.startswith('reference'):
    _add_reference(code)
  else:
    from rtjax.runtime import malloc
    malloc.keep_freed_memory()  # as train.py, eval.py and the server do
  step: Step = globals()[name]()
  with os.fdopen(answers, 'w') as out:
    for _ in sys.stdin:
      start = time.perf_counter()
      step()
      print(time.perf_counter() - start, file=out, flush=True)


class Worker:
  """A process that takes steps on demand."""

  def __init__(self, python: str, name: str, code: str):
    environment = os.environ | {'TF_CPP_MIN_LOG_LEVEL': '3', 'CUDA_VISIBLE_DEVICES': '', 'JAX_PLATFORMS': 'cpu'}
    self._process = subprocess.Popen([python, __file__, '--work', name, '--code', code], text=True, env=environment,
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    self._name = name

  def __enter__(self) -> 'Worker':
    return self

  def __exit__(self, *_: Any) -> None:
    self._process.kill()
    self._process.wait()

  def seconds(self) -> float:
    """Take a step; return its time."""
    assert self._process.stdin and self._process.stdout
    self._process.stdin.write('step\n')
    self._process.stdin.flush()
    answer = self._process.stdout.readline()
    if not answer:
      raise SystemExit(f'error: {self._name} ended with status {self._process.wait()}; its message is above.')
    return float(answer)


def compare(kind: str, python: str, code: str, pairs: int) -> dict[str, Any]:
  """Return times of both codes' steps of a kind, and their ratios."""
  with Worker(python, f'reference_{kind}', code) as theirs, Worker(sys.executable, f'rtjax_{kind}', code) as ours:
    first = [theirs.seconds(), ours.seconds()]
    for worker in (theirs, ours):
      worker.seconds()  # the second one still touches fresh memory
    times = [(theirs.seconds(), ours.seconds()) for _ in range(pairs)]
  ratios = [a / b for a, b in times]
  return {'step': kind, 'pairs': pairs, 'reference_s': round(statistics.median(a for a, _ in times), 4),
          'rtjax_s': round(statistics.median(b for _, b in times), 4),
          'ratio': round(statistics.median(ratios), 2), 'ratios': [round(ratio, 2) for ratio in ratios],
          'first_step_s': [round(seconds, 1) for seconds in first], 'cores': os.cpu_count()}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--code', required=True, help='clone of google-research/robotics_transformer, or the folder '
                      'models of one of google-deepmind/open_x_embodiment')
  parser.add_argument('--python', help='Python of the environment with tensorflow-cpu 2.15.1 and tf-agents 0.19')
  parser.add_argument('--pairs', type=int, default=5, help='steps of each code')
  parser.add_argument('--only', choices=_FILES, help='one kind of step')
  parser.add_argument('--work', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.work:
    return work(arguments.work, arguments.code)
  kinds = [arguments.only] if arguments.only else _TENSORFLOW
  if not pathlib.Path(arguments.code, _FILES[kinds[0]]).is_file():
    parser.error(f'--code {arguments.code} holds no {_FILES[kinds[0]]}: expected a clone as in --help')
  if kinds[0] in _TENSORFLOW and not arguments.python:
    parser.error('--python is missing: the Python of an environment with tensorflow-cpu==2.15.1 and tf-agents==0.19')
  for kind in kinds:
    print(json.dumps(compare(kind, arguments.python or sys.executable, arguments.code, arguments.pairs)), flush=True)


if __name__ == '__main__':
  main()
