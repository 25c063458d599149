"""The stream's promises: what is in a batch, in which order, and that killing and resuming changes nothing."""
import collections
import json
import shutil
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from helpers import tiny_rlds
from helpers.paths import ROOT
from helpers.stream_worker import fingerprint
from helpers.tiny_rlds import windows_of

from rtjax import actions
from rtjax.data import DataConfig, TrainingStream, images, statistics, validation_batches
from rtjax.data.rlds import episodes
from rtjax.data.windows import WindowConfig, window_ends

make = tiny_rlds.stream
LENGTHS = [3, 7, 1, 12, 5, 9, 2, 4, 6, 8, 11, 10, 1, 2, 3, 14, 5, 6, 7, 2]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  return tiny_rlds.write_lengths(tmp_path_factory.mktemp('tiny'), LENGTHS, 3)


@pytest.fixture(scope='module')
def other(tmp_path_factory):
  """A second dataset, whose episodes are all of 5 steps."""
  return tiny_rlds.write_lengths(tmp_path_factory.mktemp('other'), [5] * 9, 2)


def draw(datasets, count, **options):
  """The first `count` windows as (episode, end)."""
  with make(datasets, batch_size=1, **options) as stream:
    return [windows_of(next(stream))[0] for _ in range(count)]


def all_windows(config=None, lengths=LENGTHS):
  return [(i, int(end)) for i, length in enumerate(lengths) for end in window_ends(length, config or WindowConfig(4))]


def check_batch(batch, window, horizon, padding_in_loss=False, padding='front'):
  """Every number of a batch of the tiny dataset, from the rule that made the dataset."""
  for row, (episode, end) in enumerate(windows_of(batch)):
    assert batch['instructions'][row] == f'task {episode}'
    for t in range(window):
      step = end - window + 1 + t if padding == 'front' else max(0, end - window + 1) + t
      real = 0 <= step <= end
      assert batch['frames'][row, t] == real
      np.testing.assert_array_equal(batch['images'][row, t], tiny_rlds.image(episode, step) if real else 0)
      np.testing.assert_array_equal(batch['embeddings'][row, t], tiny_rlds.embedding(episode, step) if real else 0)
      if 'proprioception' in batch:
        np.testing.assert_array_equal(batch['proprioception'][row, t], [episode, step] if real else 0)
      for f in range(horizon):
        inside = real and step + f < LENGTHS[episode]
        assert batch['mask'][row, t, f] == (inside or (padding_in_loss and not real))
        np.testing.assert_array_equal(batch['actions'][row, t, f], tiny_rlds.action(episode, step + f) if inside else 0)


@pytest.mark.parametrize('window,horizon,config', [
    (4, 1, DataConfig()), (6, 3, DataConfig(stride=6, proprioception=True)), (3, 2, DataConfig(padding_in_loss=True))])
def test_batches_hold_what_the_episodes_hold(tiny, window, horizon, config):
  with make(tiny, config, window=window, horizon=horizon) as stream:
    for _ in range(4):
      batch = next(stream)
      check_batch(batch, window, horizon, config.padding_in_loss)
  shapes = {name: (array.shape, array.dtype.name) for name, array in batch.items()}
  assert shapes == {
      'images': ((8, window, *tiny_rlds.IMAGE), 'uint8'), 'embeddings': ((8, window, 512), 'float32'),
      'actions': ((8, window, horizon, 7), 'float32'), 'mask': ((8, window, horizon), 'bool'),
      'frames': ((8, window), 'bool'), 'instructions': ((8,), 'object'), 'episodes': ((8,), 'int64'),
      'steps': ((8,), 'int32')} | ({'proprioception': ((8, window, 2), 'float32')} if config.proprioception else {})


@pytest.mark.parametrize('padding', ['front', 'back'])
def test_waypoints(tmp_path, padding):
  """Where the gripper is when its command next changes, or else at the end: here it opens and closes at will."""
  commands = [[1, 1, 0, 0, 0, 1], [0, 0, 0], [1]]
  layout = tfds.features.FeaturesDict({'steps': tfds.features.Dataset(
      dict(tiny_rlds.features()['steps'].feature) | {'observation': {
          'image_0': tfds.features.Image(shape=tiny_rlds.IMAGE, encoding_format='png'),
          'state': tfds.features.Tensor(shape=(4,), dtype=np.float32)}})})
  made = [[step | {'action': np.float32([0, 0, 0, 0, 0, 0, command]), 'observation': {
      'image_0': tiny_rlds.image(number, t), 'state': np.float32([number, t, 10 * t, 99])}}
      for t, (step, command) in enumerate(zip(tiny_rlds.steps(number, len(episode)), episode, strict=True))]
      for number, episode in enumerate(commands)]
  reached = [[2, 2, 5, 5, 5, 5], [2, 2, 2], [0]]
  name = tiny_rlds.write(tmp_path, made, layout=layout)
  config = DataConfig(validation_split='train', waypoints=True)
  batch = next(validation_batches([name], config, actions.ARM_7D, window=2, horizon=1, batch_size=10, padding=padding))
  assert 'proprioception' not in batch and batch['waypoints'].dtype == np.float32
  for row, (episode, end) in enumerate(windows_of(batch)):
    steps = [s for s in (end - 1, end) if s >= 0]
    shown = [(episode, reached[episode][s], 10 * reached[episode][s]) for s in steps]
    empty = [(0, 0, 0)] * (2 - len(steps))
    np.testing.assert_array_equal(batch['waypoints'][row], empty + shown if padding == 'front' else shown + empty)


