"""Actions: fields with bounds and units, and their tokens.

A raw action is a float32 vector of A numbers, the fields of an `ActionSpec` one after the other. A token is an integer
in [0, V). Each continuous number has a token; a field of classes (one-hot numbers) has a single one:

    field                     kind         numbers  tokens
    terminate_episode         classes            3       1
    world_vector              continuous         3       3
    ...                                          A       K

A number becomes `int((clip(a, low, high) - low) / (high - low) * (bins - 1))`, truncated, in float32 and in this order
of operations (robotics_transformer, tokenizers/action_tokenizer.py). Compilers may turn that division into a product,
which moves values that lie on a bound between bins. Therefore the thresholds of the bins are computed once, in NumPy,
and numbers are compared with them: the same token with and without jit, on every backend.
"""
import dataclasses
import functools
import pathlib
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from rtjax.runtime import limits, serialization
from rtjax.runtime.suggest import did_you_mean

Array = jax.Array | np.ndarray


MOST_NUMBERS, MOST_BINS = 1024, 2 ** 13
"""Bounds of an ActionSpec, which may be of a stranger's dataset: tables of bins times bins are made from it."""


@dataclasses.dataclass(frozen=True)
class ActionField:
  """One named part of an action.

  Attributes:
    name: key in action dicts.
    size: count of numbers; for `classes` one per class (one-hot).
    low, high: bounds of each number, in `unit`; a single number applies to all. Unused for `classes`.
    bins: tokens that a number can take (`continuous`), or count of classes (`classes`).
    kind: 'continuous' or 'classes'.
    unit: for reports ('m', 'rad', '').
    frame: coordinate frame of the numbers ('base', 'gripper', ...).
    mirror: factor of each number when the image is mirrored left to right; a single number applies to all.
    fallback: class that a token beyond the classes decodes to (`classes` only).
  """
  name: str
  size: int
  low: float | tuple[float, ...] = -1.0
  high: float | tuple[float, ...] = 1.0
  bins: int = 256
  kind: Literal['continuous', 'classes'] = 'continuous'
  unit: str = ''
  frame: str = ''
  mirror: float | tuple[float, ...] = 1.0
  fallback: int = 0

  def __post_init__(self):
    for key, value, least, most in (('size', self.size, 1, MOST_NUMBERS), ('bins', self.bins, 2, MOST_BINS)):
      if not least <= value <= most:
        raise ValueError(f'ActionField {self.name!r}: {key} is {value}, expected {least} to {most}.')
    for key in ('low', 'high', 'mirror'):
      value = getattr(self, key)
      value = tuple(map(float, value)) if isinstance(value, (tuple, list)) else (float(value),) * self.size
      if len(value) != self.size:
        raise ValueError(f'ActionField {self.name!r}: {key} has {len(value)} numbers, size is {self.size}.')
      object.__setattr__(self, key, value)
    if self.kind not in ('continuous', 'classes'):
      raise ValueError(f"ActionField {self.name!r}: kind is {self.kind!r}, expected 'continuous' or 'classes'.")
    if not np.isfinite((self.low, self.high, self.mirror)).all():
      raise ValueError(f'ActionField {self.name!r}: low {self.low}, high {self.high} and mirror {self.mirror} must be '
                       'finite numbers.')
    with np.errstate(over='ignore'):
      low, high = np.array((self.low, self.high)).astype(np.float32)
    if self.kind == 'continuous' and not (np.all(low < high) and np.isfinite((low, high)).all()):
      raise ValueError(f'ActionField {self.name!r}: low {self.low} must be below high {self.high}, also in float32.')
    if self.kind == 'classes' and self.bins != self.size:
      raise ValueError(f'ActionField {self.name!r}: {self.bins} classes need as many numbers, size is {self.size}.')
    if not 0 <= self.fallback < self.bins:
      raise ValueError(f'ActionField {self.name!r}: fallback is {self.fallback}, expected a class, 0 to '
                       f'{self.bins - 1}.')

  @property
  def num_tokens(self) -> int:
    return 1 if self.kind == 'classes' else self.size


def classes(name: str, count: int, fallback: int = 0) -> ActionField:
  """Return a field of `count` exclusive classes, one-hot in the raw action."""
  return ActionField(name, count, 0.0, 1.0, count, 'classes', fallback=fallback)


