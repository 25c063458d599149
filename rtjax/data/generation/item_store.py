"""Resumable parallel generation of dataset items, stored on disk."""
import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import socket
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath
from flax import serialization

from rtjax.data.beam import runner
from rtjax.data.config import available_cores
from rtjax.runtime import interrupt
from rtjax.runtime.progress import Progress

SplitRanges = dict[str, tuple[int, int]]
"""{split: [first, end)}, the item numbers of each split."""


def split_ranges(train: int, unit: str = 'episodes') -> SplitRanges:
  """Return the item numbers of the splits 'train' and 'val'.

  'val' has a tenth as many items as 'train', at least one.

  Raises:
    ValueError: `train` is below 1; `unit` names its option.
  """
  if train < 1:
    raise ValueError(f'--{unit} is {train}, expected at least 1.')
  return {'train': (0, train), 'val': (train, train + max(1, train // 10))}


@dataclasses.dataclass(frozen=True)
class ItemStore:
  """Folder of numbered items, `size` to a file.

  An item is made of dicts, lists, arrays, numbers, texts and bytes, which msgpack stores; files cannot run code.

  Attributes:
    folder: path of the folder, which holds nothing else.
    size: items per file; an interruption loses at most one file per worker.
  """
  folder: epath.Path
  size: int

  def create(self, recipe: dict[str, Any]) -> None:
    """Create the folder, or check that it holds items of `recipe`.

    Args:
      recipe: settings that determine the items, JSON-able.

    Raises:
      ValueError: the folder holds items of another recipe.
    """
    self.folder.mkdir(parents=True, exist_ok=True)
    file, text = self.folder / 'recipe.json', json.dumps(recipe)
    if file.exists() and file.read_text() != text:
      raise ValueError(f'{self.folder} holds items made by another recipe, {file.read_text()}: remove it, or choose '
                       'another folder with --out.')
    file.write_text(text)

  def path(self, first: int) -> epath.Path:
    """Path of the file with items [first, first + size)."""
    return self.folder / f'{first:07d}.msgpack'

  def write(self, first: int, items: list[Any]) -> None:
    """Write one file; it appears only when complete."""
    partial = self.folder / f'{first:07d}.{uuid.uuid4().hex}.partial'  # runners may give an item to two workers
    partial.write_bytes(serialization.msgpack_serialize({'items': items}))
    partial.replace(self.path(first))

  def read(self, first: int, end: int) -> Iterator[Any]:
    """Yield items [first, end); `first` must start a file."""
    for start, _ in self.parts(first, end):
      yield from serialization.msgpack_restore(self.path(start).read_bytes())['items']

  def parts(self, first: int, end: int) -> list[tuple[int, int]]:
    """Return the items [first, end) file by file."""
    return [(start, min(start + self.size, end)) for start in range(first, end, self.size)]

  def fill(self, make: Callable[[int, int], list[Any]], ranges: SplitRanges, workers: int, name: str,
           beam: str = '') -> None:
    """Make the missing items in parallel, with a progress bar.

    Args:
      make: returns items [first, end); must be picklable.
      ranges: items to make.
      workers: processes; 0 means one per core.
      name: label of the progress bar.
      beam: an Apache Beam runner and its flags, in place of processes.
    """
    parts = [part for span in ranges.values() for part in self.parts(*span)]
    missing = [part for part in parts if not self.path(part[0]).exists()]
    total, left = (sum(end - first for first, end in some) for some in (parts, missing))
    if beam:
      runner.each(beam, functools.partial(_make_file, self, make), missing, name)
      return
    workers = min(workers or available_cores(), max(len(missing), 1))
    with Progress(name, total, 'items', total - left) as progress, concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context('spawn')) as pool:
      with interrupt.masked():
        futures = {pool.submit(_make_file, self, make, *part): part for part in missing}
      try:
        for future in concurrent.futures.as_completed(futures):
          future.result()
          first, end = futures[future]
          progress.advance(end - first)
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _make_file(store: ItemStore, make: Callable[[int, int], list[Any]], first: int, end: int) -> None:
  if not store.folder.exists():
    raise FileNotFoundError(f'{store.folder} cannot be reached from {socket.gethostname()}. Choose with --out a folder '
                            'that all workers reach, such as gs://BUCKET/FOLDER.')
  store.write(first, make(first, end))
