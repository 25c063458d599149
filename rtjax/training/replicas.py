"""Proof that the copies of an array on several devices are equal.

Compiled programs take for granted that they are. Processes that fed different data, or a device that computes wrongly,
would go on with states that drift apart, without an error.
"""
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from rtjax.models import parameters
from rtjax.runtime.cli import UserError


class ReplicasDifferError(UserError):
  """Copies of one array differ."""


def require_equal(tree: Any, mesh: Mesh, subject: str) -> None:
  """Compare checksums of all copies of arrays.

  Args:
    tree: arrays on the mesh.
    subject: of the error.

  Raises:
    ReplicasDifferError: names the arrays and the processes.
  """
  leaves = {name: leaf for name, leaf in parameters.named_leaves(tree).items() if leaf is not None}
  specs = tuple(leaf.sharding.spec for leaf in leaves.values())
  sums = np.asarray(_program(mesh, specs)(tuple(leaves.values())))  # uint32 [arrays, device of each axis...]
  for (name, leaf), found in zip(leaves.items(), sums, strict=True):
    used = {axis for entry in leaf.sharding.spec for axis in ((entry,) if isinstance(entry, str) else entry or ())}
    copies = tuple(number for number, axis in enumerate(mesh.axis_names) if axis not in used)
    first = found[tuple(slice(0, 1) if number in copies else slice(None) for number in range(found.ndim))]
    if (found != first).any():
      where = sorted({device.process_index for device in mesh.devices[found != first]})
      raise ReplicasDifferError(
          f'{subject}: copies of {name} differ between devices, on those of process(es) {where} from the others. The '
          'run cannot be right from here on, and nothing was saved. Resume from the last checkpoint; if it happens '
          'again, look for a process with other data or another version, and for a faulty device.')


@functools.cache
def _program(mesh: Mesh, specs: tuple[PartitionSpec, ...]) -> Any:
  """Return the jitted checksums of arrays of these layouts."""
  everywhere = PartitionSpec(None, *mesh.axis_names)

  def local(leaves: tuple[jax.Array, ...]) -> jax.Array:
    return jnp.stack([_checksum(leaf) for leaf in leaves]).reshape(-1, *[1] * len(mesh.axis_names))
  sums = jax.shard_map(local, mesh=mesh, in_specs=(specs,), out_specs=everywhere, check_vma=False)
  return jax.jit(sums, out_shardings=jax.NamedSharding(mesh, PartitionSpec()))


def _checksum(array: jax.Array) -> jax.Array:
  """Return the sum of the bits of an array, as uint32."""
  if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
    array = jax.random.key_data(array)
  if array.dtype == bool:
    array = array.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(array, f'uint{8 * array.dtype.itemsize}')
  return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)
