"""Augmentation: the official crops, and properties of the rest."""
import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.paths import ROOT

from rtjax import actions
from rtjax.data import augment
from rtjax.observation import Batch, Observation

SPEC = actions.get('arm7d')
OFF = augment.AugmentConfig(crop=False)


@functools.partial(jax.jit, static_argnames='config')
def run(batch, key, config):
  return augment.augment(batch, key, config, SPEC)


def make_batch(size=4, frames=3, height=64, width=80):
  draw = np.random.default_rng(0)
  frame_mask = np.ones((size, frames), bool)
  frame_mask[0, :2] = False
  images = draw.integers(1, 256, (size, frames, height, width, 3), np.uint8) * frame_mask[..., None, None, None]
  return Batch(
      Observation(images.astype(np.uint8), frame_mask), action_mask=frame_mask[..., None],
      actions=draw.uniform(-1, 1, (size, frames, 1, SPEC.size)).astype(np.float32))


def replace(batch, **arrays):
  """Return the batch with other arrays, in the observation or beside it."""
  inside = {name: arrays.pop(name) for name in list(arrays) if hasattr(batch.observation, name)}
  return dataclasses.replace(batch, observation=dataclasses.replace(batch.observation, **inside), **arrays)


def images_of(batch):
  return np.asarray(batch.observation.images)


def offsets(images, augmented):
  """Find the crop offset (y, x) of each image by trying all."""
  rows, columns = augment.padding(*images.shape[1:3])
  found = []
  for image, out in zip(images, augmented, strict=True):
    padded = np.pad(image, [(rows, rows), (columns, columns), (0, 0)])
    views = np.lib.stride_tricks.sliding_window_view(padded, image.shape)[:, :, 0]
    match = np.argwhere((views[:, :, ::8, ::8] == out[::8, ::8]).all((2, 3, 4)))
    assert len(match) == 1
    np.testing.assert_array_equal(views[tuple(match[0])], out)
    found.append(tuple(match[0]))
  return found


def test_official_crops(shared):
  """TensorFlow draws y from the seed and x from its first split."""
  import tensorflow as tf
  golden = np.load(shared / 'parity/rt1_tf/preprocess.npz')
  rows, columns = augment.padding(256, 320)

  def draw(seed, most):
    return int(tf.random.stateless_uniform((), seed, maxval=most + 1, dtype=tf.int32))

  found = [(draw(seed, 2 * rows), draw(tf.random.split(seed, 1)[0], 2 * columns)) for seed in golden['seeds']]
  np.testing.assert_array_equal(found, golden['offsets'])
  for offset, expected in zip(found, golden['train_images'], strict=False):
    image = augment.crop(jnp.asarray(golden['image'][0]), np.array(offset))
    np.testing.assert_array_equal(image[::2, ::2], expected)


def test_padding():
  assert augment.padding(256, 320) == (20, 50)
  assert augment.padding(512, 640) == (40, 100)
  assert augment.padding(64, 64) == (5, 10)


def test_crop_per_example():
  batch = make_batch(size=8)
  out = run(batch, jax.random.key(0), augment.AugmentConfig())
  assert images_of(out).dtype == np.uint8
  newest = offsets(images_of(batch)[:, -1], images_of(out)[:, -1])
  assert len(set(newest)) > 1
  assert offsets(images_of(batch)[1:, 0], images_of(out)[1:, 0]) == newest[1:]  # frames share an offset
  np.testing.assert_array_equal(out.actions, batch.actions)


def test_shared_crop():
  batch = make_batch()
  keys = [run(batch, jax.random.key(seed), augment.AugmentConfig(shared_crop=True)) for seed in range(4)]
  found = [set(offsets(images_of(batch)[:, -1], images_of(out)[:, -1])) for out in keys]
  assert all(len(one) == 1 for one in found)
  assert len(set.union(*found)) > 1


def test_crop_offsets_cover_all():
  # An image with one white pixel in the middle, at the native size: its new place gives the offset.
  image = np.zeros((256, 320, 3), np.uint8)
  image[128, 160] = 255
  batch = Batch(Observation(np.broadcast_to(image, (64, 1, *image.shape)), np.ones((64, 1), bool)),
                np.zeros((64, 1, 1, 7), np.float32), np.ones((64, 1, 1), bool))
  landed = []
  for seed in range(16):
    out = images_of(run(batch, jax.random.key(seed), augment.AugmentConfig()))[:, 0, :, :, 0]
    landed.append(np.argwhere(out)[:, 1:])
  y, x = (np.array([20 + 128, 50 + 160]) - np.concatenate(landed)).T
  assert set(y) == set(range(41))
  assert set(x) == set(range(101))
  assert np.bincount(y).max() < 2.5 * len(y) / 41  # uniform: 25 expected of 1,024


