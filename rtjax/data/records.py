"""Records of a split, read in runs from within its files."""
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from etils import epath
from google.protobuf.message import DecodeError

from rtjax.data import catalog
from rtjax.data.tf import tf
from rtjax.runtime import limits

_Item = TypeVar('_Item', covariant=True)


@dataclasses.dataclass(frozen=True, order=True)
class Chunk:
  """A run of records of one file.

  Attributes:
    first: number of its first record in the split.
    file: path.
    skip: records of the file before the run.
    take: records of the run.
  """
  first: int
  file: str
  skip: int
  take: int


class RecordSource(Protocol[_Item]):
  """One split of a dataset, as a list of items.

  An item is an episode, or an image with its texts.

  Attributes:
    name, split: as the user gave them, for messages.
    num_records: number of items.
    record_name: word for an item in messages.
  """
  name: str
  split: str
  num_records: int
  record_name: str

  @property
  def identity(self) -> str:
    """Hash of the records and their order, not of their folder."""

  def chunks(self, size: int) -> list[Chunk]:
    """Return the split in runs of at most `size` records."""

  def read(self, chunks: Sequence[Chunk]) -> Iterator[_Item]:
    """Yield the items of `chunks`, in this order."""

  def read_all(self) -> Iterator[_Item]:
    """Yield all items in order."""
    return self.read(self.chunks(self.num_records))

  def at_epoch(self, item: Any, key: Sequence[int]) -> Any:
    """Return the item as an epoch shows it; `key` alone determines choices."""
    del key
    return item

  def empty_error(self) -> ValueError:
    """Return the error for a split whose items are all empty."""


class TfdsRecords:
  """Records of one split of a TFDS dataset; no chunk crosses files.

  Args:
    name: a folder that holds dataset_info.json (or its parent), a `gs://` folder, or a TFDS name.
    split: in TFDS's split algebra.

  Raises:
    FileNotFoundError: no such folder or TFDS dataset.
    ValueError: the split is unknown or empty.
  """

  record_name = 'record'

  def __init__(self, name: str, split: str):
    self.name, self.split = name, split
    self._builder = catalog.open_builder(name)
    self._instructions = catalog.file_instructions(name, self._builder, split)
    self.num_records = sum(i.take for i in self._instructions)

  @property
  def identity(self) -> str:
    info = self._builder.info
    shards = [[epath.Path(i.filename).name, i.skip, i.take] for i in self._instructions]
    return hashlib.sha256(json.dumps([info.name, str(info.version), shards]).encode()).hexdigest()[:16]

  @property
  def split_sizes(self) -> dict[str, int]:
    """Records of each split of the dataset."""
    return {name: split.num_examples for name, split in self._builder.info.splits.items()}

  @property
  def version(self) -> str:
    return str(self._builder.info.version)

  def digest(self) -> str:
    """Hash of the contents of the split's records, wherever they lie."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # a read of a gs:// file takes a round trip
      parts = pool.map(_checksums, self._instructions)
      return hashlib.sha256(b''.join(parts)).hexdigest()[:16]

  @property
  def files(self) -> list[str]:
    """Paths of all files that hold records of the split."""
    return sorted({i.filename for i in self._instructions})

  def chunks(self, size: int) -> list[Chunk]:
    chunks, number = [], 0
    for i in self._instructions:
      for skip in range(0, i.take, size):
        chunks.append(Chunk(number + skip, i.filename, i.skip + skip, min(size, i.take - skip)))
      number += i.take
    return chunks

  def records(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, tf.train.Example]]:
    """Yield number and content of each record of `chunks`, in this order."""
    for run in _sequential_runs(chunks):
      yield from self._read_run(run)

  def _read_run(self, run: list[Chunk]) -> Iterator[tuple[int, tf.train.Example]]:
    numbers = {chunk.skip + i: chunk.first + i for chunk in run for i in range(chunk.take)}  # {place in file: number}
    file, place, end = run[0].file, 0, max(numbers) + 1
    try:
      # Not a tf.data pipeline: setting one up took as long as reading 500 frames, and runs may be short.
      for record in itertools.islice(_records(file), end):
        if place in numbers:
          yield numbers[place], tf.train.Example.FromString(record)
        place += 1
    except (tf.errors.OpError, DecodeError, OSError, limits.BoundError) as error:
      limits.check_downloaded(file)
      raise self._read_error(numbers, file, place, str(error)) from error
    if place < end:
      raise self._read_error(numbers, file, place, 'the file ends before it')

  def _read_error(self, numbers: dict[int, int], file: str, place: int, reason: str) -> ValueError:
    number = next(number for wanted, number in numbers.items() if wanted >= place)
    return ValueError(f'{self.name}: cannot read {self.record_name} {number} of {self.split!r}: record {place} of '
                      f'{file}: {reason}. The file is missing, truncated or damaged: copy or convert it again.')


def _checksums(instruction: Any) -> bytes:
  """Return size and checksum of each record, as the file holds them."""
  found = []
  with epath.Path(instruction.filename).open('rb') as file:
    for _ in range(instruction.skip + instruction.take):
      size = file.read(12)[:8]  # and the checksum of the size
      length = int.from_bytes(size, 'little')
      limits.check_size(length, limits.RECORD_BYTES, f'a record of {instruction.filename}')
      file.seek(length, os.SEEK_CUR)
      found.append(size + file.read(4))
  return b''.join(found[instruction.skip:])


def _records(file: str) -> Iterator[bytes]:
  """Yield the records of a TFRecord file.

  The length of each is checked first: for a large one TensorFlow takes the memory before it reads, and crashes.
  """
  records = tf.compat.v1.io.tf_record_iterator(file)
  if '://' in file:
    yield from records
    return
  with open(file, 'rb') as lengths:
    limits.check_file(file)
    size, place = os.fstat(lengths.fileno()).st_size, 0
    while place < size:
      length = int.from_bytes(os.pread(lengths.fileno(), 8, place), 'little')
      place += length + 16  # the length and two checksums
      limits.check_size(length, min(limits.RECORD_BYTES, max(size - place + length, 0)), 'the record')
      record = next(records, None)
      if record is None:
        return
      yield record


def _sequential_runs(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
  """Group chunks into lists that one pass over a file reads."""
  runs: list[list[Chunk]] = []
  for chunk in chunks:
    last = runs[-1][-1] if runs else None
    if last and last.file == chunk.file and last.skip + last.take <= chunk.skip:
      runs[-1].append(chunk)
    else:
      runs.append([chunk])
  return runs
