"""Distillation: the targets, their gradient, and teachers that do not fit."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny_training
from helpers.compiled import Compiled
from helpers.tiny_rt1 import TINY, tiny_batch

from rtjax import models
from rtjax.training import distill, sharding, state
from rtjax.training.step import train_step


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh((-1, 1, 1))


@pytest.fixture(scope='module')
def teacher():
  return models.build(dataclasses.replace(TINY, layers=3), seed=5)


@pytest.fixture(scope='module')
def batch():
  return jax.device_put(tiny_batch(TINY, 2))


with_targets = jax.jit(distill.with_targets, static_argnames=('graphdef', 'weight'))


def targets(teacher, batch, weight):
  graphdef, *trees = state.split(teacher)
  return with_targets(batch, tuple(trees), graphdef=graphdef, weight=weight).target_probabilities


def test_targets_lie_between_labels_and_teacher(teacher, batch):
  labels = np.asarray(TINY.action_spec.tokenize(batch.actions))
  logits = teacher(batch.observation.images, batch.observation.instruction)
  found = np.asarray(jax.nn.softmax(logits)).reshape(*labels.shape, -1)
  np.testing.assert_array_equal(targets(teacher, batch, 0.0).argmax(-1), labels)
  np.testing.assert_allclose(targets(teacher, batch, 1.0), found, atol=1e-6)
  mixed = np.asarray(targets(teacher, batch, 0.25))
  np.testing.assert_allclose(mixed, 0.75 * np.eye(256)[labels] + 0.25 * found, atol=1e-6)
  np.testing.assert_allclose(mixed.sum(-1), 1, atol=1e-5)


def test_weight_zero_gives_the_plain_loss(teacher, batch):
  student = Compiled(models.build(TINY, seed=0))
  plain = student.loss(batch, train=False)
  soft = student.loss(dataclasses.replace(batch, target_probabilities=targets(teacher, batch, 0.0)), train=False)
  np.testing.assert_allclose(soft.total, plain.total, rtol=1e-5)
  np.testing.assert_array_equal(soft.metrics['accuracy'][0], plain.metrics['accuracy'][0])


def test_a_student_approaches_its_teacher(teacher, batch):
  """Trained on the teacher alone; the recorded actions are random."""
  graphdef, *trees = state.split(models.build(TINY, seed=0))
  definition, *variables = state.split(teacher)
  optimizer = optax.adam(3e-3)
  step = jax.jit(lambda s, b, t: train_step(
      s, b, t, graphdef=graphdef, optimizer=optimizer,
      distillation_targets=lambda b, t: distill.with_targets(b, t, graphdef=definition, weight=1.0)))
  now = state.create(*trees, jax.random.key(0), optimizer=optimizer, ema=False)
  losses = []
  for _ in range(60):
    now, out = step(now, batch, tuple(variables))
    losses.append(float(out['loss']))
  soft = targets(teacher, batch, 1.0)
  entropy = float(-(soft * jnp.log(soft)).sum(-1).mean())  # no student gets below
  assert losses[-1] - entropy < 0.5 * (losses[0] - entropy)


def test_a_teacher_that_does_not_fit(teacher, mesh, monkeypatch):
  monkeypatch.setattr(distill.pretrained, 'load_model', lambda path: teacher)
  with pytest.raises(ValueError, match=r'its window is 3, the student.s 6'):
    distill.load_teacher('teacher', dataclasses.replace(TINY, window=6), mesh)
  with pytest.raises(ValueError, match='its action_spec is translation, rotation, gripper'):
    distill.load_teacher('teacher', dataclasses.replace(TINY, action_spec=models.RT1Config().action_spec), mesh)
  other = dataclasses.replace(TINY.action_spec.fields[0], low=(-2.0,) * TINY.action_spec.fields[0].size)
  spec = dataclasses.replace(TINY.action_spec, fields=(other, *TINY.action_spec.fields[1:]))
  with pytest.raises(ValueError, match='its action_spec is'):  # of the same names
    distill.load_teacher('teacher', dataclasses.replace(TINY, action_spec=spec), mesh)
  graphdef, variables = distill.load_teacher('teacher', TINY, mesh)
  assert state.merge(graphdef, *variables).config == teacher.config


def test_a_teacher_without_support_for_distillation(mesh, monkeypatch):
  tiny = models.build(tiny_training.TinyConfig(), seed=0)
  monkeypatch.setattr(distill.pretrained, 'load_model', lambda path: tiny)
  with pytest.raises(ValueError, match='a TinyModel does not support distillation'):
    distill.load_teacher('teacher', TINY, mesh)


def test_a_missing_teacher(mesh, tmp_path):
  with pytest.raises(FileNotFoundError, match='no model at'):
    distill.load_teacher(tmp_path / 'nothing', TINY, mesh)
