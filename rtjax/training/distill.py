"""Distillation (Hinton et al. 2015): a small network learns what a large one finds likely, not the labels alone.

The student's targets are a mixture, `weight` times the teacher's probabilities plus the rest on the recorded token, at
temperature 1: with 256 bins the neighbours of the right one already carry much of what the teacher knows. The teacher
sees the same augmented pictures, in inference mode.
"""
import os
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from rtjax import pretrained
from rtjax.models import Config, RT1Config
from rtjax.training import sharding
from rtjax.training.state import Tree, merge, split

Batch = dict[str, Any]


def load_teacher(path: str | os.PathLike, student: Config, mesh: Mesh) -> tuple[nnx.GraphDef, Tree]:
  """A network's definition and variables, on the mesh, for `soften`.

  Args:
    path: anything that `rtjax.load_model` reads.

  Raises:
    FileNotFoundError, ValueError: as `rtjax.load_model`; or its window, horizon or actions are not the student's.
  """
  model = pretrained.load_model(path)
  if not isinstance(student, RT1Config) or not isinstance(model.config, RT1Config):
    raise ValueError(f'--teacher {path}: distillation is for RT-1 and RT-1-X; the teacher is {type(model).__name__}, '
                     f'the student has a {type(student).__name__}.')
  for name in ('window', 'padding', 'horizon', 'action_spec'):
    theirs, ours = getattr(model.config, name), getattr(student, name)
    if theirs != ours:
      raise ValueError(f"--teacher {path}: its {name} is {_short(theirs)}, the student's {_short(ours)}; both see the "
                       'same windows and predict the same tokens. Give the student the same, or take another teacher.')
  graphdef, *trees = split(model)
  return graphdef, tuple(sharding.place(tree, mesh) for tree in trees)


def soften(batch: Batch, teacher: Tree, *, graphdef: nnx.GraphDef, weight: float) -> Batch:
  """The batch with `targets` float32 [B, T, F, K, V], which `model.loss` prefers to the recorded tokens."""
  model = merge(graphdef, *teacher)
  spec = model.config.action_spec
  labels = jax.nn.one_hot(spec.tokenize(batch['actions']), spec.vocab_size)
  logits = model.apply(batch['images'], batch['embeddings'], batch.get('proprioception'))
  found = jax.nn.softmax(logits).reshape(labels.shape)
  return batch | {'targets': jax.lax.stop_gradient((1 - weight) * labels + jnp.float32(weight) * found)}


def _short(value: Any) -> str:
  return ', '.join(value.names) if hasattr(value, 'names') else str(value)
