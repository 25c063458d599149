"""Freed memory stays in the process."""
import resource
import subprocess
import sys

import pytest

_TAKE_TWICE = """
import resource, threading
import numpy as np
from rtjax import memory
if {keep}:
  memory.keep()
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


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc under Linux alone gives memory back and can be told not to')
@pytest.mark.parametrize('keep', [False, True])
def test_memory_is_used_again(keep):
  """The second and third time a thread takes the same amount, no page of it is new."""
  program = _TAKE_TWICE.format(keep=keep)
  out = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  first, *later = map(int, out.stdout.split())
  pages = 2 ** 26 // resource.getpagesize()
  huge = first < pages // 8  # the kernel may hand out huge pages, whose faults are few
  if keep:
    assert max(later) < 100
  elif not huge:
    assert min(later) > pages // 8
