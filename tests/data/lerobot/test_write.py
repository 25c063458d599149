"""Written LeRobot datasets, read back."""
import json

import numpy as np
import pytest

pytest.importorskip('av', reason="needs the extra 'lerobot'")
import pyarrow.parquet as pq

from rtjax import actions
from rtjax.data.episodes.open import open_dataset
from rtjax.data.episodes.recorded_spec import recorded_spec
from rtjax.data.language import NoVectors
from rtjax.data.lerobot import write
from rtjax.data.lerobot.write import Recording

LENGTHS = {'train': [6, 3, 8], 'val': [4]}


def smooth(number, step, size=(48, 64)):
  rows, columns = np.mgrid[:size[0], :size[1]]
  return np.stack([rows * 4 + step, columns * 3, np.full(size, 20 * number)], -1).clip(0, 255).astype(np.uint8)


def recording(number, length, **frames):
  draw = np.random.default_rng(number)
  frames = frames or {camera: [smooth(number, t) for t in range(length)] for camera in ('image', 'wrist')}
  return Recording(draw.normal(size=(length, 7)).astype(np.float32), draw.normal(size=(length, 2)).astype(np.float32),
                   [f'do {number}'] * length, frames)


def all_recordings():
  numbers = iter(range(9))
  return {split: [recording(next(numbers), length) for length in lengths] for split, lengths in LENGTHS.items()}


@pytest.fixture(params=['video', 'png'])
def written(request, tmp_path, monkeypatch):
  monkeypatch.setattr(write, '_DATA_MB', 0)  # a file for each episode
  monkeypatch.setattr(write, '_VIDEO_MB', 0)
  monkeypatch.setitem(write._CODEC, 'tune', 'zerolatency')  # the encoder keeps no frame back
  write.write(tmp_path / 'a', 'my_set', all_recordings(), actions.ARM_7D, 5, request.param)
  return tmp_path / 'a', request.param


def test_numbers_are_exact_and_frames_within_the_error_of_the_codec(written):
  folder, form = written
  spec = recorded_spec([str(folder)])
  assert spec.fields == actions.ARM_7D.fields and spec.rate == 5
  for split, recordings in all_recordings().items():
    dataset = open_dataset(str(folder), split, spec, views=('image', 'wrist'), proprioception=True, vectors=NoVectors())
    decode = dataset.decoder(None)
    assert dataset.adapter.name == 'my_set' and dataset.cameras == ['image', 'wrist']
    for expected, episode in zip(recordings, dataset.read_all(), strict=True):
      np.testing.assert_array_equal(episode.actions, expected.actions)
      np.testing.assert_array_equal(episode.proprioception, expected.state)
      assert list(episode.instructions) == expected.instructions
      found = np.stack(list(decode(episode, range(len(episode)), 1)))
      error = np.abs(found - np.array(expected.frames['wrist'], int))
      assert error.max() == 0 if form == 'png' else error.mean() < 2


def test_the_files_are_those_of_lerobot(written):
  folder, form = written
  info = json.loads((folder / 'meta/info.json').read_text())
  assert (info['codebase_version'], info['total_episodes'], info['total_frames'], info['fps']) == ('v3.0', 4, 21, 5)
  assert info['splits'] == {'train': '0:3', 'val': '3:4'} and info['features']['action']['names'][0] == 'translation[0]'
  assert len(list(folder.glob('data/*/*.parquet'))) == 4
  assert len(list(folder.glob('videos/observation.images.wrist/*/*.mp4'))) == (4 if form == 'video' else 0)
  tasks = pq.read_table(folder / 'meta/tasks.parquet')
  assert tasks.to_pydict() == {'task_index': [0, 1, 2, 3], '__index_level_0__': [f'do {i}' for i in range(4)]}
  assert json.loads(tasks.schema.metadata[b'pandas'])['index_columns'] == ['__index_level_0__']
  stats = json.loads((folder / 'meta/stats.json').read_text())
  every = np.concatenate([r.actions for recordings in all_recordings().values() for r in recordings])
  np.testing.assert_allclose(stats['action']['mean'], every.mean(0, np.float64))
  np.testing.assert_allclose(stats['action']['q99'], np.quantile(every.astype(float), 0.99, 0))
  assert np.shape(stats['observation.images.image']['std']) == (3, 1, 1)


@pytest.mark.parametrize(('frames', 'words'), [
    ([np.zeros((8, 10, 3), np.uint8)] * 2, 'has 2 frames of observation.images.front and 3 actions'),
    ([np.zeros((8, 10, 3), np.uint8), np.zeros((8, 12, 3), np.uint8)], r'step 1: .*\(8, 12\).*others are \(8, 10\)'),
    ([np.zeros((7, 10, 3), np.uint8)] * 3, r'\(7, 10\).*needs even sizes: --frames png'),
])
def test_wrong_frames_are_refused_and_nothing_is_left(tmp_path, frames, words):
  with pytest.raises(ValueError, match=words):
    write.write(tmp_path / 'a', 'a', {'train': [recording(0, 3, front=frames)]}, actions.ARM_7D, 5, 'video')
  assert not list(tmp_path.iterdir())
