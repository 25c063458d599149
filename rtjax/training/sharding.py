"""Where arrays live: the mesh, and one table from parameter path to PartitionSpec.

The mesh has three axes. `data` and `fsdp` both split the batch; `fsdp` also splits parameters and optimizer state, each
array along its largest divisible dimension; `tensor` splits what the table names. Under `jax.jit` the mathematics
is that of one device: BatchNorm sees the global batch without a word about it.
"""
import json
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rtjax.training.state import Tree, path_name

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
    (r'token_embedding/embedding$', PartitionSpec('tensor', None)),  # [V, D]
    (r'token_head/kernel$', PartitionSpec(None, 'tensor')),  # [D, V]
    (r'transformer/output/kernel$', PartitionSpec(None, 'tensor')),  # [D, V]
    (r'(film|tokenizer)/.*(add|mult)/kernel$', PartitionSpec(None, 'tensor')),  # [512, C]
)
# Splitting smaller arrays costs more in messages than it saves in memory.
SMALLEST_SHARDED = 2 ** 12


def make_mesh(shape: tuple[int, int, int]) -> Mesh:
  """A mesh over all devices of all processes.

  Args:
    shape: devices along (data, fsdp, tensor); one of them may be -1, for all that are left.

  Raises:
    ValueError: if the shape does not use up the devices.
  """
  devices = jax.device_count()
  known = int(np.prod([n for n in shape if n != -1]))
  if shape.count(-1) == 1 and known > 0 and devices % known == 0:
    shape = (shape[0] if shape[0] != -1 else devices // known, shape[1] if shape[1] != -1 else devices // known,
             shape[2] if shape[2] != -1 else devices // known)
  if min(shape) < 1 or int(np.prod(shape)) != devices:
    raise ValueError(f'mesh is {shape} (data, fsdp, tensor), which does not multiply to the {devices} device(s) here. '
                     'Use -1 once for all that are left, such as --mesh -1 1 1.')
  # Sharding is inferred from inputs and outputs: make_mesh's default, Explicit, would make it part of every type.
  return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
  """How one array of a TrainState is split; what does not divide evenly is not."""
  axes: list[str | None] = [None] * len(shape)
  # Adafactor keeps a row and a column in place of a matrix, under the matrix's path.
  for dimension, axis in enumerate(rule(path) if len(rule(path)) == len(shape) else ()):
    if axis and mesh.shape[axis] > 1 and shape[dimension] % mesh.shape[axis] == 0:
      axes[dimension] = axis
  if mesh.shape['fsdp'] > 1 and np.prod(shape) >= SMALLEST_SHARDED:
    free = [i for i, axis in enumerate(axes) if axis is None and shape[i] % mesh.shape['fsdp'] == 0]
    if free:
      axes[max(free, key=lambda i: shape[i])] = 'fsdp'
  return PartitionSpec(*axes)


def rule(path: str) -> PartitionSpec:
  """The table's entry for a path; empty if there is none."""
  return next((spec for pattern, spec in RULES if re.search(pattern, path)), PartitionSpec())


def shardings(tree: Tree, mesh: Mesh) -> Tree:
  """A NamedSharding for each leaf of a tree of arrays or of their abstract shapes."""
  return jax.tree_util.tree_map_with_path(
      lambda path, leaf: NamedSharding(mesh, spec(path_name(path), leaf.shape, mesh)), tree)


def place(tree: Tree, mesh: Mesh) -> Tree:
  """Arrays that every process holds whole, onto the mesh: each process hands over its own pieces."""
  def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
  return jax.tree.map(put, tree, shardings(tree, mesh))


def batch_placer(mesh: Mesh) -> Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]:
  """A function from this process's share of a batch to the global batch, split over `data` and `fsdp`."""
  sharding = NamedSharding(mesh, BATCH)
  return lambda batch: {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def check_batch(batch_size: int, micro_batches: int, mesh: Mesh, name: str = 'batch_size') -> None:
  """Refuses a batch that does not divide into micro-batches over the mesh.

  Raises:
    ValueError: naming the sizes.
  """
  parts = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size < 1 or micro_batches < 1 or batch_size % (micro_batches * parts):
    raise ValueError(f'{name} {batch_size} does not divide into {micro_batches} micro-batch(es) over {parts} '
                     'device(s) (data times fsdp). Make it a multiple of both.')


def connect_processes(how: str) -> None:
  """Joins this process to the others of a run on several hosts; call it before anything else touches a device.

  Args:
    how: '' for one process; 'auto' where JAX can find out by itself (TPU pods, Slurm, Open MPI); or
      HOST:PORT,COUNT,INDEX: address of process 0, how many processes there are, and which one this is.

  Raises:
    ValueError: if `how` is none of these.
  """
  if not how or jax.distributed.is_initialized():
    return
  if how == 'auto':
    jax.distributed.initialize()
    return
  match = re.fullmatch(r'([^,]+:\d+),(\d+),(\d+)', how)
  if not match:
    raise ValueError(f"distributed is {how!r}, expected 'auto' or HOST:PORT,COUNT,INDEX such as 10.0.0.1:1234,4,0.")
  jax.distributed.initialize(match[1], int(match[2]), int(match[3]))


def gather(value: Any) -> list[Any]:
  """A JSON-able value of each process, in all processes."""
  if jax.process_count() == 1:
    return [value]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array(len(text)))
  padded = np.pad(text, (0, lengths.max() - len(text)))
  texts = multihost_utils.process_allgather(padded)
  return [json.loads(row[:length].tobytes()) for row, length in zip(texts, lengths, strict=True)]


def wait_for_all(what: str) -> None:
  """Returns when every process is here."""
  multihost_utils.sync_global_devices(f'rtjax: {what}')
