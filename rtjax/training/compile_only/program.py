"""Work, messages and live buffers of a compiled program.

XLA's own cost analysis counts the body of a loop once and leaves messages between devices out; its memory analysis
gives sums without names. The text of the program has it all (hlo.py).
"""
import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable

import numpy as np

from rtjax.training.compile_only.hlo import Array, Computation, Instruction, Sources, leaves, parse

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')

# They move nothing: names for what is there already.
_FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'partition-id', 'replica-id',
         'opt-barrier')
_ALIASES = ('tuple', 'get-tuple-element', 'bitcast', 'opt-barrier', 'while')


@dataclasses.dataclass(frozen=True)
class Buffer:
  """Arrays of one kind that live when memory is at its peak.

  Attributes:
    count: number of them.
    array: one of them.
    source: line of the source that computes it, or the name of its operation.
  """
  count: int
  array: Array
  source: str

  @property
  def size(self) -> int:
    return self.count * self.array.size


@dataclasses.dataclass(frozen=True)
class Cost:
  """Work of a program on one device.

  Attributes:
    flops: of matrix products and convolutions.
    hbm_bytes: read from and written to main memory.
    messages: kind -> (number, bytes that a device sends).
    seconds: sum of each operation's least time, from `LeastSeconds`.
  """
  flops: float = 0
  hbm_bytes: float = 0
  messages: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)
  seconds: float = 0

  def __add__(self, other: 'Cost') -> 'Cost':
    kinds = self.messages.keys() | other.messages.keys()
    zero = 0, 0.0
    messages = {kind: (self.messages.get(kind, zero)[0] + other.messages.get(kind, zero)[0],
                       self.messages.get(kind, zero)[1] + other.messages.get(kind, zero)[1]) for kind in sorted(kinds)}
    return Cost(self.flops + other.flops, self.hbm_bytes + other.hbm_bytes, messages, self.seconds + other.seconds)

  def times(self, count: int) -> 'Cost':
    messages = {kind: (count * number, count * size) for kind, (number, size) in self.messages.items()}
    return Cost(count * self.flops, count * self.hbm_bytes, messages, count * self.seconds)


LeastSeconds = Callable[[float, float], float]
"""Least seconds of an operation, from its FLOPs and its bytes of main memory."""