@dataclasses.dataclass(frozen=True)
class ActionSpec:
  """Ordered fields of an action; see the module's docstring.

  Attributes:
    fields: in the order of their numbers and tokens.
    vocab_size: V, count of tokens; at least the bins of every field.
    rate: actions a second, where it is known.
  """
  fields: tuple[ActionField, ...]
  vocab_size: int = 256
  rate: float | None = None

  def __post_init__(self):
    if not self.fields:
      raise ValueError('ActionSpec: fields is empty, an action needs at least one.')
    names = [f.name for f in self.fields]
    if len(set(names)) != len(names):
      raise ValueError(f'ActionSpec: field names repeat: {names}.')
    if self.size > MOST_NUMBERS:
      raise ValueError(f'ActionSpec: its fields have {self.size} numbers, expected at most {MOST_NUMBERS}.')
    if self.vocab_size > MOST_BINS:
      raise ValueError(f'ActionSpec: vocab_size is {self.vocab_size}, expected at most {MOST_BINS}.')
    most = max(f.bins for f in self.fields)
    if most > self.vocab_size:
      raise ValueError(f'ActionSpec: a field has {most} bins, more than vocab_size {self.vocab_size}.')
    if self.rate is not None and not (np.isfinite(self.rate) and self.rate > 0):
      raise ValueError(f'ActionSpec: rate is {self.rate}, expected actions a second, or none.')

  @property
  def size(self) -> int:
    """Count of numbers of a raw action, A."""
    return sum(f.size for f in self.fields)

  @property
  def num_tokens(self) -> int:
    """Count of tokens of an action, K."""
    return sum(f.num_tokens for f in self.fields)

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(f.name for f in self.fields)

  @functools.cached_property
  def token_names(self) -> tuple[str, ...]:
    """Name of each token, such as 'world_vector[1]'."""
    return tuple(name for f in self.fields for name in _indexed(f.name, f.num_tokens))

  @functools.cached_property
  def token_bins(self) -> tuple[int, ...]:
    """Count of values of each token: bins, or classes."""
    return tuple(f.bins for f in self.fields for _ in range(f.num_tokens))

  @functools.cached_property
  def dimension_names(self) -> tuple[str, ...]:
    """Name of each number of the raw action."""
    return tuple(name for f in self.fields for name in _indexed(f.name, f.size))

  @functools.cached_property
  def dimension_units(self) -> tuple[str, ...]:
    """Unit of each number of the raw action."""
    return tuple(f.unit for f in self.fields for _ in range(f.size))

  @functools.cached_property
  def bounds(self) -> tuple[Float[np.ndarray, ' A'], Float[np.ndarray, ' A']]:
    """Lower and upper bound of each number of the raw action, float64."""
    return np.concatenate([f.low for f in self.fields]), np.concatenate([f.high for f in self.fields])

  def describe(self) -> str:
    """Return name, bounds and unit of each number, and the rate."""
    numbers = zip(self.dimension_names, *self.bounds, self.dimension_units, strict=True)
    described = ', '.join(f'{name} {low:.3g} to {high:.3g} {unit}'.rstrip() for name, low, high, unit in numbers)
    return described + (f', {self.rate:g} a second' if self.rate else '')

  def pack(self, action: dict[str, Any]) -> np.ndarray:
    """Concatenate fields {name: [..., size]} to float32 [..., A].

    Raises:
      ValueError: a field is missing, unknown or of another shape.
    """
    for name in action:
      if name not in self.names:
        raise ValueError(f'action has a field {name!r}, the ActionSpec has {list(self.names)}.'
                         f'{did_you_mean(name, self.names)}')
    parts = []
    for f in self.fields:
      if f.name not in action:
        raise ValueError(f'action lacks the field {f.name!r}; it has {sorted(action)}.')
      part = np.asarray(action[f.name], np.float32)
      if part.ndim == 0 or part.shape[-1] != f.size:
        raise ValueError(f'action field {f.name!r} has shape {part.shape}, expected [..., {f.size}].')
      parts.append(part)
    return np.concatenate(parts, -1)

  def unpack(self, action: Float[Array, '*b A']) -> dict[str, Array]:
    """Split float32 [..., A] into fields {name: [..., size]}."""
    self._expect(action, self.size, 'action')
    ends = np.cumsum([f.size for f in self.fields])
    return {f.name: action[..., end - f.size:end] for f, end in zip(self.fields, ends, strict=True)}

  def tokenize(self, action: Float[Array, '*b A']) -> Int[Array, '*b K']:
    """Map raw actions to int32 tokens.

    Numbers beyond the bounds take the nearest token (see `clipped`). NumPy in gives NumPy, JAX in gives JAX, with equal
    tokens.

    Raises:
      ValueError: a NumPy action is not finite; traced code cannot check.
    """
    self._expect(action, self.size, 'action')
    xp = jnp if isinstance(action, jax.Array) else np
    if xp is np and not np.all(np.isfinite(action)):
      bad = sorted({self.dimension_names[i] for i in np.argwhere(~np.isfinite(action))[:, -1]})
      raise ValueError(f'action holds NaN or infinite numbers in {bad}; expected finite numbers. Fix the data or drop '
                       'the step.')
    tokens, number = [], 0
    for f in self.fields:
      part = action[..., number:number + f.size]
      if f.kind == 'classes':
        tokens.append(xp.argmax(part, -1)[..., None].astype(xp.int32))
      else:
        thresholds = xp.asarray(_thresholds(f))  # [size, bins - 1]
        tokens.append((part[..., None] >= thresholds).sum(-1).astype(xp.int32))
      number += f.size
    return xp.concatenate(tokens, -1)

  def detokenize(self, tokens: Int[Array, '*b K']) -> Float[Array, '*b A']:
    """Map tokens to raw actions.

    A number is `token / (bins - 1) * (high - low) + low`, a class one-hot. A token beyond a field's bins (the
    vocabulary may be larger) becomes the field's top bin, or its fallback class.
    """
    self._expect(tokens, self.num_tokens, 'tokens')
    xp = jnp if isinstance(tokens, jax.Array) else np
    parts, at = [], 0
    for f in self.fields:
      table = xp.asarray(_table(f))
      part = tokens[..., at:at + f.num_tokens]
      at += f.num_tokens
      if f.kind == 'classes':
        parts.append(table[xp.where((part >= 0) & (part < f.bins), part, f.fallback)[..., 0]])
      else:
        part = xp.clip(part, 0, f.bins - 1)
        parts.append(xp.stack([table[i][part[..., i]] for i in range(f.size)], -1))
    return xp.concatenate(parts, -1)

  def decode(self, logits: Float[Array, '*b K V'], decoding: Literal['argmax', 'mean'] = 'argmax'
             ) -> Float[Array, '*b A']:
    """Map logits to raw actions, NumPy to NumPy and JAX to JAX.

    Args:
      decoding: 'argmax' takes the likeliest token of each number, 'mean' the mean of its bins by probability, which is
        finer than a bin. Both take the likeliest class.

    Raises:
      ValueError: NumPy logits are not finite; traced code cannot check.
    """
    xp = jnp if isinstance(logits, jax.Array) else np
    if xp is np and not np.all(np.isfinite(logits)):
      raise ValueError('logits holds NaN or infinite numbers, which stand for no action.')
    if decoding == 'argmax':
      return self.detokenize(xp.argmax(logits, -1).astype(xp.int32))
    parts, at = [], 0
    for f in self.fields:
      part, table = logits[..., at:at + f.num_tokens, :f.bins], xp.asarray(_table(f))
      at += f.num_tokens
      if f.kind == 'classes':
        parts.append(table[xp.argmax(part, -1)[..., 0]])
      else:
        share = xp.exp(part - part.max(-1, keepdims=True))
        parts.append((share * table).sum(-1) / share.sum(-1))
    return xp.concatenate(parts, -1)

  def smooth_labels(self, tokens: Int[Array, '*b K'], width: float) -> Float[jax.Array, '*b K V']:
    """Spread tokens over neighbouring bins by a Gaussian.

    Its standard deviation is `width` bins. Bins beyond the field's get no probability; classes are not spread.
    """
    bins = np.arange(self.vocab_size)
    apart = bins - bins[:, None]
    tables = []
    for f in self.fields:
      near = (apart == 0) | (bins < f.bins) & (f.kind == 'continuous')
      spread = np.where(near, np.exp(-0.5 * (apart / width) ** 2), 0)
      tables += [spread / spread.sum(-1, keepdims=True)] * f.num_tokens
    return jnp.asarray(np.array(tables, np.float32))[np.arange(self.num_tokens), tokens]

  def decide_classes(self, action: Float[Array, '*b A']) -> Float[Array, '*b A']:
    """Return the action with one-hot classes, 1 at the largest number.

    NaN stays NaN.
    """
    xp = jnp if isinstance(action, jax.Array) else np
    fields = self.unpack(action)
    for f in self.fields:
      if f.kind == 'classes':
        part = fields[f.name]
        one_hot = xp.asarray(np.eye(f.size, dtype=np.float32))[xp.argmax(part, -1)]
        fields[f.name] = xp.where(xp.isnan(part), part, one_hot)
    return xp.concatenate([*fields.values()], -1)

  def mirror(self, action: Float[Array, '*b A']) -> Float[Array, '*b A']:
    """Return the same action in a world mirrored left to right."""
    return action * np.concatenate([f.mirror for f in self.fields]).astype(np.float32)

  def clipped(self, action: Float[Array, '*b A']) -> Bool[Array, '*b A']:
    """Return which numbers lie beyond their bounds (never true for classes)."""
    free = [f.kind == 'classes' for f in self.fields for _ in range(f.size)]
    low, high = (np.where(free, limit, side).astype(np.float32)
                 for limit, side in zip((-np.inf, np.inf), self.bounds, strict=True))
    return (action < low) | (action > high)

  def gripper_commands(self, actions: Float[np.ndarray, 'steps A']) -> np.ndarray:
    """Return whether each action commands the upper half of the gripper's range.

    The gripper is the first field whose name begins with 'gripper'; without one, all are False.
    """
    fields = self.unpack(actions)
    for f in self.fields:
      if f.name.startswith('gripper'):
        middle = 0.5 if f.kind == 'classes' else (f.low[0] + f.high[0]) / 2  # type: ignore[index]
        return np.asarray(fields[f.name][..., 0] > middle)
    return np.zeros(len(actions), bool)

  def _expect(self, array: Array, last: int, what: str) -> None:
    if array.ndim == 0 or array.shape[-1] != last:
      raise ValueError(f'{what} has shape {array.shape}, expected [..., {last}] for the fields {list(self.names)}.')