def test_flip_mirrors_image_and_action():
  batch = make_batch(size=16)
  config = dataclasses.replace(OFF, flip=True)
  out = run(batch, jax.random.key(1), config)
  same = [np.array_equal(a, b) for a, b in zip(images_of(out), images_of(batch), strict=True)]
  assert 0 < sum(same) < 16
  for i, kept in enumerate(same):
    image, action = images_of(batch)[i], batch.actions[i]
    np.testing.assert_array_equal(images_of(out)[i], image if kept else image[:, :, ::-1])
    np.testing.assert_array_equal(out.actions[i], action if kept else action * [1, -1, 1, -1, 1, -1, 1])
  twice = run(out, jax.random.key(1), config)
  np.testing.assert_array_equal(images_of(twice), images_of(batch))
  np.testing.assert_array_equal(twice.actions, batch.actions)


def test_flip_mirrors_waypoints():
  batch = replace(
      make_batch(size=16), waypoints=np.random.default_rng(0).normal(size=(16, 3, 3)).astype(np.float32))
  out = run(batch, jax.random.key(1), dataclasses.replace(OFF, flip=True))
  for i, (a, b) in enumerate(zip(images_of(out), images_of(batch), strict=True)):
    y = 1 if np.array_equal(a, b) else -1
    np.testing.assert_array_equal(out.waypoints[i], batch.waypoints[i] * np.array([1, y, 1], np.float32))


def test_flip_mirrors_proprioception():
  signs = (1, -1, 1, -1, 1, -1, 1)
  batch = replace(
      make_batch(size=16), proprioception=np.random.default_rng(0).normal(size=(16, 3, 7)).astype(np.float32))
  out = run(batch, jax.random.key(1), dataclasses.replace(OFF, flip=True, flip_proprioception=signs))
  for i, (a, b) in enumerate(zip(images_of(out), images_of(batch), strict=True)):
    sign = 1 if np.array_equal(a, b) else np.array(signs, np.float32)
    np.testing.assert_array_equal(out.observation.proprioception[i], batch.observation.proprioception[i] * sign)


@pytest.mark.parametrize('signs', [(), (1, -1, 1)])
def test_flip_needs_a_factor_for_each_number_of_proprioception(signs):
  batch = replace(make_batch(), proprioception=np.zeros((4, 3, 7), np.float32))
  with pytest.raises(ValueError, match=f'7 numbers of proprioception, .* has {len(signs)} factors'):
    augment.augment(batch, jax.random.key(0), augment.AugmentConfig(flip=True, flip_proprioception=signs), SPEC)


def make_views(views=3):
  """Return a batch with equal images in all views of a step."""
  batch = make_batch(size=8)
  return replace(batch, images=np.repeat(images_of(batch)[:, :, None], views, 2))


@pytest.mark.parametrize('shared', [False, True])
def test_each_view_has_its_own_crop(shared):
  batch = make_views()
  out = images_of(run(batch, jax.random.key(0), augment.AugmentConfig(shared_crop=shared)))
  newest = [offsets(images_of(batch)[:, -1, v], out[:, -1, v]) for v in range(3)]
  for v in range(3):
    assert offsets(images_of(batch)[1:, 0, v], out[1:, 0, v]) == newest[v][1:]  # frames share a view's offset
    assert len(set(newest[v])) == 1 if shared else len(set(newest[v])) > 1
  assert newest[0] != newest[1] != newest[2]


