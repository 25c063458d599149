"""Distillation (Hinton et al. 2015): targets from a larger network.

The student's targets are a mixture, `weight` times the teacher's probabilities plus the rest on the recorded token, at
temperature 1: with 256 bins the neighbours of the right one already carry much of the teacher's knowledge. The teacher
takes the same augmented images, in inference mode.
"""
import dataclasses
import os

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from rtjax import pretrained
from rtjax.actions import ActionSpec
from rtjax.models import PolicyConfig
from rtjax.observation import Batch
from rtjax.training import sharding
from rtjax.training.state import Tree, merge, split


def load_teacher(path: str | os.PathLike, student: PolicyConfig, mesh: Mesh) -> tuple[nnx.GraphDef, Tree]:
  """Load the definition and the variables of a teacher, on the mesh.

  Args:
    path: anything that `rtjax.load_model` reads.

  Raises:
    FileNotFoundError, ValueError: as `rtjax.load_model`; or the teacher does not support distillation, or its window,
      padding, horizon or actions differ from the student's.
  """
  model = pretrained.load_model(path)
  if not model.config.supports_distillation:
    raise ValueError(f'--distillation.teacher {path}: a {type(model).__name__} does not support '
                     'distillation, expected an RT-1 or RT-1-X.')
  theirs, ours = _interface(model.config), _interface(student)
  for name in ours:
    if theirs[name] != ours[name]:
      raise ValueError(f"--distillation.teacher {path}: its {name} is {_describe(theirs[name])}, the student's "
                       f'{_describe(ours[name])}; both must take the same windows and predict the same tokens. Change '
                       'the student or the teacher.')
  graphdef, *trees = split(model)
  return graphdef, tuple(sharding.place(tree, mesh) for tree in trees)


def with_targets(batch: Batch, teacher: Tree, *, graphdef: nnx.GraphDef, weight: float) -> Batch:
  """Return the batch with `target_probabilities` in place of recorded tokens."""
  model = merge(graphdef, *teacher)
  observation, actions, _ = batch.windows()
  spec = model.config.action_spec
  labels = jax.nn.one_hot(spec.tokenize(actions), spec.vocab_size)
  probabilities = jax.nn.softmax(model.logits(observation)).reshape(labels.shape)
  targets = (1 - weight) * labels + jnp.float32(weight) * probabilities
  return dataclasses.replace(batch, target_probabilities=jax.lax.stop_gradient(targets))


def _interface(config: PolicyConfig) -> dict[str, object]:
  return {'window': config.window, 'padding': config.padding, 'horizon': config.horizon,
          'action_spec': config.action_spec}


def _describe(value: object) -> str:
  return ', '.join(value.names) if isinstance(value, ActionSpec) else str(value)
