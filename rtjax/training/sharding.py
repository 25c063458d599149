"""Sharding: the mesh, and one table from parameter path to PartitionSpec.

The mesh has three axes. `data` and `fsdp` both split the batch; `fsdp` also splits parameters and optimizer state, each
array along its largest divisible dimension, or along two; `tensor` splits the dimensions that the table names. The axis
of stacked layers is never split: a loop takes one of them at a time, which each device has its share of. Under
`jax.jit` the result is that of one device: BatchNorm takes the statistics of the global batch.

A mesh whose `fsdp` is no power of two, or a large one, has a fourth axis, `fsdp_rest`: few dimensions divide by 24 or
by 256, most by 8 or by 128, and the rest splits another dimension or stays unused.
"""
import contextlib
import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from rtjax.models import parameters
from rtjax.models.layers.layer_stack import is_stacked, layer_name
from rtjax.training.state import Tree

_B = TypeVar('_B')

AXES = ('data', 'fsdp', 'tensor')
_FSDP = ('fsdp', 'fsdp_rest')
_LARGEST_FSDP = 128  # ViT-G's width of 1664 divides by no higher power of two

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
# Bytes that a device may hold beyond its part before `describe_whole` says so.
_UNSAID = 2 ** 28


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
  mesh = jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=all_devices)
  sizes, names = mesh_axes(shape)
  return mesh if names == AXES else Mesh(mesh.devices.reshape(sizes), names, axis_types=(AxisType.Auto,) * 4)


