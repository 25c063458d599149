"""Reader of compiled programs in XLA's text form.

Every instruction in the order of its execution, with shapes as they lie in memory, the function of the source that it
comes from, and the computations that it calls:

    %fusion.3 = f32[8,128]{1,0:T(8,128)} fusion(%a, %b), kind=kOutput, calls=%fused.3, metadata={... stack_frame_id=6}
"""
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_COPIES = ('copy', 'copy-start', 'copy-done', 'slice-start', 'slice-done', 'bitcast')
_BITS = {'pred': 8, 's4': 4, 'u4': 4, 'token': 0}
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?')
_INSTRUCTION = re.compile(r'\s+(ROOT )?%([^ ]+) = (.*)')
_HEADER = re.compile(r'(ENTRY )?%([^ ]+) \(.*\{$')
_NAME = re.compile(r'%([\w.\-]+)')


@dataclasses.dataclass(frozen=True)
class Array:
  """An array in memory.

  Attributes:
    text: type and shape, such as bf16[8,128].
    dims: the shape.
    size: bytes, with the padding of its tiles.
    in_hbm: whether it lies in the device's main memory, not in a faster one beside the compute units.
  """
  text: str
  dims: tuple[int, ...]
  size: int
  in_hbm: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  `tree` is an Array, or a list for tuples.
  """
  name: str
  tree: 'Array | list'
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  @property
  def arrays(self) -> list[Array]:
    return list(leaves(self.tree))

  def attribute(self, pattern: str) -> str:
    """Return the first group of a pattern in the attributes, or ''."""
    match = re.search(pattern, self.attributes)
    return match[1] if match else ''

  @property
  def called(self) -> list[str]:
    """Names of the computations that run as part of this one."""
    groups = re.findall(r'(?:calls|body|branch_computations|true_computation|false_computation)='
                        r'(\{[^}]*\}|%[\w.\-]+)', self.attributes)
    if self.opcode == 'call':
      groups += re.findall(r'to_apply=(%[\w.\-]+)', self.attributes)
    return [name for group in groups for name in _NAME.findall(group)]


Computation = dict[str, Instruction]
"""Instructions by name, in the order of their execution."""


def leaves(tree: 'Array | list') -> Iterator[Array]:
  if isinstance(tree, Array):
    yield tree
    return
  for part in tree:
    yield from leaves(part)


def parse(text: str) -> tuple[dict[str, Computation], str]:
  """Return {computation: {name: instruction}}, and the name of the program's own computation."""
  computations: dict[str, Computation] = {}
  entry = name = ''
  for line in text.splitlines():
    if header := _HEADER.match(line):
      name = header[2]
      computations[name], entry = {}, name if header[1] else entry
    elif name and (match := _INSTRUCTION.match(line)):
      instruction = _instruction(match)
      computations[name][instruction.name] = instruction
  return computations, entry


def _instruction(match: re.Match[str]) -> Instruction:
  rest = match[3]
  end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
  opcode, arguments = rest[end:].strip().split('(', 1)
  close = _closing(f'({arguments}', 0) - 1
  operands = tuple(_NAME.findall(arguments[:close]))
  attributes = arguments if opcode in ('parameter', 'constant') else arguments[close + 1:]
  return Instruction(match[2], _tree(rest[:end]), opcode, operands, attributes, bool(match[1]))


def _closing(text: str, start: int) -> int:
  """Return the place of the parenthesis that closes the one at `start`."""
  depth = 0
  for place in range(start, len(text)):
    depth += (text[place] == '(') - (text[place] == ')')
    if not depth:
      return place
  raise ValueError(f'unbalanced parentheses in {text[:80]!r}.')


def _tree(text: str) -> 'Array | list':
  if not text.startswith('('):
    return _array(text)
  parts, depth, start = [], 0, 1
  for place, letter in enumerate(text):
    depth += (letter in '([{') - (letter in ')]}')
    if (letter == ',' and depth == 1) or (letter == ')' and not depth):
      parts.append(re.sub(r'/\*.*?\*/', '', text[start:place]).strip())
      start = place + 1
  return [_tree(part) for part in parts if part]


@functools.lru_cache(maxsize=4096)
def _array(text: str) -> Array:
  match = _ARRAY.match(text)
  if not match:
    raise ValueError(f'{text!r} is no array type of XLA.')
  kind, shape, order, memory = match[1], match[2], match[3] or '', match[4] or ''
  dims = tuple(int(n) for n in shape.split(',') if n)
  bits = _BITS[kind] if kind in _BITS else int((re.search(r'\d+', kind) or [8])[0])
  size = math.prod(_padded(dims, [int(n) for n in order.split(',') if n], memory)) * bits // 8
  space = re.search(r'S\((\d+)\)', memory)
  return Array(f'{kind}[{shape}]', dims, size, not space or space[1] == '0')


def _padded(dims: tuple[int, ...], minor_to_major: list[int], memory: str) -> list[int]:
  """Return the shape with its fastest dimensions rounded up to a tile."""
  tile = re.match(r'T\(([\d,]+)\)', memory)
  sides = [int(n) for n in tile[1].split(',')] if tile else []
  padded = list(dims)
  for dimension, side in zip(minor_to_major, reversed(sides), strict=False):
    padded[dimension] = -(-padded[dimension] // side) * side
  return padded


class Sources:
  """The tables of source lines in front of a program."""

  def __init__(self, text: str):
    head = text.split('\n%', 1)[0]
    self._files = dict(re.findall(r'^(\d+) "([^"]*\.py)"', head, re.M))
    self._lines = {number: (file, line) for number, file, line in
                   re.findall(r'^(\d+) \{file_name_id=(\d+) .*?line=(\d+)', head, re.M)}
    self._frames = {number: (place, parent) for number, place, parent in
                    re.findall(r'^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?', head, re.M)}

  def of(self, i: Instruction, table: Computation) -> str:
    """Return the innermost line of rtjax's models, else the operation's name.

    A copy without a name has that of its original.
    """
    while not (name := i.attribute(r'op_name="([^"]*)"')) and i.opcode in _COPIES:
      i = table[i.operands[0]]
    frame, seen = i.attribute(r'stack_frame_id=(\d+)'), set()
    while frame in self._frames and frame not in seen:
      seen.add(frame)
      place, parent = self._frames[frame]
      file, line = self._lines.get(place, ('', ''))
      path = self._files.get(file, '')
      if '/rtjax/models/' in path:
        return f'{path[path.rindex("rtjax/models/"):]}:{line}{" (backward)" if "transpose(" in name else ""}'
      frame = parent
    return name.split('/', 1)[-1] or i.name
