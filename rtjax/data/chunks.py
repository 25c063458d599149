"""Things that take long to make, made in parallel and kept chunk by chunk: interrupted, one goes on where it was."""
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

Spans = dict[str, tuple[int, int]]
"""Of each split the numbers [first, end) of its items."""


def spans(train: int) -> Spans:
  """`train` items to train on; a tenth as many more, at least one, are held out as 'val'."""
  return {'train': (0, train), 'val': (train, train + max(1, train // 10))}


@dataclasses.dataclass(frozen=True)
class Chunks:
  """Numbered items, `size` to a file, in a folder of their own.

  Attributes:
    folder: where they are.
    size: items per file, the unit of work that is lost when interrupted.
  """
  folder: pathlib.Path
  size: int

  def claim(self, wanted: dict[str, Any]) -> None:
    """Makes the folder, for items that `wanted`, JSON-able, describes.

    Raises:
      ValueError: it holds items that were made otherwise.
    """
    self.folder.mkdir(parents=True, exist_ok=True)
    note, text = self.folder / 'recipe.json', json.dumps(wanted)
    if note.exists() and note.read_text() != text:
      raise ValueError(f'{self.folder} holds what was made by another recipe, {note.read_text()}: remove it, or write '
                       'elsewhere with --out.')
    note.write_text(text)

  def path(self, first: int) -> pathlib.Path:
    """The file of items [first, first + size)."""
    return self.folder / f'{first:07d}.pickle'

  def write(self, first: int, items: list[Any]) -> None:
    """Writes one file, which appears only when complete."""
    partial = self.path(first).with_suffix('.partial')
    partial.write_bytes(pickle.dumps(items))
    os.replace(partial, self.path(first))

  def read(self, first: int, end: int) -> Iterator[Any]:
    """Items [first, end) of one split, which begins a file."""
    for start in range(first, end, self.size):
      yield from pickle.loads(self.path(start).read_bytes())

  def fill(self, make: Callable[[int, int], list[Any]], spans: Spans, workers: int, name: str) -> None:
    """Makes what is missing, in `workers` processes (0: one per core), showing progress.

    Args:
      make: gives items [first, end); it is sent to other processes.
      name: of the items, beside the bar.
    """
    from rich import progress
    parts = [(first, min(first + self.size, end)) for start, end in spans.values()
             for first in range(start, end, self.size)]
    missing = [part for part in parts if not self.path(part[0]).exists()]
    total, left = (sum(end - first for first, end in some) for some in (parts, missing))
    workers = min(workers or _cores(), max(len(missing), 1))
    with progress.Progress() as bars, concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context('spawn')) as pool:
      bar = bars.add_task(name, total=total, completed=total - left)
      futures = {pool.submit(_make, self, make, *part): part for part in missing}
      try:
        for future in concurrent.futures.as_completed(futures):
          future.result()
          first, end = futures[future]
          bars.advance(bar, end - first)
      except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _make(chunks: Chunks, make: Callable[[int, int], list[Any]], first: int, end: int) -> None:
  chunks.write(first, make(first, end))


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
