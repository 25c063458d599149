"""Episodes and windows of LeRobot datasets, whose content is known by construction."""
import dataclasses
import re
import shutil

import numpy as np
import pytest

pytest.importorskip('av', reason="needs the extra 'lerobot'")
pytest.importorskip('pyarrow', reason="needs the extra 'lerobot'")
import pyarrow.parquet as pq
from helpers import tiny_lerobot, tiny_rlds
from helpers.tiny_lerobot import CONFIG, LENGTHS

from rtjax import data
from rtjax.data import video
from rtjax.data.episodes.open import open_dataset
from rtjax.data.language import NoVectors, open_vectors
from rtjax.data.rlds import adapters

LAYOUTS = [('v2.1', 'video'), ('v2.1', 'image'), ('v3.0', 'video'), ('v3.0', 'image')]
WINDOW = {'window': 3, 'horizon': 1, 'batch_size': 8}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """A dataset in each layout: {(version, kind): folder}."""
  root = tmp_path_factory.mktemp('lerobot')
  return {layout: str(tiny_lerobot.write(root / '_'.join(layout), *layout)) for layout in LAYOUTS}


@pytest.fixture
def copied(folders, tmp_path):
  """A function that returns a copy of a dataset, to change."""
  return lambda *layout: shutil.copytree(folders[layout], tmp_path / 'copied')


def opened(folder, split='train', **options):
  options = {'vectors': NoVectors()} | options
  return open_dataset(str(folder), split, data.recorded_spec([str(folder)]), **options)


def stream(folder, config=CONFIG, **options):
  return data.TrainingStream([str(folder)], config, data.recorded_spec([str(folder)]), **WINDOW | {'seed': 0} | options)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_every_step_is_read(folders, layout):
  dataset = opened(folders[layout], views=('top', 'wrist'), proprioception=True)
  decode = dataset.decoder(None)
  episodes = list(dataset.read_all())
  assert [len(e) for e in episodes] == LENGTHS and dataset.image_sizes == [tiny_lerobot.SIZE] * 2
  for e in episodes:
    np.testing.assert_array_equal(e.actions, [tiny_lerobot.action(e.number, t) for t in range(len(e))])
    np.testing.assert_array_equal(e.proprioception, 2 * e.actions)
    assert set(e.instructions) == {tiny_lerobot.task(e.number)}
    for view, camera in enumerate(('top', 'wrist')):
      found = np.stack(list(decode(e, range(len(e)), view)))
      expected = np.stack([tiny_lerobot.image(e.number, t, camera) for t in range(len(e))])
      np.testing.assert_allclose(found.astype(int), expected, atol=0 if layout[1] == 'image' else 3)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_windows_hold_their_steps(folders, layout):
  spec = data.recorded_spec([folders[layout]])
  config = dataclasses.replace(CONFIG, validation_split='train', proprioception=True)
  seen = []
  for batch in data.validation_batches([folders[layout]], config, spec, **WINDOW):
    for row, (episode, end) in enumerate(tiny_rlds.windows_of(batch)):
      if episode >= 0:
        seen.append((episode, end))
        shown = range(max(0, end - 2), end + 1)
        grey = batch['images'][row, -len(shown):].mean((1, 2, 3))
        np.testing.assert_allclose(grey, [tiny_lerobot.grey(episode, t) for t in shown], atol=2)
        np.testing.assert_array_equal(batch['actions'][row, -1, 0], tiny_lerobot.action(episode, end))
        np.testing.assert_array_equal(batch['proprioception'][row, -1], 2 * tiny_lerobot.action(episode, end))
  assert seen == [(e, t) for e, length in enumerate(LENGTHS) for t in range(length)]


@pytest.mark.parametrize('layout', [LAYOUTS[0], LAYOUTS[2]])
def test_an_epoch_shows_each_window_once_and_resumes_exactly(folders, layout):
  with stream(folders[layout], batch_size=1) as whole:
    windows = [tiny_rlds.windows_of(next(whole))[0] for _ in range(sum(LENGTHS))]
  assert sorted(windows) == [(e, t) for e, length in enumerate(LENGTHS) for t in range(length)] != windows
  with stream(folders[layout]) as first:
    next(first)
    state, expected = first.state(), next(first)
  with stream(folders[layout]) as second:
    second.restore(state)
    found = next(second)
  for name, values in expected.items():
    np.testing.assert_array_equal(found[name], values, name)


def test_processes_share_the_episodes(folders):
  shares = []
  for index in range(2):
    with stream(folders['v3.0', 'video'], batch_size=1, process_index=index, process_count=2) as part:
      share = set()
      while part.state()['positions'][0][0] == 0:  # epoch
        share.add(tiny_rlds.windows_of(next(part))[0])
      shares.append(share)
  assert not shares[0] & shares[1] and len(shares[0] | shares[1]) == sum(LENGTHS)