def test_views_share_colours():
  batch = make_views()
  config = dataclasses.replace(OFF, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
  out = images_of(run(batch, jax.random.key(0), config))
  alone = images_of(run(replace(batch, images=images_of(batch)[:, :, 0]), jax.random.key(0), config))
  assert (alone != images_of(batch)[:, :, 0]).any()
  for view in range(3):
    np.testing.assert_array_equal(out[:, :, view], alone)
  images_of(batch)[:, :, 1] = 0  # contrast is about each view's own grey
  changed = images_of(run(batch, jax.random.key(0), config))
  np.testing.assert_array_equal(changed[:, :, [0, 2]], out[:, :, [0, 2]])


def test_flip_of_views():
  config = dataclasses.replace(OFF, flip=True)
  with pytest.raises(ValueError, match='flip is on, but a step has 3 views'):
    augment.augment(make_views(), jax.random.key(0), config, SPEC)
  one = make_views(1)
  out = run(one, jax.random.key(1), config)
  plain = run(replace(one, images=images_of(one)[:, :, 0]), jax.random.key(1), config)
  np.testing.assert_array_equal(images_of(out)[:, :, 0], images_of(plain))
  assert (images_of(out) != images_of(one)).any()


def test_off_is_identity():
  batch = make_batch()
  out = run(batch, jax.random.key(0), OFF)
  assert jax.tree.structure(out) == jax.tree.structure(batch)
  jax.tree.map(np.testing.assert_array_equal, out, batch)


@pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation', 'hue'])
def test_jitter_of_a_flat_grey_image(name):
  batch = make_batch()
  frame_mask = batch.observation.frame_mask
  batch = replace(batch, images=np.where(frame_mask[..., None, None, None], np.uint8(100), np.uint8(0)) * np.ones(
      (1, 1, 64, 80, 3), np.uint8))
  out = images_of(run(batch, jax.random.key(0), dataclasses.replace(OFF, **{name: 0.3})))
  levels = [set(out[i][frame_mask[i]].ravel().tolist()) for i in range(4)]
  if name == 'brightness':
    assert all(len(level) == 1 and 70 <= min(level) <= 130 for level in levels)
    assert len(set.union(*levels)) > 1
  else:
    assert levels == [{100}] * 4  # grey has neither contrast nor colour to change
  assert not out[~frame_mask].any()


def test_jitter_numbers():
  """Values of two pixels for each setting, from the draws of `_jitter`."""
  key = jax.random.key(3)
  draws = np.asarray(jax.random.uniform(key, (4,), minval=-1))
  image = np.zeros((1, 1, 2, 3), np.uint8)
  image[0, 0] = [[200, 80, 40], [60, 60, 60]]
  luma = image[0, 0] @ np.array([0.299, 0.587, 0.114])

  def jitter(**config):
    return np.asarray(augment._jitter(jnp.asarray(image), key, augment.AugmentConfig(**config)))[0, 0]

  np.testing.assert_array_equal(jitter(brightness=0.2), np.round(image[0, 0] * (1 + 0.2 * draws[0])))
  factor = 1 + 0.5 * draws[1]
  np.testing.assert_array_equal(jitter(contrast=0.5), np.round(luma.mean() + factor * (image[0, 0] - luma.mean())))
  factor = 1 + 0.5 * draws[2]
  grey = luma[:, None]
  np.testing.assert_array_equal(jitter(saturation=0.5), np.round(grey + factor * (image[0, 0] - grey)))
  # A third of the circle turns red into green completely.
  turned = np.asarray(augment._hue_rotation(jnp.float32(2 * np.pi / 3)))
  np.testing.assert_allclose(turned @ [200, 80, 40], [40, 200, 80], rtol=1e-5)


def test_all_together_keep_padding_black_and_are_deterministic():
  batch = make_batch()
  config = augment.AugmentConfig(flip=True, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
  one, same, other = (run(batch, jax.random.key(seed), config) for seed in (0, 0, 1))
  np.testing.assert_array_equal(images_of(one), images_of(same))
  assert (images_of(one) != images_of(other)).mean() > 0.5
  assert not images_of(one)[~batch.observation.frame_mask].any()


def test_bad_config():
  with pytest.raises(ValueError, match=r'hue is 0.7, expected a number from 0 \(off\) to 0.5'):
    augment.AugmentConfig(hue=0.7)


def test_sharded_batch_needs_no_communication():
  """Eight devices give the single device's images, without collectives."""
  code = '''
import re, sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from test_augment import augment, images_of, make_batch, run
mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
batch, key = make_batch(size=8), jax.random.key(0)
config = augment.AugmentConfig(flip=True, brightness=0.2)
sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec('data')))
program = run.lower(sharded, key, config).compile().as_text()
assert not re.search('all-(gather|reduce|to-all)|collective', program)
np.testing.assert_array_equal(images_of(run(sharded, key, config)), images_of(run(batch, key, config)))
'''
  environment = {'XLA_FLAGS': '--xla_force_host_platform_device_count=8', 'JAX_PLATFORMS': 'cpu',
                 'PYTHONPATH': '.:tests:tests/data'}
  subprocess.run([sys.executable, '-c', code], check=True, env=environment, cwd=str(ROOT))
