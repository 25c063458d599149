"""Synthetic reach dataset: reproducible by seed, learnable, and readable by its adapter."""
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers import rlds_episodes
from helpers.paths import ROOT

from rtjax import actions
from rtjax.data.rlds import adapters
from rtjax.language.instructions import hashed_ngrams

sys.path.insert(0, str(ROOT / 'data/reach'))

import reach_dataset_builder
import scene as reach


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Dataset folder written by the command line."""
  out = tmp_path_factory.mktemp('reach')
  script = pathlib.Path(reach.__file__).parent / 'generate.py'
  command = [sys.executable, script, '--out', out, '--episodes', '3', '--seed', '7']
  printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
  assert f'--data {out / "reach/1.0.0"}' in printed
  return out / 'reach/1.0.0'


@pytest.mark.parametrize(('seed', 'same'), [(7, True), (8, False)])
def test_seed_determines_the_dataset(folder, tmp_path, seed, same):
  builder = reach_dataset_builder.Builder(data_dir=tmp_path, episodes=3, seed=seed)
  builder.download_and_prepare(download_dir=tmp_path)
  for split in ('train', 'val'):
    expected, built = (jax.tree.leaves(rlds_episodes.read(path, split)) for path in (folder, builder.data_dir))
    assert len(expected) == len(built) > 0
    assert all(map(np.array_equal, expected, built)) == same


@pytest.mark.parametrize('spec_name', ['arm7d', 'rt1'])
def test_adapter(folder, spec_name):
  spec, adapter = actions.get(spec_name), adapters.get('reach')
  episodes = [e for split in ('train', 'val') for e in rlds_episodes.read(folder, split)]
  assert len(episodes) == 4
  for steps in episodes:
    action = adapter.action(steps)
    packed = spec.pack({name: action[name] for name in spec.names})
    assert not spec.clipped(packed).any()
    assert adapters.feature(steps, adapter.image)[0][:2] == b'\xff\xd8'  # JPEG
    text = adapters.feature(steps, adapter.instruction)[0].decode()
    np.testing.assert_array_equal(adapters.feature(steps, adapter.embedding)[-1], hashed_ngrams(text))
    assert adapters.feature(steps, adapter.proprioception).shape == (len(packed), 7)


def test_expert_reaches_the_named_shape():
  for number in range(50):
    scene, states, deltas = reach.episode(0, number)
    target = scene.shapes[0]
    assert scene.instruction.endswith(f'the {target.colour} {target.shape}')
    assert len({(shape.colour, shape.shape) for shape in scene.shapes}) == 4
    assert 4 < len(states) < 20
    np.testing.assert_allclose(states[-1, :3], [target.x, target.y, 0], atol=0.012)
    np.testing.assert_array_equal(deltas[:, 6], [1] * (len(states) - 2) + [0, 0])
    np.testing.assert_allclose(states[1:, :6], (states + deltas)[:-1, :6], atol=0.02)  # 6 standard deviations of noise
    np.testing.assert_allclose([reach.expert(scene, s) for s in states], deltas, atol=1e-6)  # a function of the state


def test_image_shows_shapes_and_gripper():
  """Pixels agree with positions in metres.

  x points up and y left: with 96 pixels for 0.4 m, (0.1, 0.05) is row 24, column 36.
  """
  shapes = tuple(reach.ColouredShape(colour, shape, x, y) for colour, shape, x, y in (
      ('red', 'circle', 0.1, 0.05), ('blue', 'square', -0.1, 0.1), ('green', 'triangle', 0, -0.1)))
  scene = reach.Scene(shapes, (180, 165, 150), 'reach the red circle')
  corner = np.array([-0.15, -0.15, 0.1, 0, 0, 0, 1.0])
  image = reach.render(scene, corner)
  assert image.shape == (96, 96, 3) and image.dtype == np.uint8
  for colour, row, column in (('red', 24, 36), ('blue', 72, 24), ('green', 48, 72)):
    np.testing.assert_array_equal(image[row, column], reach.COLOURS[colour])
  np.testing.assert_array_equal(image[48, 8], scene.table)
  for change in ([0, 0, 0.05, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.3, 0], [0, 0, 0, 0, 0, 0, -1.0]):  # height, yaw, closing
    assert (reach.render(scene, corner + change) != image).any(-1).sum() > 10


def test_zero_episodes_are_an_error(tmp_path):
  with pytest.raises(ValueError, match='episodes is 0, expected at least 1'):
    reach_dataset_builder.Builder(data_dir=tmp_path, episodes=0)
