"""Several cameras: pixels of each view, and refusals."""
import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers import tiny_rlds
from helpers.tiny_rlds import stream as make
from helpers.tiny_rlds import windows_of

from rtjax import actions
from rtjax.data import DataConfig, validation_batches
from rtjax.data.rlds import adapters

LENGTHS = [3, 7, 1, 5]
LEVEL = {'image': 255, 'wrist': 100, 'top': 50}  # the third colour of each camera
SHUFFLE = {'shuffle_episodes': 4}


def view_image(view, episode, step, shape=tiny_rlds.IMAGE):
  return np.broadcast_to(np.uint8([episode, step, LEVEL[view]]), shape)


def write(folder, top=None, top_shape=tiny_rlds.IMAGE, last_shape=None):
  """Write episodes of three cameras.

  `top` has the given feature or shape, and `last_shape` in the last episode.
  """
  layout = dict(tiny_rlds.features()['steps'].feature.items())
  layout['observation'] = dict(layout['observation'].items()) | {
      'wrist': tfds.features.Image(shape=tiny_rlds.IMAGE, encoding_format='png'),
      'top': top or tfds.features.Image(shape=top_shape, encoding_format='png')}
  episodes = [tiny_rlds.steps(i, length) for i, length in enumerate(LENGTHS)]
  for number, steps in enumerate(episodes):
    shape = last_shape if last_shape and number == len(LENGTHS) - 1 else top_shape
    for t, step in enumerate(steps):
      step['observation'] |= {'wrist': view_image('wrist', number, t), 'top': view_image('top', number, t, shape)}
  return tiny_rlds.write(folder, episodes, layout=tfds.features.FeaturesDict({'steps': tfds.features.Dataset(layout)}))


@pytest.fixture(autouse=True)
def adapter(monkeypatch):
  """Use bridge_dataset's adapter with two more cameras."""
  mine = dataclasses.replace(adapters.get('bridge_dataset'),
                             views={'wrist': 'observation/wrist', 'top': 'observation/top'})
  monkeypatch.setitem(adapters.ADAPTERS, 'bridge_dataset', mine)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  return write(tmp_path_factory.mktemp('views'))


def check(batch, views):
  assert batch['images'].shape == (8, 4, len(views), *tiny_rlds.IMAGE)
  for row, (episode, end) in enumerate(windows_of(batch)):
    for t, step in enumerate(range(end - 3, end + 1)):
      for v, view in enumerate(views):
        expected = view_image(view, episode, step) if step >= 0 and episode >= 0 else 0
        np.testing.assert_array_equal(batch['images'][row, t, v], expected)


@pytest.mark.parametrize('views', [('image', 'wrist', 'top'), ('top', 'image'), ('wrist',)])
def test_views_are_in_the_configured_order(tiny, views):
  config = DataConfig(views=views, validation_split='train', **SHUFFLE)
  with make(tiny, config) as stream, make(tiny, DataConfig(**SHUFFLE)) as plain:
    for _ in range(4):
      batch, without = next(stream), next(plain)
      check(batch, views)
      assert windows_of(batch) == windows_of(without)
      if 'image' in views:
        np.testing.assert_array_equal(batch['images'][:, :, views.index('image')], without['images'])
  for batch in validation_batches([tiny], config, actions.ARM_7D, window=4, horizon=1, batch_size=8):
    check(batch, views)


def test_pixels_beside_encoded_images(tmp_path):
  folder = write(tmp_path, tfds.features.Tensor(shape=tiny_rlds.IMAGE, dtype=np.uint8))
  with make(folder, DataConfig(views=('image', 'top'), **SHUFFLE)) as stream:
    check(next(stream), ('image', 'top'))


def test_sizes(tmp_path):
  folder = write(tmp_path, top_shape=(16, 20, 3))
  with pytest.raises(ValueError, match=r'differ in their image sizes: .* image \(8, 10\), .* top \(16, 20\)'):
    make(folder, DataConfig(views=('image', 'top'), **SHUFFLE))
  with make(folder, DataConfig(views=('image', 'top'), image_size=(8, 10), **SHUFFLE)) as stream:
    check(next(stream), ('image', 'top'))


def test_missing_views_are_named(tiny, tmp_path):
  with pytest.raises(ValueError, match=r"no view 'wrst', it has \['image', 'top', 'wrist'\].*Did you mean 'wrist'"):
    make(tiny, DataConfig(views=('image', 'wrst')))
  without = tiny_rlds.write_lengths(tmp_path, [2])
  with pytest.raises(ValueError, match="expects the step feature 'observation/wrist', the dataset has"):
    make(without, DataConfig(views=('image', 'wrist')))


def test_an_image_of_another_size_is_named_with_its_view(tmp_path):
  folder = write(tmp_path, tfds.features.Image(encoding_format='png'), last_shape=(6, 6, 3))
  words = r"episode 3, step \d: the image of view 'top' is \(6, 6\), others are \(8, 10\)"
  with make(folder, DataConfig(views=('image', 'top'), **SHUFFLE)) as stream, pytest.raises(ValueError, match=words):
    for _ in range(4):
      next(stream)