class Program:
  """A compiled program.

  Args:
    text: `compiled.as_text()`.
  """

  def __init__(self, text: str):
    self._computations, self._entry = parse(text)
    self._sources = Sources(text)

  def cost(self, least_seconds: LeastSeconds) -> Cost:
    """Return the work of one run."""
    return self._cost(self._entry, least_seconds)

  def _cost(self, name: str, least_seconds: LeastSeconds) -> Cost:
    table = self._computations[name]
    return sum((self._instruction_cost(i, table, least_seconds) for i in table.values()), Cost())

  def _instruction_cost(self, i: Instruction, table: Computation, least_seconds: LeastSeconds) -> Cost:
    if i.opcode in _FREE or i.opcode.endswith('-done') or 'AllocateBuffer' in i.attributes:
      return Cost()
    if i.opcode == 'while':
      return self._cost(i.attribute(r'body=%([\w.\-]+)'), least_seconds).times(self._trips(i))
    if i.opcode == 'conditional':
      return max((self._cost(name, least_seconds) for name in i.called), key=lambda cost: cost.hbm_bytes)
    kind = i.opcode.removesuffix('-start')
    if kind == 'async' or i.opcode == 'call':
      return sum((self._cost(name, least_seconds) for name in i.called), Cost())
    flops, size = self._flops(i, table), self._bytes(i, table)
    messages = {kind: (1, _sent(i, table))} if kind in COLLECTIVES else self._messages(i)
    return Cost(flops, size, messages, least_seconds(flops, size))

  def _messages(self, i: Instruction) -> dict[str, tuple[int, float]]:
    """Return the collectives inside of a fusion."""
    inside = Cost()
    for name in i.called if i.opcode == 'fusion' else ():
      table = self._computations[name]
      for part in table.values():
        if part.opcode in COLLECTIVES:
          inside += Cost(messages={part.opcode: (1, _sent(part, table))})
    return inside.messages

  def _trips(self, i: Instruction) -> int:
    """Return how often a loop runs; loops of JAX count from 0."""
    known = i.attribute(r'known_trip_count":\{"n":"(\d+)"')
    condition = self._computations[i.attribute(r'condition=%([\w.\-]+)')]
    bounds = [int(part.attributes.split(')')[0]) for part in condition.values()
              if part.opcode == 'constant' and part.attributes.split(')')[0].isdigit()]
    return int(known) if known else max(bounds, default=1)

  def _flops(self, i: Instruction, table: Computation) -> float:
    if i.opcode == 'fusion':
      return sum(self._flops(part, inner) for name in i.called if (inner := self._computations[name])
                 for part in inner.values())
    if i.opcode == 'dot':
      contracted = [int(n) for n in i.attribute(r'lhs_contracting_dims=\{([\d,]*)\}').split(',') if n]
      left = table[i.operands[0]].arrays[0].dims
      return 2 * math.prod(i.arrays[0].dims) * math.prod(left[n] for n in contracted)
    return _convolution_flops(i, table) if i.opcode == 'convolution' else 0

  def _bytes(self, i: Instruction, table: Computation) -> float:
    """Return the bytes of main memory that an operation reads and writes."""
    if i.opcode in ('dynamic-slice', 'slice', 'gather'):
      return 2 * _hbm(i)
    if i.opcode in ('dynamic-update-slice', 'scatter'):
      return 2 * _hbm(table[i.operands[1]])
    if i.opcode == 'copy-start':  # (copy, original, context)
      return _hbm(table[i.operands[0]]) + (i.arrays[0].size if i.arrays[0].in_hbm else 0)
    if i.opcode != 'fusion':
      return _hbm(i) + sum(_hbm(table[name]) for name in i.operands)
    inner = self._computations[i.called[0]]
    return self._written(inner) + sum(self._read(inner, number) for number in range(len(i.operands)))

  def _read(self, table: Computation, number: int) -> float:
    """Return the bytes that a computation reads of a parameter.

    An array that is sliced, or updated in place, counts with that part.
    """
    found = [i for i in table.values() if i.opcode == 'parameter' and i.attributes.startswith(f'{number})')]
    if not found or not _hbm(found[0]):
      return 0
    total, users = 0.0, [i for i in table.values() if found[0].name in i.operands]
    for user in users:
      place = user.operands.index(found[0].name)
      if user.opcode in ('dynamic-slice', 'slice'):
        total += user.arrays[0].size
      elif user.opcode == 'fusion':
        total += self._read(self._computations[user.called[0]], place)
      elif user.opcode != 'dynamic-update-slice' or place > 0:
        return _hbm(found[0])
    return min(total, _hbm(found[0]))

  def _written(self, table: Computation) -> float:
    root = next(i for i in table.values() if i.is_root)
    parts = [table[name] for name in root.operands] if root.opcode == 'tuple' else [root]
    return sum(table[part.operands[1]].arrays[0].size if part.opcode == 'dynamic-update-slice' and _hbm(part)
               else _hbm(part) for part in parts)

  def live_at_peak(self) -> list[Buffer]:
    """Return the temporary arrays that live when they are largest.

    The order of execution gives their lifetimes; XLA may place them better. Arguments are not among them.
    """
    _, live = self._peak(self._entry)
    kinds = collections.Counter((array, self._sources.of(i, table)) for i, table, array in live)
    buffers = [Buffer(count, array, source) for (array, source), count in kinds.items()]
    return sorted(buffers, key=lambda buffer: -buffer.size)

  def _peak(self, name: str) -> tuple[int, list[tuple[Instruction, Computation, Array]]]:
    table = self._computations[name]
    values = _values(table, self._computations)
    last_use = {key: place for place, i in enumerate(table.values()) for operand in i.operands
                for key in values[operand]}
    last_use |= {key: len(table) for i in table.values() if i.is_root for key in values[i.name]}
    live: dict[tuple[str, int], Array] = {}
    size = peak = 0
    at_peak: list[tuple[Instruction, Computation, Array]] = []
    for place, i in enumerate(table.values()):
      if i.opcode not in _ALIASES and i.opcode not in _FREE:
        new = {key: i.arrays[key[1]] for key in values[i.name] if key[0] == i.name and i.arrays[key[1]].in_hbm}
        live |= new
        size += sum(array.size for array in new.values())
      inside, inner = max((self._peak(called) for called in i.called if i.opcode in ('while', 'conditional', 'call')),
                          key=lambda found: found[0], default=(0, []))
      if size + inside > peak:
        peak, at_peak = size + inside, [(table[key[0]], table, array) for key, array in live.items()] + inner
      ended = [key for key in live if last_use.get(key, place) <= place]
      size -= sum(live.pop(key).size for key in ended)
    return peak, at_peak


Key = tuple[str, int]
"""An array: the instruction that makes it, and its number among the results."""


def _values(table: Computation, computations: dict[str, Computation]) -> dict[str, list[Key]]:
  """Return the arrays behind each name."""
  values: dict[str, list[Key]] = {}
  for name, i in table.items():
    if i.opcode == 'tuple':
      values[name] = [key for operand in i.operands for key in values[operand]]
    elif i.opcode == 'get-tuple-element':
      index = int(i.attribute(r'index=(\d+)'))
      tree = table[i.operands[0]].tree
      before = sum(len(list(leaves(part))) for part in tree[:index])  # type: ignore[index, union-attr, misc]
      values[name] = values[i.operands[0]][before:before + len(i.arrays)]
    elif i.opcode in _ALIASES:
      values[name] = values[i.operands[0]]
    elif i.opcode.endswith('-done'):
      started = i.operands[0]
      same = [key for key in values[started]
              if key[0] == started and table[started].arrays[key[1]].text == i.arrays[0].text]
      values[name] = same[:1] or values[started]
    elif i.opcode.endswith('-start'):
      values[name] = _started(i, table, values)
    else:
      updated = _updated_in_place(i, computations)
      values[name] = [values[i.operands[updated[number]]][0] if number in updated else (name, number)
                      for number in range(len(i.arrays))]
  return values