def test_a_mixture_with_rlds(folders, tmp_path):
  spec = data.recorded_spec([folders['v3.0', 'video']])
  rlds = tiny_rlds.write_lengths(tmp_path, [4, 6], layout=tiny_rlds.features())
  adapter = adapters.get('bridge_dataset')
  own = dataclasses.replace(adapter, action=lambda steps: {
      name: np.asarray(steps['action'])[:, :1] for name in tiny_lerobot.JOINTS})
  config = dataclasses.replace(CONFIG, camera='', image_size=tiny_lerobot.SIZE, weights=(1, 1))
  single = adapters.Adapter('v3.0_video', _joints, image='observation.images.top', embedding=None, instruction='task')
  try:
    data.register(own)
    data.register(single)
    with data.TrainingStream([rlds, folders['v3.0', 'video']], config, spec, seed=0, **WINDOW) as mixed:
      pixels = np.concatenate([batch['images'][:, -1, 16, 24] for batch in (next(mixed) for _ in range(6))])
  finally:
    data.register(adapter)
    del adapters.ADAPTERS['v3.0_video']
  from_rlds = pixels[:, 2] == 255  # blue, by tiny_rlds.image
  assert 0 < from_rlds.sum() < len(pixels)


def _joints(steps):
  return {name: adapters.feature(steps, 'action')[:, i:i + 1] for i, name in enumerate(tiny_lerobot.JOINTS)}


def test_an_own_adapter_is_found_by_the_name_of_the_folder(copied):
  folder = copied('v3.0', 'image')
  data.register(adapters.Adapter(
      'copied', lambda steps: {name: 1 + part for name, part in _joints(steps).items()}, embedding=None,
      image='observation.images.wrist', instruction='task'))
  try:
    dataset = opened(folder)
    first = next(dataset.read_all())
  finally:
    del adapters.ADAPTERS['copied']
  np.testing.assert_array_equal(first.actions[0], 1 + tiny_lerobot.action(0, 0))
  assert next(dataset.decoder(None)(first, [0], 0)).mean() == tiny_lerobot.grey(0, 0, 'wrist')


@pytest.mark.parametrize('layout', [LAYOUTS[0], LAYOUTS[2]])
def test_statistics_need_no_video(copied, tmp_path, layout):
  folder = copied(*layout)
  shutil.rmtree(folder / 'videos')
  spec = data.recorded_spec([str(folder)])
  config = dataclasses.replace(CONFIG, cache_dir=str(tmp_path / 'cache'))
  found = data.statistics([str(folder)], config, spec)[str(folder)]
  actions = np.concatenate([[tiny_lerobot.action(e, t) for t in range(n)] for e, n in enumerate(LENGTHS)])
  np.testing.assert_allclose(found['action']['mean'], actions.mean(0), rtol=1e-5)
  np.testing.assert_allclose(found['proprioception']['max'], 2 * actions.max(0))
  assert (found['episodes'], found['steps'], found['image_size']) == (6, sum(LENGTHS), list(tiny_lerobot.SIZE))


def test_the_digest_follows_the_numbers_and_not_the_folder(folders, copied):
  folder = copied('v2.1', 'video')
  before, copy = (opened(f, images=False) for f in (folders['v2.1', 'video'], folder))
  assert copy.digest() == before.digest() and copy.identity == before.identity
  file = folder / 'data/chunk-000/episode_000001.parquet'
  table = pq.read_table(file)
  pq.write_table(table.set_column(0, 'action', table['action'].take(list(reversed(range(9))))), file)
  assert opened(folder, images=False).digest() != before.digest()


def test_splits_by_tfds_algebra(folders, copied):
  assert [len(e) for e in opened(folders['v3.0', 'image'], 'train[1:3]', images=False).read_all()] == LENGTHS[1:3]
  folder = copied('v3.0', 'image')
  tiny_lerobot.change_info(folder, splits={'train': '0:4', 'val': '4:6'})
  assert [len(e) for e in opened(folder, 'val', camera='top').read_all()] == LENGTHS[4:]
  whole = opened(folder, 'all', images=False)
  assert whole.num_records == 6 and whole.split_sizes == {'train': 4, 'val': 2}
  with pytest.raises(ValueError, match=r"unknown split 'test'.*\['train', 'val'\]"):
    opened(folder, 'test')


@pytest.mark.parametrize(('options', 'words'), [
    ({}, r'no main camera, the cameras are .*top.*wrist.*--pipeline.camera'),
    ({'camera': 'tip'}, r"no camera 'tip'.*Did you mean 'top'\?.*--pipeline.camera"),
    ({'views': ('top', 'wirst')}, r"no camera 'wirst'.*Did you mean 'wrist'\?.*--pipeline.views"),
    ({'camera': 'top', 'vectors': None}, r'no instruction vectors.*--pipeline.encoder hashed-ngrams/1'),
])
def test_what_is_missing_is_named(folders, options, words):
  with pytest.raises(ValueError, match=words):
    list(opened(folders['v3.0', 'video'], **{'vectors': open_vectors('hashed-ngrams/1')} | options).read_all())


