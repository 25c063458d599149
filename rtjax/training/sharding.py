"""Sharding: the mesh, and one table from parameter path to PartitionSpec.

The mesh has three axes. `data` and `fsdp` both split the batch; `fsdp` also splits parameters and optimizer state, each
array along its largest divisible dimension; `tensor` splits the dimensions that the table names. The axis of stacked
layers is never split: a loop takes one of them at a time, which each device has its share of. Under `jax.jit` the
result is that of one device: BatchNorm takes the statistics of the global batch.
"""
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rtjax.models import parameters
from rtjax.models.layers.layer_stack import is_stacked, layer_name
from rtjax.training.state import Tree

_B = TypeVar('_B')

AXES = ('data', 'fsdp', 'tensor')
BATCH = PartitionSpec(('data', 'fsdp'))

# The first pattern found in the path names the dimensions that `tensor` splits. Optimizer state and moving
# averages end in the same paths as the parameters. Attention splits over heads, other layers over their outputs.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r'attention/(query|key|value)/kernel$', PartitionSpec(None, 'tensor', None)),  # [D, heads, head_size]
    (r'attention/(query|key|value)/bias$', PartitionSpec('tensor', None)),
    (r'attention/out/kernel$', PartitionSpec('tensor', None, None)),  # [heads, head_size, D]
    (r'mlp/(hidden|gate)/kernel$', PartitionSpec(None, 'tensor')),  # [D, inside]
    (r'mlp/hidden/bias$', PartitionSpec('tensor')),
    (r'mlp/out/kernel$', PartitionSpec('tensor', None)),
    (r'relative_bias$', PartitionSpec(None, 'tensor')),  # [buckets, heads]
    (r'token_embedding/embedding$', PartitionSpec('tensor', None)),  # [vocab, D]
    (r'token_head/kernel$', PartitionSpec(None, 'tensor')),  # [D, vocab]
    (r'transformer/output/kernel$', PartitionSpec(None, 'tensor')),  # [D, V]
    (r'image_encoder/.*(add|mult)/kernel$', PartitionSpec(None, 'tensor')),  # FiLM: [E, C]
)
# Splitting smaller arrays costs more in messages than it saves in memory.
SMALLEST_SHARDED = 2 ** 12


def make_mesh(shape: tuple[int, int, int], all_devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Return a mesh over all devices of all processes.

  Args:
    shape: devices along (data, fsdp, tensor); one of them may be -1, for all that are left.
    all_devices: of another machine, to compile for it.

  Raises:
    ValueError: the shape does not multiply to the number of devices.
  """
  devices = len(all_devices or jax.devices())
  known = int(np.prod([n for n in shape if n != -1]))
  if shape.count(-1) == 1 and known > 0 and devices % known == 0:
    shape = (shape[0] if shape[0] != -1 else devices // known, shape[1] if shape[1] != -1 else devices // known,
             shape[2] if shape[2] != -1 else devices // known)
  if min(shape) < 1 or int(np.prod(shape)) != devices:
    raise ValueError(f'mesh is {shape} (data, fsdp, tensor), which does not multiply to the {devices} device(s) here. '
                     'Set one axis to -1 for all that are left, such as --mesh.data -1.')
  # Sharding is inferred from inputs and outputs; with make_mesh's default, Explicit, it would be part of every type.
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=all_devices)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """Return the PartitionSpec of an array; uneven dimensions are not split."""
  if is_stacked(path) and len(shape) > 1:
    return PartitionSpec(None, *spec(layer_name(path, 0), shape[1:], mesh))
  axes: list[str | None] = [None] * len(shape)
  # Adafactor keeps a row and a column in place of a matrix, under the path of the matrix.
  for dimension, axis in enumerate(rule(path) if len(rule(path)) == len(shape) else ()):
    if axis and mesh.shape[axis] > 1 and shape[dimension] % mesh.shape[axis] == 0:
      axes[dimension] = axis
  if mesh.shape['fsdp'] > 1 and np.prod(shape) >= SMALLEST_SHARDED:
    free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % mesh.shape['fsdp'] == 0]
    if free:
      axes[max(free, key=lambda i: shape[i])] = 'fsdp'
  return PartitionSpec(*axes)


def rule(path: str) -> PartitionSpec:
  """Return the table's entry for a path, or an empty one."""
  return next((spec for pattern, spec in RULES if re.search(pattern, path)), PartitionSpec())


def by_name(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
  """Return the table as a function of name and shape."""
  return lambda name, shape: NamedSharding(mesh, spec(name, shape, mesh))


def shardings(tree: Tree, mesh: Mesh) -> Tree:
  """Return a NamedSharding for each leaf of a tree."""
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: NamedSharding(mesh, spec(parameters.path_name(path), leaf.shape, mesh)), tree)


def place(tree: Tree, mesh: Mesh) -> Tree:
  """Put arrays in their places on the mesh."""
  def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) == mesh.size > 1:
      return jax.device_put(leaf, sharding, donate=True)
    return from_host(np.asarray(leaf), sharding)
  return jax.tree.map(put, tree, shardings(tree, mesh))