def _indexed(name: str, count: int) -> list[str]:
  return [name] if count == 1 else [f'{name}[{i}]' for i in range(count)]


def _token(value: np.ndarray, f: ActionField) -> np.ndarray:
  """Apply the reference's rule to `value`, float32 [size, ...] within bounds."""
  low = np.asarray(f.low, np.float32).reshape(-1, *[1] * (value.ndim - 1))
  high = np.asarray(f.high, np.float32).reshape(low.shape)
  return ((value - low) / (high - low) * np.float32(f.bins - 1)).astype(np.int32)


@functools.cache
def _thresholds(f: ActionField) -> np.ndarray:
  """Return the threshold of each token: float32 [size, bins - 1]."""
  wanted = np.arange(1, f.bins)
  # Bisect over the floats in their own order: as integers, positive floats are ordered and negative ones reversed.
  lower = _ordered(np.asarray(f.low, np.float32))[:, None] + np.zeros_like(wanted)
  upper = _ordered(np.asarray(f.high, np.float32))[:, None] + np.zeros_like(wanted)
  while np.any(lower < upper):
    middle = (lower + upper) >> 1
    reached = _token(_from_ordered(middle), f) >= wanted
    lower, upper = np.where(reached, lower, middle + 1), np.where(reached, middle, upper)
  return _from_ordered(lower)


