"""Settings of the C library's allocator that are faster than its defaults."""
import contextlib
import ctypes
import mmap
import os
import sys

# mallopt's parameters, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
  """Keep freed memory in the process, in huge pages (Linux only).

  Call it before threads start.

  By default the C library returns large blocks to the kernel, which hands them out again page by page, each zeroed. XLA
  on a CPU frees all its memory after each step, and RT-1's training step took 750,000 page faults. Pages of 4 kB then
  cost as much again in address translation (bench/RESULTS.md). In return the process never shrinks.
  """
  if sys.platform == 'linux':
    with contextlib.suppress(AttributeError):  # a C library without mallopt, such as musl
      libc = ctypes.CDLL(None)
      libc.mallopt(_ARENA_MAX, 1)  # one pool, so that threads reuse each other's memory
      libc.mallopt(_MMAP_MAX, 0)
      libc.mallopt(_TRIM_THRESHOLD, -1)
      _request_huge_pages(libc)


def _request_huge_pages(libc: ctypes.CDLL) -> None:
  """Grow the pool by half the memory, marked for huge pages."""
  libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
  libc.free.argtypes = [ctypes.c_void_p]
  libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
  size = os.sysconf('SC_PHYS_PAGES') * mmap.PAGESIZE // 2
  if block := libc.malloc(size):  # None where the process may not allocate as much
    start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.madvise(start, block + size - start, mmap.MADV_HUGEPAGE)  # a kernel without them refuses, which is harmless
    libc.free(block)  # returns it to the pool, not to the kernel
