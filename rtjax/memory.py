"""The C library's memory, where its defaults leave speed on the table."""
import contextlib
import ctypes
import sys

# mallopt's parameters, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep() -> None:
  """Under Linux, keeps freed memory in the process for whoever asks next. Call it first: threads must not have begun.

  By default the C library returns large blocks to the kernel, which hands them out again page by page, each zeroed. XLA
  on a CPU frees all it used after each step: 750,000 page faults in RT-1's training step (bench/RESULTS.md). The price
  is that the process stays as large as it ever was.
  """
  if sys.platform == 'linux':
    with contextlib.suppress(AttributeError):  # a C library without mallopt, such as musl
      mallopt = ctypes.CDLL(None).mallopt
      mallopt(_ARENA_MAX, 1)  # one pool, so that any thread finds what another gave back
      mallopt(_MMAP_MAX, 0)
      mallopt(_TRIM_THRESHOLD, -1)
