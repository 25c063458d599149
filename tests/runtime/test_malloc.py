"""Freed memory stays in the process and is reused."""
import resource
import subprocess
import sys

import pytest

_TAKE_TWICE = """
import ctypes, resource, threading
import numpy as np
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages, whose faults are few, come as it happens
from rtjax.runtime import malloc
if {keep}:
  malloc.keep_freed_memory()
def take():
  array = np.empty(2 ** 26, np.uint8)  # 64 MiB
  array[::4096] = 1
faults = []
for _ in range(3):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  thread = threading.Thread(target=take)
  thread.start()
  thread.join()
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='only glibc returns memory to the kernel and has a switch for it')
@pytest.mark.parametrize('keep', [False, True])
def test_memory_is_reused(keep):
  """The second and third allocation of the same size take no new pages."""
  program = _TAKE_TWICE.format(keep=keep)
  out = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  first, *later = map(int, out.stdout.split())
  pages = 2 ** 26 // resource.getpagesize()
  assert first > pages // 8
  if keep:
    assert max(later) < 100
  else:
    assert min(later) > pages // 8