def test_waypoints_need_a_position(tiny):
  with pytest.raises(ValueError, match='x, y and z of the gripper'):
    make(tiny, DataConfig(waypoints=True))


def test_padding_behind(tiny):
  """The same windows in the same order as with padding in front, and their frames in the first slots."""
  config = DataConfig(proprioception=True)
  with make(tiny, config, horizon=2, padding='back') as stream, make(tiny, config, horizon=2) as front:
    for _ in range(4):
      batch, other = next(stream), next(front)
      check_batch(batch, 4, 2, padding='back')
      assert windows_of(batch) == windows_of(other)
      for row in np.flatnonzero(batch['steps'] >= 3):
        np.testing.assert_array_equal(batch['actions'][row], other['actions'][row])
  held_out = validation_batches([tiny], DataConfig(validation_split='train'), actions.ARM_7D, window=4, horizon=1,
                                batch_size=8, padding='back')
  for batch in held_out:
    check_batch({k: v[batch['episodes'] >= 0] for k, v in batch.items()}, 4, 1, padding='back')
  with pytest.raises(ValueError, match="padding is 'back'"):
    make(tiny, DataConfig(padding_in_loss=True), padding='back')


def test_memory_is_used_again_when_nobody_holds_it(tiny):
  """What is held stays as it is, in a jax.Array too; what was let go comes back and shows nothing of its past."""
  addresses, held = [], []
  with make(tiny) as stream, make(tiny) as fresh:
    for n in range(40):
      batch, expected = next(stream), next(fresh)['images'].copy()
      addresses.append(batch['images'].ctypes.data)
      np.testing.assert_array_equal(batch['images'], expected)
      if n % 4 == 0:
        held.append((batch['images'][:, -1], expected[:, -1]))  # a view of it
      elif n % 4 == 1:
        held.append((jax.device_put(batch['images']), expected))
      else:
        batch['images'][:] = 255
      del batch
    for array, expected in held:
      np.testing.assert_array_equal(array, expected)
  assert len(held) < len(set(addresses)) < 40 - 8