def _started(i: Instruction, table: Computation, values: dict[str, list[Key]]) -> list[Key]:
  """Return the results of an asynchronous operation, operands among them."""
  keys: list[Key] = [(i.name, number) for number in range(len(i.arrays))]
  given = [(array, key) for operand in i.operands for array, key in zip(table[operand].arrays, values[operand],
                                                                         strict=True)]
  places = sorted(range(len(keys)), reverse=i.opcode == 'copy-start')  # its copy comes first, the original behind
  for array, key in given if len(keys) > len(given) else ():
    place = next((n for n in places if keys[n][0] == i.name and i.arrays[n] == array), None)
    if place is not None:
      keys[place] = key
  return keys


def _updated_in_place(i: Instruction, computations: dict[str, Computation]) -> dict[int, int]:
  """Return {number of a result: the operand that it is written into}."""
  if i.opcode == 'dynamic-update-slice':
    return {0: 0}
  if i.opcode != 'fusion':
    return {}
  table = computations[i.called[0]]
  root = next(part for part in table.values() if part.is_root)
  results = [table[name] for name in root.operands] if root.opcode == 'tuple' else [root]
  found = {}
  for number, part in enumerate(results):
    while part.opcode in ('bitcast', 'dynamic-update-slice'):
      part = table[part.operands[0]]
    if part.opcode == 'parameter' and results[number].opcode != 'parameter':
      found[number] = int(part.attributes.split(')')[0])
  return found


def _convolution_flops(i: Instruction, table: Computation) -> float:
  """Return the FLOPs of products with real elements, not with padding.

  A TPU's compiler writes matrix products and all gradients as convolutions, many of them mostly of padding.
  """
  image, kernel = (table[name].arrays[0].dims for name in i.operands[:2])
  labels = re.findall(r'dim_labels=(\w+)_(\w+)->(\w+)', i.attributes)[0]
  sizes = [dict(zip(names, dims, strict=True)) for names, dims in zip(labels, (image, kernel, i.arrays[0].dims),
                                                                     strict=True)]
  axes = sorted(label for label in sizes[0] if label.isdigit())
  window = [_window(i, name, len(axes), default) for name, default in
            (('stride', 1), ('lhs_dilate', 1), ('rhs_dilate', 1))]
  before = [int(pad.split('_')[0]) for pad in _window_words(i, 'pad') or ['0_0'] * len(axes)]
  pairs = math.prod(_pairs(sizes[0][axis], sizes[1][axis], sizes[2][axis], before[n], *(part[n] for part in window))
                    for n, axis in enumerate(axes))
  return 2 * sizes[2]['b'] * sizes[2]['f'] * sizes[1]['i'] * pairs


def _window_words(i: Instruction, name: str) -> list[str]:
  found = i.attribute(rf'window=\{{[^}}]*\b{name}=([\d_x\-]+)')
  return found.split('x') if found else []


def _window(i: Instruction, name: str, axes: int, default: int) -> list[int]:
  return [int(word) for word in _window_words(i, name)] or [default] * axes


@functools.cache
def _pairs(image: int, kernel: int, outputs: int, before: int, stride: int, spread: int, kernel_spread: int) -> int:
  """Count pairs of output and kernel elements that meet the image."""
  places = stride * np.arange(outputs)[:, None] + kernel_spread * np.arange(kernel) - before
  return int(np.sum((places >= 0) & (places <= (image - 1) * spread) & (places % spread == 0)))


def _sent(i: Instruction, table: Computation) -> float:
  """Return the bytes that a device sends, in a ring."""
  n, inputs = _group_size(i), sum(array.size for name in i.operands for array in table[name].arrays)
  kind = i.opcode.removesuffix('-start')
  if kind == 'collective-permute':
    return inputs
  factor = {'all-reduce': 2 / n, 'all-gather': 1.0}.get(kind, 1 / n)
  return factor * (n - 1) * inputs


def _group_size(i: Instruction) -> int:
  """Return the number of devices that exchange messages with each other."""
  if axes := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", i.attributes):
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes[1])}
    return math.prod(sizes[name] for name in re.findall(r"'([^']+)'", axes[2]))
  if iota := i.attribute(r'replica_groups=\[\d+,(\d+)\]'):
    return int(iota)
  return max(1, len(i.attribute(r'replica_groups=\{\{([\d,]*)\}').split(',')))


def _hbm(i: Instruction) -> int:
  return sum(array.size for array in i.arrays if array.in_hbm)
