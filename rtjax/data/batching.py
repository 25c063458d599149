"""Batches that background threads fill."""
import abc
import concurrent.futures
from typing import Any

import numpy as np

from rtjax.data.buffers import BufferPool

Arrays = dict[str, np.ndarray]
"""A batch on the host: arrays by name."""

# Unused image buffers to keep: for the batches in progress, the one in use, and one that a device still reads.
_SPARE = 4


class PendingBatch:
  """A batch that threads are filling."""

  def __init__(self, batch: Arrays, parts: list[concurrent.futures.Future[None]]):
    self._batch, self._parts = batch, parts

  def result(self) -> Arrays:
    """Wait for the threads and return the batch; raises their errors."""
    for part in self._parts:
      part.result()
    return self._batch


class Batcher(abc.ABC):
  """Makes batches of windows, decoding images in threads.

  Args:
    batch_size: windows of a batch.
    image_shape: shape of the images of one window.
    threads: threads that decode.
  """

  def __init__(self, batch_size: int, image_shape: tuple[int, ...], threads: int):
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}, it must be at least 1.')
    self._size = batch_size
    self._images = BufferPool((batch_size, *image_shape), np.uint8, _SPARE)
    self._pool = concurrent.futures.ThreadPoolExecutor(threads, 'rtjax-decode')

  @abc.abstractmethod
  def start(self, windows: list[tuple[int, Any, int]]) -> PendingBatch:
    """Start to make a batch.

    Args:
      windows: (dataset number, item, end of the window); rows without a window stay zero.
    """

  def close(self) -> None:
    """Stop the threads."""
    self._pool.shutdown(cancel_futures=True)