VIDEOS = {'v2.1': 'videos/chunk-000/observation.images.top/episode_000003.mp4',
          'v3.0': 'videos/observation.images.top/chunk-000/file-001.mp4'}
DATA = {'v2.1': 'data/chunk-000/episode_000003.parquet', 'v3.0': 'data/chunk-000/file-001.parquet'}


def drawn(folder):
  with stream(folder) as batches:
    for _ in range(8):
      next(batches)


@pytest.mark.parametrize('version', VIDEOS)
def test_a_missing_video_names_it_and_its_table(copied, version):
  folder = copied(version, 'video')
  (folder / VIDEOS[version]).unlink()
  with pytest.raises(FileNotFoundError, match=f'{VIDEOS[version]} is missing.*{DATA[version]}'):
    drawn(folder)


@pytest.mark.parametrize('version', VIDEOS)
@pytest.mark.parametrize('damage', ['cut', 'shorter', 'longer', 'text', 'nothing'])
def test_a_video_that_does_not_fit_names_both(copied, version, damage):
  if (version, damage) == ('v3.0', 'longer'):
    pytest.skip('a video of version 3 may hold episodes that were removed')
  folder = copied(version, 'video')
  file = folder / VIDEOS[version]
  steps = LENGTHS[3] if version == 'v2.1' else sum(LENGTHS[3:])
  if damage in ('shorter', 'longer'):
    tiny_lerobot.write_video(file, [tiny_lerobot.image(3, 0)] * (steps + (2 if damage == 'longer' else -2)))
  else:
    file.write_bytes({'cut': file.read_bytes()[:-400], 'text': b'no video', 'nothing': b''}[damage])
  with pytest.raises(ValueError, match=f'{VIDEOS[version]} does not fit .*{DATA[version]}: '):
    drawn(folder)


def test_metadata_of_other_lengths_than_the_videos_are_refused(copied):
  folder = copied('v3.0', 'video')
  file = folder / 'meta/episodes/chunk-000/file-000.parquet'
  rows = pq.read_table(file).to_pylist()
  rows[1]['videos/observation.images.top/to_timestamp'] += 0.3
  pq.write_table(pq.read_table(file).from_pylist(rows), file)
  with pytest.raises(ValueError, match=r'episode 1 has 9 steps in data/.*file-000.parquet and 12.0 frames in videos/'):
    opened(folder)


@pytest.mark.parametrize('version', VIDEOS)
def test_a_table_of_another_length_is_refused(copied, version):
  folder = copied(version, 'image')
  file = folder / DATA[version]
  pq.write_table(pq.read_table(file).slice(1), file)
  with pytest.raises(ValueError, match=rf'{DATA[version]} has \d+ rows, its episodes \d+ steps'):
    list(opened(folder, camera='top').read_all())


def test_rows_of_another_episode_are_refused(copied):
  folder = copied('v2.1', 'image')
  shutil.copy(folder / 'data/chunk-000/episode_000000.parquet', folder / 'data/chunk-000/episode_000005.parquet')
  tiny_lerobot.write(folder.with_name('other'), 'v2.1', 'image', [*LENGTHS[:5], 5])
  shutil.copy(folder.with_name('other') / 'meta/episodes.jsonl', folder / 'meta/episodes.jsonl')
  with pytest.raises(ValueError, match='are not those of episode 5'):
    list(opened(folder, camera='top').read_all())


def test_only_the_span_of_a_window_is_decoded(tmp_path, monkeypatch):
  tiny_lerobot.write_video(tmp_path / 'a.mp4', [np.full((32, 32, 3), t, np.uint8) for t in range(200)], g='10')
  counted = []
  found = video._from
  monkeypatch.setattr(video, '_from', lambda *args: (counted.append(1) or frame for frame in found(*args)))
  spans = video.SpanReader()
  frames = list(spans.frames(tmp_path / 'a.mp4', [t / tiny_lerobot.FPS for t in (153, 154, 155)], 0.03))
  np.testing.assert_allclose([frame.mean() for frame in frames], [153, 154, 155], atol=2)
  assert len(counted) <= 10 + 3


def test_nan_names_the_episode(copied):
  folder = copied('v2.1', 'image')
  spec = data.recorded_spec([str(folder)])
  file = folder / 'data/chunk-000/episode_000001.parquet'
  table = pq.read_table(file)
  rows = table.to_pylist()
  rows[4]['action'][1] = float('nan')
  pq.write_table(table.from_pylist(rows, table.schema), file)
  dataset = open_dataset(str(folder), 'train', spec, camera='top', vectors=NoVectors())
  with pytest.raises(ValueError, match=re.escape("episode 1 of 'train', step 4: action elbow.pos is nan")):
    list(dataset.read_all())
