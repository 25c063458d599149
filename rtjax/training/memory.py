"""Estimate of a training step's memory, before it is compiled.

The step is traced, which takes seconds where compiling takes minutes, and its operations are followed in order: the
estimate is the most bytes that live at once. Compilers fuse operations: XLA's own figure for a CPU is lower, by a
factor of 1.06 to 1.4 for the presets bridge_sample, rt1_tabletop, rt2_tabletop and rt1, and of 1.9 for a chain of tanh.
"""
import math
import pathlib
import warnings
from typing import Any

import jax
from jax.extend import core
from jax.sharding import Mesh

from rtjax.training import sharding

# Factors by which a step may need less than its estimate. For a TPU, XLA's own figure of rt1 is a third of it.
_FUSED_ON_CPU, _FUSED = 2.0, 4.0
# Memory of a container, by version of cgroups; of the machine, MemTotal in KiB on the first line.
_CGROUP = [pathlib.Path('/sys/fs/cgroup') / name for name in ('memory.max', 'memory/memory.limit_in_bytes')]
_MEMINFO = pathlib.Path('/proc/meminfo')


def require_memory(jaxpr: core.Jaxpr, state: Any, batch_size: int, grad_accum_steps: int, mesh: Mesh) -> None:
  """Compare a training step's estimate with the memory of a device.

  Args:
    jaxpr: the traced step.
    state: shapes of the TrainState, which gradient accumulation does not reduce.

  Raises:
    ValueError: the step cannot fit. One that may not fit is a warning.
  """
  device, replicas = mesh.local_devices[0], sharding.batch_blocks(mesh)
  shards = replicas * mesh.shape['tensor']
  if device.platform == 'cpu':  # its devices share the memory of the machine
    shards = max(1, shards // len(mesh.local_devices))
  limit, needed = _limit(device), peak_bytes(jaxpr) / shards
  if not limit or needed <= limit:
    return
  fixed = 2 * sum(map(_bytes, jax.tree.leaves(state))) / shards  # the state before and after
  parts = _parts(needed - fixed, limit - fixed, batch_size // (grad_accum_steps * replicas))
  accumulate = f'--grad-accum-steps {grad_accum_steps * parts} (the same batch in more parts), or ' if parts else ''
  least = needed / (_FUSED_ON_CPU if device.platform == 'cpu' else _FUSED)
  text = (f'a training step of batch_size {batch_size} in {grad_accum_steps} part(s) needs {least / 1e9:.3g} '
          f'to {needed / 1e9:.3g} GB of memory, this {device.platform} has {limit / 1e9:.3g} GB. Set {accumulate}a '
          'smaller --batch-size; or train a smaller network, such as the preset my_robot.')
  if least > limit:
    raise ValueError(text)
  warnings.warn(f'the memory may not suffice: {text}', stacklevel=2)


def peak_bytes(jaxpr: core.Jaxpr) -> int:
  """Return the most bytes that live at once, inputs included."""
  last_use = {var: number for number, eqn in enumerate(jaxpr.eqns) for var in _variables(eqn.invars)}
  last_use |= dict.fromkeys(_variables(jaxpr.outvars), len(jaxpr.eqns))
  live = peak = _total([*jaxpr.invars, *jaxpr.constvars])
  for number, eqn in enumerate(jaxpr.eqns):
    inside = max((peak_bytes(program) - _total(program.invars) for program in _programs(eqn)), default=0)
    peak = max(peak, live + max(inside, _total(eqn.outvars)))
    ended = {var for var in _variables([*eqn.invars, *eqn.outvars]) if last_use.get(var, 0) <= number}
    live += _total(eqn.outvars) - _total(ended)
  return peak


def _programs(eqn: Any) -> list[core.Jaxpr]:
  """Return the programs that an operation calls."""
  leaves: list[Any] = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda leaf: hasattr(leaf, 'eqns'))
  return [getattr(leaf, 'jaxpr', leaf) for leaf in leaves if hasattr(leaf, 'eqns')]


def _variables(atoms: Any) -> set[Any]:
  return {atom for atom in atoms if isinstance(atom, core.Var)}


def _total(variables: Any) -> int:
  return sum(_bytes(var.aval) for var in variables)


def _bytes(array: Any) -> int:
  return math.prod(array.shape) * array.dtype.itemsize if hasattr(array, 'shape') else 0


def _limit(device: jax.Device) -> int | None:
  """Return the bytes of memory of a device; None if unknown."""
  if device.platform != 'cpu':
    return (device.memory_stats() or {}).get('bytes_limit')
  found = [text for path in _CGROUP if path.exists() and (text := path.read_text().strip()).isdigit()]
  in_machine = [1024 * int(_MEMINFO.read_text().split()[1])] if _MEMINFO.exists() else []
  return min([*map(int, found), *in_machine], default=None)


def _parts(needed: float, room: float, examples: int) -> int | None:
  """Return the least number of equal parts that fit, if any."""
  return next((n for n in range(2, examples + 1) if examples % n == 0 and needed / n <= room), None)
