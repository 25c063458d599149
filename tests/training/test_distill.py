"""Learning from a teacher: the targets, their gradient, and a run from the command line's settings."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.tiny_rt1 import TINY, tiny_batch

from rtjax import models
from rtjax.training import distill, sharding, state
from rtjax.training.step import train_step


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh((-1, 1, 1))


@pytest.fixture(scope='module')
def teacher():
  return models.build(dataclasses.replace(TINY, layers=3), rngs=nnx.Rngs(5))


@pytest.fixture(scope='module')
def batch():
  return {name: jnp.asarray(value) for name, value in tiny_batch(TINY, 2).items()}


def targets(teacher, batch, weight):
  graphdef, *trees = state.split(teacher)
  return distill.soften(batch, tuple(trees), graphdef=graphdef, weight=weight)['targets']


def test_targets_lie_between_labels_and_teacher(teacher, batch):
  labels = np.asarray(TINY.action_spec.tokenize(batch['actions']))
  found = np.asarray(jax.nn.softmax(teacher(batch['images'], batch['embeddings']))).reshape(*labels.shape, -1)
  np.testing.assert_array_equal(targets(teacher, batch, 0.0).argmax(-1), labels)
  np.testing.assert_allclose(targets(teacher, batch, 1.0), found, atol=1e-6)
  mixed = np.asarray(targets(teacher, batch, 0.25))
  np.testing.assert_allclose(mixed, 0.75 * np.eye(256)[labels] + 0.25 * found, atol=1e-6)
  np.testing.assert_allclose(mixed.sum(-1), 1, atol=1e-5)


def test_without_a_teacher_s_share_the_loss_is_the_plain_one(teacher, batch):
  student = models.build(TINY, rngs=nnx.Rngs(0))
  plain = student.loss(batch, train=False)
  soft = student.loss(batch | {'targets': targets(teacher, batch, 0.0)}, train=False)
  np.testing.assert_allclose(soft.total, plain.total, rtol=1e-5)
  np.testing.assert_array_equal(soft.metrics['accuracy'][0], plain.metrics['accuracy'][0])


def test_a_student_comes_near_its_teacher(teacher, batch):
  """Trained on the teacher alone, from recorded actions that tell nothing, its probabilities become the teacher's."""
  graphdef, *trees = state.split(models.build(TINY, rngs=nnx.Rngs(0)))
  definition, *variables = state.split(teacher)
  optimizer = optax.adam(3e-3)
  step = jax.jit(lambda s, b, t: train_step(
      s, b, t, graphdef=graphdef, optimizer=optimizer,
      soften=lambda b, t: distill.soften(b, t, graphdef=definition, weight=1.0)))
  now = state.create(*trees, jax.random.key(0), optimizer=optimizer, ema=False)
  losses = []
  for _ in range(60):
    now, out = step(now, batch, tuple(variables))
    losses.append(float(out['loss']))
  soft = targets(teacher, batch, 1.0)
  entropy = float(-(soft * jnp.log(soft)).sum(-1).mean())  # what no student gets below
  assert losses[-1] - entropy < 0.5 * (losses[0] - entropy)


def test_a_teacher_that_does_not_fit(teacher, mesh, monkeypatch):
  monkeypatch.setattr(distill.pretrained, 'load_model', lambda path: teacher)
  with pytest.raises(ValueError, match=r'its window is 3, the student.s 6'):
    distill.load_teacher('teacher', dataclasses.replace(TINY, window=6), mesh)
  with pytest.raises(ValueError, match='its action_spec is translation, rotation, gripper'):
    distill.load_teacher('teacher', dataclasses.replace(TINY, action_spec=models.RT1Config().action_spec), mesh)
  graphdef, variables = distill.load_teacher('teacher', TINY, mesh)
  assert state.merge(graphdef, *variables).config == teacher.config


def test_no_teacher_there(mesh, tmp_path):
  with pytest.raises(FileNotFoundError, match='no model at'):
    distill.load_teacher(tmp_path / 'nothing', TINY, mesh)
