"""Devices that are not there: topologies of TPUs, simulated CPU devices."""
import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import re
from collections.abc import Sequence

import jax

from rtjax.runtime.suggest import did_you_mean


@dataclasses.dataclass(frozen=True)
class Chip:
  """Published rates of a chip.

  Attributes:
    hbm: bytes of main memory that a program may use, as libtpu 0.0.42 reports them.
    flops: bfloat16 FLOP/s; the matrix units of TPUs multiply float32 in this precision by default, too.
    hbm_rate: bytes/s of main memory.
    ici_rate: bytes/s that a chip sends over all its links, half the published sum of both directions.
  """
  hbm: float
  flops: float
  hbm_rate: float
  ici_rate: float


# docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, read in 2026; v4's links: Jouppi et al. 2023, arXiv 2304.01433.
_GIB = 2 ** 30
CHIPS = {
    'v4': Chip(30.75 * _GIB, 275e12, 1200e9, 300e9),
    'v5e': Chip(15.75 * _GIB, 197e12, 819e9, 200e9),
    'v5p': Chip(95.74 * _GIB, 459e12, 2765e9, 600e9),
    'v6e': Chip(31.25 * _GIB, 918e12, 1638e9, 400e9),
}


def devices(target: str) -> Sequence[jax.Device]:
  """Return the devices of a target, see `analyse`."""
  kind, _, layout = target.partition(':')
  if kind != 'cpu' and kind not in CHIPS:
    known = ['cpu', *CHIPS]
    raise ValueError(f'--compile-only {target}: unknown kind {kind!r}, expected one of {", ".join(known)}, with a '
                     f'topology such as v5e:4x4, or cpu:8.{did_you_mean(kind, known)}')
  jax.config.update('jax_platforms', 'cpu')
  return _simulated(target, layout) if kind == 'cpu' else _topology(target, kind, layout)


def _simulated(target: str, layout: str) -> list[jax.Device]:
  if not layout.isdigit() or int(layout) < 1:
    raise ValueError(f'--compile-only {target}: expected the number of simulated devices, such as cpu:8.')
  with contextlib.suppress(RuntimeError):  # too late for a process that has used its devices
    jax.config.update('jax_num_cpu_devices', int(layout))
  if jax.device_count() < int(layout):
    raise ValueError(f'--compile-only {target}: this process has started with {jax.device_count()} CPU device(s).')
  return jax.devices()[:int(layout)]


def _topology(target: str, kind: str, layout: str) -> Sequence[jax.Device]:
  """Return the devices of a TPU topology, without any TPU."""
  from jax.experimental import topologies
  found = importlib.util.find_spec('libtpu')
  if not found or not found.origin:
    raise ValueError(f"--compile-only {target} needs the compiler of TPUs, for x86-64 Linux: pip install "
                     "'rtjax[tpu-compile]'.")
  if not re.fullmatch(r'\d+(x\d+)*', layout):
    raise ValueError(f'--compile-only {target}: expected a topology behind the kind, such as {kind}:2x2'
                     f'{"" if kind in ("v5e", "v6e") else "x1"}.')
  # Without these, libtpu asks the metadata server of Google Cloud for the machine that it is on.
  # It also keeps others from loading it, as if it would use a TPU.
  os.environ |= {'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_ACCELERATOR_TYPE': _slice(kind),
                 'TPU_LIBRARY_PATH': str(pathlib.Path(found.origin).with_name('libtpu.so')),
                 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
  # Two cores of a v4 chip count as one device, as in training.
  options = {'chip_config_name': 'megacore', 'chips_per_host_bounds': (2, 2, 1)} if kind == 'v4' else {}
  if set(layout) <= set('1x'):
    options['chips_per_host_bounds'] = 1, 1, 1
  try:
    return topologies.get_topology_desc(target, 'tpu', **options).devices
  except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
    raise ValueError(f'--compile-only {target}: libtpu knows no such topology. Sizes grow from 1x1 in powers of two '
                     f'(v4 and v5p: 1x1x1). It says: {str(error).splitlines()[0][:200]}') from None


def _slice(kind: str) -> str:
  """Return an accelerator type of the kind; its size is not used."""
  return {'v5e': 'v5litepod-8', 'v6e': 'v6e-8'}.get(kind, f'{kind}-8')
