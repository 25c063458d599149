"""Order, shares, resuming and threads of a stream, on tiny RLDS datasets."""
import collections
import json
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorflow as tf
from helpers import tiny_rlds
from helpers.paths import ROOT
from helpers.stream_worker import fingerprint
from helpers.tiny_rlds import all_windows, draw, own_threads, windows_of

from rtjax import actions
from rtjax.data import DataConfig, validation_batches
from rtjax.data.rlds import episodes

make = tiny_rlds.stream


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
  """The position of each process shows the end of its epoch."""
  seen = collections.defaultdict(list)
  for index in range(count):
    with make(other, batch_size=1, process_index=index, process_count=count) as stream:
      while (epoch := stream.state()['positions'][0][0]) < 2:
        seen[epoch] += windows_of(next(stream))
  assert sorted(seen[0]) == sorted(seen[1]) == all_windows(lengths=[5] * 9)


def test_shuffling_crosses_files_and_mixes_windows(tiny):
  """The first windows of a large group come from nearly all episodes."""
  first = draw(tiny, 40, config=DataConfig(shuffle_episodes=100))
  assert len({episode for episode, _ in first}) > 12


def test_memory_is_reused_without_references(tiny):
  """Referenced images stay unchanged, also in a jax.Array; others are reused."""
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


def run_workers(settings):
  """Run a worker per setting, in parallel; return lines and exit codes."""
  worker = str(ROOT / 'tests/helpers/stream_worker.py')
  running = [subprocess.Popen([sys.executable, worker, json.dumps(setting)], stdout=subprocess.PIPE, text=True)
             for setting in settings]
  outputs = [process.communicate()[0] for process in running]
  return [[json.loads(line) for line in out.splitlines()] for out in outputs], [p.returncode for p in running]


def test_real_processes(tiny, other):
  """A killed process is resumed by another; two share one dataset."""
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
    expected = [fingerprint(next(stream)) for _ in range(14)]
  assert [line[0] for line in killed] == expected[:7]
  (resumed,), _ = run_workers([mixture | {'batches': 7, 'state': killed[-1][2]}])
  assert [line[0] for line in resumed] == expected[7:]
  assert resumed[0][2]['positions'] != killed[-1][2]['positions']


def test_resume_from_everywhere(tiny, other):
  """From the state after each batch, the next two are bitwise equal."""
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
  with make([tiny, other], config, horizon=2, batch_size=12) as stream:  # another batch size continues too
    stream.restore(states[3])
    np.testing.assert_array_equal(next(stream)['steps'], batches[3]['steps'][:12])


def test_resume_reads_one_group_however_late(tiny, monkeypatch):
  read = []
  original = episodes.Dataset._episode
  monkeypatch.setattr(episodes.Dataset, '_episode', lambda *args: read.append(args[1]) or original(*args))
  with make(tiny) as stream:
    for _ in range(60):
      next(stream)
    state = stream.state()
  assert state['positions'][0][0] >= 3
  read.clear()
  with make(tiny) as stream:
    stream.restore(state)
    next(stream)
  assert 0 < len(read) <= 2 * 8  # one group and at most one read ahead, each of 6 episodes and the rest of a chunk


def test_position_of_other_data_is_refused(tiny, other):
  with make(tiny) as stream:
    state = stream.state()
  for options, what in (({'seed': 1}, 'seed was 0, now 1'), ({'process_count': 2}, 'process_count was 1, now 2'),
                        ({'config': DataConfig(stride=2, shuffle_episodes=6)}, 'window_stride was 1, now 2')):
    with make(tiny, **options) as stream, pytest.raises(ValueError, match=what):
      stream.restore(state)
  with make(other) as stream, pytest.raises(ValueError, match=r'other0.* had another name, version'):
    stream.restore(state)


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