def mesh_axes(shape: tuple[int, int, int]) -> tuple[tuple[int, ...], tuple[str, ...]]:
  """Return sizes and names of the axes of a mesh over (data, fsdp, tensor)."""
  data, fsdp, tensor = shape
  power = min(fsdp & -fsdp, _LARGEST_FSDP)
  if power in (1, fsdp):
    return shape, AXES
  return (data, power, fsdp // power, tensor), ('data', *_FSDP, 'tensor')


def layout(mesh: Mesh | AbstractMesh) -> dict[str, int]:
  """Return the devices along `data`, `fsdp` and `tensor`."""
  fsdp = math.prod(mesh.shape.get(axis, 1) for axis in _FSDP)
  return {'data': mesh.shape['data'], 'fsdp': fsdp, 'tensor': mesh.shape['tensor']}


def batch_spec(mesh: Mesh) -> PartitionSpec:
  """Return the PartitionSpec of arrays that begin with the batch."""
  return PartitionSpec(tuple(axis for axis in mesh.axis_names if axis != 'tensor'))


def batch_blocks(mesh: Mesh) -> int:
  """Return the number of blocks that a batch is split into."""
  return layout(mesh)['data'] * layout(mesh)['fsdp']


def batch_share(mesh: Mesh) -> tuple[int, int]:
  """Return index and number of this process's share of the batch.

  Processes whose devices hold the same blocks of the batch, those of one `tensor` group, have the same share.

  Raises:
    ValueError: shares of two processes overlap in part, or differ in size.
  """
  return share_of(np.vectorize(lambda device: device.process_index)(mesh.devices), jax.process_index())


def share_of(processes: np.ndarray, index: int) -> tuple[int, int]:
  """Return the `batch_share` of process `index`.

  Args:
    processes: int [data, fsdp..., tensor], the process of each device.
  """
  blocks = processes.reshape(-1, processes.shape[-1])
  held = {int(process): tuple(np.flatnonzero((blocks == process).any(1)).tolist()) for process in np.unique(blocks)}
  shares = sorted(set(held.values()))
  if sum(map(len, shares)) != len(blocks) or len(set(map(len, shares))) > 1:
    raise ValueError(f'with {processes.shape[-1]} device(s) along tensor, the processes hold these blocks of the '
                     f'batch: {list(held.values())}. They have to be equal or disjoint, and of one size: give every '
                     'process as many devices, and let --mesh.tensor divide that number or be a multiple of it.')
  return shares.index(held[index]), len(shares)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
  """Return the PartitionSpec of an array; uneven dimensions are not split."""
  if is_stacked(path) and len(shape) > 1:
    return PartitionSpec(None, *spec(layer_name(path, 0), shape[1:], mesh))
  axes: list[tuple[str, ...]] = [()] * len(shape)
  # Adafactor keeps a row and a column in place of a matrix, under the path of the matrix.
  for dimension, axis in enumerate(rule(path) if len(rule(path)) == len(shape) else ()):
    if axis and mesh.shape[axis] > 1 and shape[dimension] % mesh.shape[axis] == 0:
      axes[dimension] = (axis,)
  if math.prod(shape) >= SMALLEST_SHARDED:
    axes = max(_with_fsdp(axes, shape, mesh), key=lambda tried: _preference(tried, shape, mesh))
  return PartitionSpec(*[names[0] if len(names) == 1 else names or None for names in axes])


def _with_fsdp(axes: list[tuple[str, ...]], shape: tuple[int, ...],
               mesh: Mesh | AbstractMesh) -> Iterator[list[tuple[str, ...]]]:
  """Yield the ways to split an array by fsdp."""
  fsdp = [axis for axis in _FSDP if mesh.shape.get(axis, 1) > 1]
  for places in itertools.product([None, *range(len(shape))], repeat=len(fsdp)):
    tried = [(*names, *(axis for axis, place in zip(fsdp, places, strict=True) if place == dimension))
             for dimension, names in enumerate(axes)]
    if all(size % _parts(names, mesh) == 0 for size, names in zip(shape, tried, strict=True)):
      yield tried


def _preference(axes: list[tuple[str, ...]], shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> tuple[int, ...]:
  """Return the rank of a split.

  The best has many parts, along few, free and large dimensions.
  """
  split = [dimension for dimension, names in enumerate(axes) if set(names) & set(_FSDP)]
  shared = sum(len(set(axes[dimension]) - set(_FSDP)) for dimension in split)
  return (math.prod(_parts(names, mesh) for names in axes), -shared, -len(split),
          sum(shape[dimension] for dimension in split))


def _parts(names: Any, mesh: Mesh | AbstractMesh) -> int:
  """Return the parts of a dimension that a PartitionSpec's entry makes."""
  names = (names,) if isinstance(names, str) else names or ()
  return math.prod(mesh.shape[name] for name in names)


def bytes_per_device(tree: Tree, mesh: Mesh | AbstractMesh) -> dict[str, float]:
  """Return the bytes of each array that a device holds."""
  return {name: leaf.size * leaf.dtype.itemsize / math.prod(_parts(n, mesh) for n in spec(name, leaf.shape, mesh))
          for name, leaf in parameters.named_leaves(tree).items()}


def describe_whole(tree: Tree, mesh: Mesh | AbstractMesh) -> str:
  """Describe large arrays that fsdp leaves whole; empty without any."""
  def held(shape: tuple[int, int, int]) -> dict[str, float]:
    return bytes_per_device(tree, AbstractMesh(*mesh_axes(shape)))
  data, fsdp, tensor = layout(mesh).values()
  now, unsplit = held((data, fsdp, tensor)), held((data * fsdp, 1, tensor))
  excess = {name: now[name] - unsplit[name] / fsdp for name in now}
  if sum(excess.values()) <= _UNSAID:
    return ''
  devices, name = data * fsdp, max(excess, key=excess.__getitem__)
  others = {n: f'{sum(held((devices // n, n, tensor)).values()) / 1e9:.2g}'
            for n in range(1, devices + 1) if devices % n == 0}
  best = min(others, key=lambda n: (float(others[n]), n))  # smaller groups send less
  instead = f'--mesh.data {devices // best} --mesh.fsdp {best} holds {others[best]} GB. ' if best != fsdp else ''
  return (f'A device holds {others[fsdp]} GB of parameters and optimizer state, where a part in {fsdp} would be '
          f'{sum(unsplit.values()) / fsdp / 1e9:.2g}: some sizes do not divide by {fsdp}, as those of {name}. '
          f'{instead}A power of two, such as --mesh.fsdp {2 ** (fsdp.bit_length() - 1)} on as many devices, splits '
          'all.')


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
    return from_host(value, NamedSharding(all_devices, where)) if any(where) else jax.device_put(value)
  return put


def started_on(mesh: Mesh) -> contextlib.AbstractContextManager[None]:
  """Return a context that makes new arrays on the host.

  For a mesh of one device, which then receives them in their final types, and needs no memory for others.
  """
  if mesh.size > 1:
    return contextlib.nullcontext()
  with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS leaves no CPU
    return jax.default_device(jax.local_devices(backend='cpu')[0])
  return contextlib.nullcontext()


def place_batch(batch: _B, mesh: Mesh) -> _B:
  """Return the global batch, split over `data` and `fsdp`.

  Args:
    batch: the `batch_share` of this process, on the host; any pytree of arrays that begin with the batch.
  """
  sharding = NamedSharding(mesh, batch_spec(mesh))
  return jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), batch)


def on_mesh(function: Callable[..., _B], mesh: Mesh) -> Callable[..., _B]:
  """Return a function that is traced with the mesh set.

  Layers ask it how the batch is split.
  """
  @functools.wraps(function)
  def call(*arguments: Any) -> _B:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return function(*arguments)
  return call


def check_batch(batch_size: int, grad_accum_steps: int, mesh: Mesh, name: str = 'batch_size') -> None:
  """Refuse a batch that does not divide into parts over the mesh.

  Raises:
    ValueError: names the sizes.
  """
  devices = batch_blocks(mesh)
  if batch_size < 1 or grad_accum_steps < 1 or batch_size % (grad_accum_steps * devices):
    raise ValueError(f'{name} {batch_size} does not divide into {grad_accum_steps} part(s) (grad_accum_steps) over '
                     f'{devices} device(s) (data times fsdp). Make it a multiple of both.')


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
