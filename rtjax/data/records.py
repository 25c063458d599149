"""Records of one split of a TFDS dataset, read in runs out of the middle of its files."""
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence

from etils import epath
from google.protobuf.message import DecodeError

from rtjax.data import catalog
from rtjax.data.tf import tf


@dataclasses.dataclass(frozen=True, order=True)
class Chunk:
  """A run of `take` records inside one file, after `skip` others; `first` is the number of its first record."""
  first: int
  file: str
  skip: int
  take: int


class Records:
  """The records of one split; a record is one episode, or one picture and its texts.

  Args:
    name: a folder that holds dataset_info.json (or its parent), a `gs://` folder, or a TFDS name.
    split: in TFDS's split algebra.

  Raises:
    FileNotFoundError: no such folder or TFDS dataset.
    ValueError: the split is unknown or empty.
  """

  what = 'episode'

  def __init__(self, name: str, split: str):
    self.name, self.split = name, split
    self._builder = catalog.open_builder(name)
    self._instructions = catalog.file_instructions(name, self._builder, split)
    self.num_episodes = sum(i.take for i in self._instructions)

  @property
  def identity(self) -> str:
    """Changes when other records, or the same in another order, are read; the folder may move."""
    info = self._builder.info
    shards = [[epath.Path(i.filename).name, i.skip, i.take] for i in self._instructions]
    return hashlib.sha256(json.dumps([info.name, str(info.version), shards]).encode()).hexdigest()[:16]

  @property
  def files(self) -> list[str]:
    return sorted({i.filename for i in self._instructions})

  def chunks(self, episodes: int) -> list[Chunk]:
    """The split cut into runs of at most `episodes` records, none across two files."""
    chunks, number = [], 0
    for i in self._instructions:
      for skip in range(0, i.take, episodes):
        chunks.append(Chunk(number + skip, i.filename, i.skip + skip, min(episodes, i.take - skip)))
      number += i.take
    return chunks

  def records(self, chunks: Sequence[Chunk]) -> Iterator[tuple[int, tf.train.Example]]:
    """The number and the content of each record of `chunks`, in this order."""
    for run in _runs(chunks):
      yield from self._run(run)

  def _run(self, run: list[Chunk]) -> Iterator[tuple[int, tf.train.Example]]:
    numbers = {chunk.skip + i: chunk.first + i for chunk in run for i in range(chunk.take)}  # of the wanted records
    file, place, end = run[0].file, 0, max(numbers) + 1
    try:
      # Not a tf.data pipeline: setting one up took as long as reading 500 frames, and runs may be short.
      for record in itertools.islice(tf.compat.v1.io.tf_record_iterator(file), end):
        if place in numbers:
          yield numbers[place], tf.train.Example.FromString(record)
        place += 1
    except (tf.errors.OpError, DecodeError) as error:
      raise ValueError(self._unreadable(numbers, file, place, str(error))) from error
    if place < end:
      raise ValueError(self._unreadable(numbers, file, place, 'the file ends before it'))

  def _unreadable(self, numbers: dict[int, int], file: str, place: int, why: str) -> str:
    number = next(number for wanted, number in numbers.items() if wanted >= place)
    return (f'{self.name}: cannot read {self.what} {number} of {self.split!r}: record {place} of {file}: {why}. '
            'The file is missing, truncated or damaged: copy or convert it again.')


def _runs(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
  """The same chunks, in lists of those that one pass over a file reads."""
  runs: list[list[Chunk]] = []
  for chunk in chunks:
    last = runs[-1][-1] if runs else None
    if last and last.file == chunk.file and last.skip + last.take <= chunk.skip:
      runs[-1].append(chunk)
    else:
      runs.append([chunk])
  return runs
