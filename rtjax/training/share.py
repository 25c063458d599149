"""This process's share of every batch, however many processes read it.

A run deals its data in as many parts as its batch has shares at its start, and its checkpoints keep that number: part k
of K gives rows k * B / K to (k + 1) * B / K - 1 of every batch of B. A process reads the parts that its rows come from.
Other processes therefore go on with the very same batches: fewer of them read several parts each, and of more of them
several read one part, each decoding its own rows.
"""
import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

OpenPart = Callable[..., Any]
"""From process_index, process_count, batch_size and rows, as `rtjax.data.TrainingStream`, to a stream."""


class ShareStream:
  """Endless batches of this process's rows.

  Args:
    open_part: opens one part of the data.
    batch_size: B, rows of all processes.
    share: (index, count) of this process's share of the batch.

  Raises:
    ValueError, FileNotFoundError: as `open_part`.
  """

  def __init__(self, open_part: OpenPart, batch_size: int, share: tuple[int, int]):
    self._open_part, self._batch_size = open_part, batch_size
    index, count = share
    self._rows = range(index * batch_size // count, (index + 1) * batch_size // count)
    self._open(count)

  def __next__(self) -> dict[str, np.ndarray]:
    batches = [next(stream) for stream in self._streams.values()]
    if len(batches) == 1:
      return batches[0]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

  def states(self) -> dict[int, Any]:
    """Return the position in each part that this process reads."""
    return {part: stream.state() for part, stream in self._streams.items()}

  def restore(self, states: list[Any]) -> None:
    """Go to a position.

    Args:
      states: of all parts of the run.

    Raises:
      ValueError: the data is another, or the batch does not divide into so many parts.
    """
    if len(states) != self._parts:
      self.close()
      self._open(len(states))
    for part, stream in self._streams.items():
      stream.restore(states[part])

  def close(self) -> None:
    for stream in self._streams.values():
      stream.close()

  def _open(self, parts: int) -> None:
    if self._batch_size % parts:
      raise ValueError(f'the data of this run is dealt in {parts} parts, which do not divide its batch_size '
                       f'{self._batch_size}.')
    self._parts, size = parts, self._batch_size // parts
    self._streams: dict[int, Any] = {}
    with contextlib.ExitStack() as opened:
      for part in range(self._rows.start // size, (self._rows.stop - 1) // size + 1):
        rows = range(max(0, self._rows.start - part * size), min(size, self._rows.stop - part * size))
        stream = self._open_part(process_index=part, process_count=parts, batch_size=size, rows=rows)
        opened.callback(stream.close)
        self._streams[part] = stream
      opened.pop_all()
