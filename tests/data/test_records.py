"""Reading records in runs: which ones, in which passes, and damaged files."""
import pathlib
import shutil
import struct

import pytest
import tensorflow_datasets as tfds
from helpers import tiny_rlds

from rtjax import actions
from rtjax.data.records import Chunk
from rtjax.data.rlds.episodes import Dataset
from rtjax.data.tf import tf

LENGTHS = [3, 7, 1, 12, 5, 9, 2, 4, 6, 8]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  return tiny_rlds.write_lengths(tmp_path_factory.mktemp('tiny'), LENGTHS, 3)


def open_tiny(folder, split='train'):
  return Dataset(str(folder), split, actions.ARM_7D)


@pytest.mark.parametrize('split', ['train', 'train[:50%]', 'train[3:]', 'train[:2]+train[7:9]'])
@pytest.mark.parametrize('size', [1, 3, 64])
def test_chunks_cover_the_split_in_order(tiny, split, size):
  dataset = open_tiny(tiny, split=split)
  by_tfds = tfds.builder_from_directory(tiny).as_dataset(split, shuffle_files=False)
  expected = [int(e['steps'].cardinality()) for e in by_tfds]
  chunks = dataset.chunks(size)
  episodes = list(dataset.read(chunks))
  assert [len(e) for e in episodes] == expected
  assert [e.number for e in episodes] == list(range(dataset.num_records))
  assert max(c.take for c in chunks) <= size
  backwards = [e.number for e in dataset.read(chunks[::-1])]
  assert backwards == [c.first + i for c in chunks[::-1] for i in range(c.take)]


@pytest.mark.parametrize('cut', ['inside a record', 'between records'])
def test_truncated_file_is_named_with_the_episode(tiny, tmp_path, cut):
  folder = tmp_path / '1.0.0'
  shutil.copytree(tiny, folder)
  file = folder / 'bridge_dataset-train.tfrecord-00001-of-00003'
  data = file.read_bytes()
  first = int.from_bytes(data[:8], 'little') + 16  # A record is its length, a checksum, the data and a checksum.
  file.write_bytes(data[:first + (len(data) - first) // 2] if cut == 'inside a record' else data[:first])
  dataset = open_tiny(folder)
  start = next(c for c in dataset.chunks(64) if c.file == str(file))
  read = []
  with pytest.raises(ValueError) as error:
    for episode in dataset.read(dataset.chunks(64)):
      read.append(episode.number)
  damaged = max(read) + 1
  assert read == list(range(damaged)) and start.first < damaged < start.first + start.take
  assert f'cannot read episode {damaged}' in str(error.value) and file.name in str(error.value)
  assert f'record {damaged - start.first} of' in str(error.value)


def test_a_file_that_is_gone_is_named(tiny, tmp_path):
  folder = tmp_path / '1.0.0'
  shutil.copytree(tiny, folder)
  (folder / 'bridge_dataset-train.tfrecord-00002-of-00003').unlink()
  with pytest.raises(ValueError, match=r'cannot read episode 7 .*00002-of-00003'):
    list(open_tiny(folder).read_all())


def test_reading_can_start_inside_a_file(tiny, monkeypatch):
  """Chunks that lie one after another in a file take one pass."""
  opened = []
  iterate = tf.compat.v1.io.tf_record_iterator
  monkeypatch.setattr(tf.compat.v1.io, 'tf_record_iterator', lambda file: opened.append(file) or iterate(file))
  dataset = open_tiny(tiny)
  chunk = dataset.chunks(64)[1]
  first, last = (Chunk(chunk.first + i, chunk.file, i, 1) for i in (0, chunk.take - 1))
  for chunks, passes in (([last], 1), ([first, last], 1), ([last, first], 2), ([first, first], 2)):
    opened.clear()
    assert [(e.number, len(e)) for e in dataset.read(chunks)] == [(c.first, LENGTHS[c.first]) for c in chunks]
    assert opened == passes * [chunk.file]


def test_a_record_that_declares_terabytes(small, tmp_path):
  """TensorFlow alone crashes on it: the checksum of the length is right."""
  folder = pathlib.Path(shutil.copytree(small, tmp_path / 'data'))
  (file,) = folder.glob('*.tfrecord*')
  file.write_bytes(struct.pack('<QI', 2 ** 40, 0xcfab3f6a) + bytes(1000))
  with pytest.raises(ValueError, match=r'record 0 of .*: the record has 1,099,511,627,776 bytes, expected at most'):
    tiny_rlds.read(str(folder))