def _ordered(value: np.ndarray) -> np.ndarray:
  bits = value.view(np.int32).astype(np.int64)
  return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _from_ordered(order: np.ndarray) -> np.ndarray:
  bits = np.where(order < 0, -order | 0x80000000, order)
  return bits.astype(np.uint32).view(np.float32)


@functools.cache
def _table(f: ActionField) -> np.ndarray:
  """Return the number or one-hot row of each token."""
  if f.kind == 'classes':
    return np.eye(f.bins, dtype=np.float32)
  low, high = np.asarray([f.low], np.float32).T, np.asarray([f.high], np.float32).T
  return np.arange(f.bins, dtype=np.float32) / np.float32(f.bins - 1) * (high - low) + low


# The 11 tokens of RT-1 (policy_specs.json of the released policies; order of google-deepmind/open_x_embodiment,
# models/rt1.py). The robot's x axis points forward and y to its left, so a mirrored image negates y, and of the
# rotations (axial vectors) roll and yaw.
RT1 = ActionSpec((
    classes('terminate_episode', 3),
    ActionField('world_vector', 3, -1.0, 1.0, unit='m', frame='base', mirror=(1, -1, 1)),
    ActionField('rotation_delta', 3, -np.pi / 2, np.pi / 2, unit='rad', frame='base', mirror=(-1, 1, -1)),
    ActionField('gripper_closedness_action', 1, -1.0, 1.0),
    ActionField('base_displacement_vertical_rotation', 1, -np.pi, np.pi, unit='rad', frame='base', mirror=-1),
    ActionField('base_displacement_vector', 2, -1.0, 1.0, unit='m', frame='base', mirror=(1, -1)),
))