def from_host(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
  """Put an array that every process holds on devices."""
  return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def spread(mesh: Mesh) -> Callable[[np.ndarray], jax.Array]:
  """Return a function that splits arrays over all devices.

  Small and uneven arrays go to the default device. `place` then moves the parts, so that no device and no host ever
  holds all parameters.
  """
  all_devices = Mesh(mesh.devices.reshape(1, -1, 1), AXES, axis_types=(AxisType.Auto,) * 3)

  def put(value: np.ndarray) -> jax.Array:
    where = spec('', value.shape, all_devices)
    return from_host(value, NamedSharding(all_devices, where)) if any(where) else jnp.asarray(value)
  return put


def place_batch(batch: _B, mesh: Mesh) -> _B:
  """Return the global batch, split over `data` and `fsdp`.

  Args:
    batch: the share of this process, on the host; any pytree of arrays that begin with the batch.
  """
  sharding = NamedSharding(mesh, BATCH)
  return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)


def check_batch(batch_size: int, grad_accum_steps: int, mesh: Mesh, name: str = 'batch_size') -> None:
  """Refuse a batch that does not divide into parts over the mesh.

  Raises:
    ValueError: names the sizes.
  """
  devices = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size < 1 or grad_accum_steps < 1 or batch_size % (grad_accum_steps * devices):
    raise ValueError(f'{name} {batch_size} does not divide into {grad_accum_steps} part(s) (grad_accum_steps) over '
                     f'{devices} device(s) (data times fsdp). Make it a multiple of both.')


def connect_processes(distributed: str) -> None:
  """Connect this process with the others of a run.

  Call it before any use of a device.

  Args:
    distributed: '' for one process; 'auto' where JAX detects the processes (TPU pods, Slurm, Open MPI); or
      HOST:PORT,COUNT,INDEX: address of process 0, number of processes, and index of this one.

  Raises:
    ValueError: `distributed` is none of these.
  """
  if not distributed or jax.distributed.is_initialized():
    return
  if distributed == 'auto':
    jax.distributed.initialize()
    return
  match = re.fullmatch(r'([^,]+:\d+),(\d+),(\d+)', distributed)
  if not match:
    raise ValueError(f"mesh.distributed is {distributed!r}, expected 'auto' or HOST:PORT,COUNT,INDEX such as "
                     '10.0.0.1:1234,4,0.')
  jax.distributed.initialize(match[1], int(match[2]), int(match[3]))


def gather(value: Any) -> list[Any]:
  """Return a JSON-able value of each process, in all processes."""
  if jax.process_count() == 1:
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array(len(text)))
  padded = np.pad(text, (0, lengths.max() - len(text)))
  texts = multihost_utils.process_allgather(padded)
  return [json.loads(row[:length].tobytes()) for row, length in zip(texts, lengths, strict=True)]


def in_all_processes(condition: bool) -> bool:
  """Return whether the condition holds in all processes."""
  return bool(np.all(multihost_utils.process_allgather(np.array(condition))))


def wait_for_all(point: str) -> None:
  """Wait until every process has reached the point of this name."""
  multihost_utils.sync_global_devices(f'rtjax: {point}')