def test_an_epoch_is_every_window_once(tiny):
  expected = all_windows()
  drawn = draw(tiny, 3 * len(expected))
  epochs = [drawn[i:i + len(expected)] for i in range(0, len(drawn), len(expected))]
  assert all(sorted(epoch) == expected for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != expected
  assert draw(tiny, len(drawn)) == drawn
  assert draw(tiny, len(drawn), seed=1) != drawn


@pytest.mark.parametrize('count', [2, 5, 9])
def test_shares_are_disjoint_and_cover_everything(other, count):
  """Each process's own epoch is read off from where its position turns to the next epoch."""
  seen = collections.defaultdict(list)
  for index in range(count):
    with make(other, batch_size=1, process_index=index, process_count=count) as stream:
      while (epoch := stream.state()['positions'][0][0]) < 2:
        seen[epoch] += windows_of(next(stream))
  assert sorted(seen[0]) == sorted(seen[1]) == all_windows(lengths=[5] * 9)


def test_shuffling_crosses_files_and_mixes_windows(tiny):
  """The first windows of a large group come from nearly all episodes, not from one file."""
  first = draw(tiny, 40, config=DataConfig(shuffle_episodes=100))
  assert len({episode for episode, _ in first}) > 12


def run_workers(settings):
  """Runs the worker once per setting, all at a time; their lines and exit codes."""
  worker = str(ROOT / 'tests/helpers/stream_worker.py')
  running = [subprocess.Popen([sys.executable, worker, json.dumps(setting)], stdout=subprocess.PIPE, text=True)
             for setting in settings]
  outputs = [process.communicate()[0] for process in running]
  return [[json.loads(line) for line in out.splitlines()] for out in outputs], [p.returncode for p in running]


def test_real_processes(tiny, other):
  """One is killed after 7 batches of a mixture, and another goes on where it was; two share one dataset."""
  mixture = {'datasets': [tiny, other], 'config': {'shuffle_episodes': 8, 'weights': [3, 1], 'threads': 2},
             'stream': {'window': 4, 'horizon': 2, 'batch_size': 16, 'seed': 5}}
  share = {'datasets': [tiny], 'config': {'shuffle_episodes': 4}}
  stream = {'window': 4, 'horizon': 1, 'batch_size': 1, 'seed': 3, 'process_count': 2}
  (killed, first, second), codes = run_workers([
      mixture | {'batches': 7, 'kill': True}, share | {'stream': stream | {'process_index': 0}},
      share | {'stream': stream | {'process_index': 1}}])
  assert codes == [-signal.SIGKILL, 0, 0]
  assert len(first) > 20 and len(second) > 20
  assert sorted(tuple(w) for line in first + second for w in line[1]) == all_windows()
  with make([tiny, other], DataConfig(**mixture['config']), **mixture['stream']) as stream:
    whole = [fingerprint(next(stream)) for _ in range(14)]
  assert [line[0] for line in killed] == whole[:7]
  (resumed,), _ = run_workers([mixture | {'batches': 7, 'state': killed[-1][2]}])
  assert [line[0] for line in resumed] == whole[7:]
  assert resumed[0][2]['positions'] != killed[-1][2]['positions']


def test_resume_from_everywhere(tiny, other):
  """From the state after each batch, over several epochs of a mixture, the next two batches are the same bit by bit."""
  config = DataConfig(shuffle_episodes=6, weights=(0.6, 0.4))
  with make([tiny, other], config, horizon=2, batch_size=24) as stream:
    states, batches = [stream.state()], []
    for _ in range(16):
      batches.append(next(stream))
      states.append(json.loads(json.dumps(stream.state())))
  assert states[-1]['positions'][0][0] >= 1 and states[-1]['positions'][1][0] >= 2
  with make([tiny, other], config, horizon=2, batch_size=24) as stream:
    for n in range(14):
      stream.restore(states[n])
      assert stream.state() == states[n]
      for batch in batches[n:n + 2]:
        assert fingerprint(next(stream)) == fingerprint(batch)
      assert stream.state() == states[n + 2]
  with make([tiny, other], config, horizon=2, batch_size=12) as stream:  # Another batch size goes on all the same.
    stream.restore(states[3])
    np.testing.assert_array_equal(next(stream)['steps'], batches[3]['steps'][:12])


def test_resume_reads_one_group_however_late(tiny, monkeypatch):
  read = []
  whole = episodes.Dataset._episode
  monkeypatch.setattr(episodes.Dataset, '_episode', lambda *args: read.append(args[1]) or whole(*args))
  with make(tiny) as stream:
    for _ in range(60):
      next(stream)
    state = stream.state()
  assert state['positions'][0][0] >= 3
  read.clear()
  with make(tiny) as stream:
    stream.restore(state)
    next(stream)
  assert 0 < len(read) <= 2 * 8  # One group, and at most the one read ahead, of 6 episodes and a chunk's rest.


def test_position_of_other_data_is_refused(tiny, other):
  with make(tiny) as stream:
    state = stream.state()
  for options, what in (({'seed': 1}, 'seed was 0, now 1'), ({'process_count': 2}, 'process_count was 1, now 2'),
                        ({'config': DataConfig(stride=2, shuffle_episodes=6)}, 'window_stride was 1, now 2')):
    with make(tiny, **options) as stream, pytest.raises(ValueError, match=what):
      stream.restore(state)
  with make(other) as stream, pytest.raises(ValueError, match='datasets was'):
    stream.restore(state)


@pytest.fixture
def decoded(monkeypatch):
  """Counts the images that are decoded, by their bytes."""
  counts = collections.Counter()
  whole = images.decoder

  def counting(feature, size):
    decode = whole(feature, size)
    return lambda stored: counts.update([bytes(stored)]) or decode(stored)

  monkeypatch.setattr(images, 'decoder', counting)
  return counts


def test_stride_of_the_window_decodes_each_frame_once(tiny, decoded):
  config = DataConfig(stride=4, shuffle_episodes=6)
  windows = len(all_windows(WindowConfig(4, 4)))
  for batch in validation_batches([tiny], DataConfig(stride=4, validation_split='train'), actions.ARM_7D, window=4,
                                  horizon=1, batch_size=8):
    check_batch({k: v[batch['episodes'] >= 0] for k, v in batch.items()}, 4, 1)
  assert set(decoded.values()) == {1} and len(decoded) == sum(LENGTHS)
  decoded.clear()
  with make(tiny, config, batch_size=windows) as stream:
    next(stream)
  # The batch after it may have been started: an epoch's frames are there once, and at most once more.
  assert len(decoded) == sum(LENGTHS) and max(decoded.values()) <= 2


@pytest.mark.parametrize('count', [1, 3])
def test_validation_is_every_window_in_order(tiny, other, count):
  config = DataConfig(validation_split='train')
  shares = [list(validation_batches([tiny, other], config, actions.ARM_7D, window=4, horizon=1, batch_size=8,
                                    process_index=i, process_count=count)) for i in range(count)]
  assert len({len(share) for share in shares}) == 1
  merged = [w for batches in zip(*shares, strict=True) for batch in batches for w in windows_of(batch)]
  expected = all_windows() + all_windows(lengths=[5] * 9)
  assert merged[:len(expected)] == expected
  assert set(merged[len(expected):]) == {(-1, -1)} and len(merged) - len(expected) < 8 * count
  last = shares[-1][-1]
  filler = last['episodes'] < 0
  assert filler.any() and not last['mask'][filler].any() and not last['frames'][filler].any()
  assert not last['images'][filler].any()


def own_threads():
  return [t.name for t in threading.enumerate() if t.name.startswith('rtjax')]


def test_no_thread_is_left(tiny):
  stream = make(tiny)
  next(stream)
  assert own_threads()
  stream.close()
  assert not own_threads()
  stream.close()
  with pytest.raises(ValueError, match='is closed'):
    next(stream)
  batches = validation_batches([tiny], DataConfig(validation_split='train'), actions.ARM_7D, window=4, horizon=1,
                               batch_size=8)
  next(batches)
  batches.close()
  assert not own_threads()
  with pytest.raises(ZeroDivisionError), make(tiny) as stream:
    next(stream)
    raise ZeroDivisionError
  assert not own_threads()


def test_errors_of_threads_reach_next(tiny, tmp_path):
  folder = tmp_path / 'cut/1.0.0'
  shutil.copytree(tiny, folder)
  file = folder / 'bridge_dataset-train.tfrecord-00001-of-00003'
  file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
  stream = make(str(folder))
  with pytest.raises(ValueError, match=r'cannot read episode .*00001-of-00003'):
    for _ in range(100):
      next(stream)
  assert not own_threads()
  steps = tiny_rlds.steps(0, 3)
  steps[1]['observation']['image_0'] = str(tmp_path / 'broken.png')
  (tmp_path / 'broken.png').write_bytes(tf.io.encode_png(tiny_rlds.image(0, 1)).numpy()[:40])
  stream = make(tiny_rlds.write(tmp_path, [steps]))
  with pytest.raises(ValueError, match='episode 0, step 1: the image cannot be decoded'):
    next(stream)


def test_pixels_that_are_stored_as_they_are(tmp_path):
  layout = tiny_rlds.features(tfds.features.Tensor(shape=tiny_rlds.IMAGE, dtype=np.uint8))
  with make(tiny_rlds.write_lengths(tmp_path, LENGTHS[:4], layout=layout)) as stream:
    check_batch(next(stream), 4, 1)


@pytest.mark.parametrize('options,words', [
    ({'process_count': 21}, '20 episodes, process_count is 21'),
    ({'process_index': 2, 'process_count': 2}, 'process_index < process'),
    ({'batch_size': 0}, 'batch_size is 0'), ({'window': 0}, 'length is 0'), ({'seed': -1}, 'seed -1'),
    ({'config': DataConfig(weights=(1, 2))}, '2 weights .* for 1 datasets')])
def test_wrong_arguments(tiny, options, words):
  with pytest.raises(ValueError, match=words):
    make(tiny, **options)


def test_wrong_settings(tiny):
  for options, words in (({'weights': (1, 0)}, 'positive numbers'), ({'weights': (float('nan'),)}, 'positive numbers'),
                         ({'stride': 0}, 'stride is 0'), ({'image_size': (8, 0)}, 'image_size is')):
    with pytest.raises(ValueError, match=words):
      DataConfig(**options)
  with pytest.raises(ValueError, match='expected a list of folders'):
    TrainingStream(tiny, DataConfig(), actions.ARM_7D, window=2, horizon=1, batch_size=1, seed=0)
  assert not own_threads()


def test_empty_episodes_are_skipped(tmp_path):
  folder = tiny_rlds.write_lengths(tmp_path / 'some', [0, 2, 0, 1])
  assert sorted(draw(folder, 6, config=DataConfig(shuffle_episodes=1))) == sorted(2 * [(1, 0), (1, 1), (3, 0)])
  with pytest.raises(ValueError, match=r'no episode of split .* has a step'):
    draw(none := tiny_rlds.write_lengths(tmp_path / 'none', [0, 0]), 1)
  with pytest.raises(ValueError, match=r'no episode of split .* has a step'):
    statistics([none], DataConfig(cache_dir=str(tmp_path)), actions.ARM_7D)