# RT-1-X: the same fields in 512 bins, positions in twice the range; a token that is no class falls back to the last
# class (open_x_embodiment, models/rt1.py and rt1_inference_example.py).
RT1_X = ActionSpec((
    dataclasses.replace(RT1.fields[0], fallback=2),
    dataclasses.replace(RT1.fields[1], bins=512, low=-2.0, high=2.0),
    *(dataclasses.replace(f, bins=512) for f in RT1.fields[2:])), vocab_size=512)

# Seven numbers of a table-top arm, as Bridge V2 and many RLDS datasets record them: deltas of the gripper's pose and
# the gripper's opening (1 open, 0 closed). The bounds hold what such arms do in one step at 3 to 5 Hz.
ARM_7D = ActionSpec((
    ActionField('translation', 3, -0.05, 0.05, unit='m', frame='base', mirror=(1, -1, 1)),
    ActionField('rotation', 3, -0.25, 0.25, unit='rad', frame='base', mirror=(-1, 1, -1)),
    ActionField('gripper', 1, 0.0, 1.0),
))

# Target pose of the gripper in the robot's frame, and closed (class 0) or open (class 1), the opening of arm7d as a
# class. Mirrored about the plane y = 0.
POSE_7D = ActionSpec((
    ActionField('position', 3, (-0.5, -0.5, 0.0), (0.5, 0.5, 0.8), unit='m', frame='base', mirror=(1, -1, 1)),
    ActionField('orientation', 3, -3.14, 3.14, unit='rad', frame='base', mirror=(-1, 1, -1)),
    classes('gripper', 2),
))

# Meta-World's four numbers as it takes and records them (its sawyer_xyz_env.py): changes of the gripper's target
# position, and the effort of its fingers (-1 opens, 1 closes). Its arm faces y.
METAWORLD = ActionSpec((
    ActionField('translation', 3, -1.0, 1.0, unit='cm', frame='base', mirror=(-1, 1, 1)),
    ActionField('gripper_effort', 1, -1.0, 1.0),
))

# LIBERO's seven numbers as robosuite's controller OSC_POSE takes them and the datasets record them (robosuite 1.4,
# controllers/config/osc_pose.json): changes of the gripper's pose, 1 is 0.05 m or 0.5 rad (axis-angle), and the effort
# of its fingers (-1 opens, 1 closes). The arm faces x.
LIBERO = ActionSpec((
    ActionField('osc_position', 3, -1.0, 1.0, unit='5 cm', frame='base', mirror=(1, -1, 1)),
    ActionField('osc_rotation', 3, -1.0, 1.0, unit='0.5 rad', frame='base', mirror=(-1, 1, -1)),
    ActionField('gripper_effort', 1, -1.0, 1.0),
))

# Language-Table's two numbers: changes of the effector's target x and y, within its action space (language_table.py of
# its source). Mirrored about the plane y = 0, on which its camera stands.
LANGUAGE_TABLE = ActionSpec((ActionField('planar_translation', 2, -0.1, 0.1, unit='m', frame='base', mirror=(1, -1)),))

SPECS = {'rt1': RT1, 'rt1_x': RT1_X, 'arm7d': ARM_7D, 'pose7d': POSE_7D, 'metaworld': METAWORLD, 'libero': LIBERO,
         'language_table': LANGUAGE_TABLE}


def get(name: str) -> ActionSpec:
  """Return the ActionSpec of `SPECS`, or of a JSON file.

  Raises:
    ValueError: there is none of this name, or the file holds none.
    OSError: the file cannot be read.
  """
  if name.endswith('.json'):
    return _read(pathlib.Path(name))
  if name not in SPECS:
    raise ValueError(f'unknown action spec {name!r}, expected one of {sorted(SPECS)}, or a file that ends in .json.'
                     f'{did_you_mean(name, SPECS)}')
  return SPECS[name]


def _read(path: pathlib.Path) -> ActionSpec:
  try:
    return serialization.from_json(limits.read_json(path), ActionSpec)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{path} is no ActionSpec: {error} Expected an object such as '
                     '{"fields": [{"name": "joints", "size": 6, "low": -3.2, "high": 3.2, "unit": "rad"}, ...], '
                     '"vocab_size": 256}.') from error
