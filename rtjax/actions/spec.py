"""Specification of an action: its fields in order."""
import dataclasses
import functools
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from rtjax.actions import codec
from rtjax.actions.field import MOST_BINS, MOST_NUMBERS, ActionField, Array
from rtjax.runtime.suggest import did_you_mean


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
    if not isinstance(action, jax.Array) and not np.all(np.isfinite(action)):
      bad = sorted({self.dimension_names[i] for i in np.argwhere(~np.isfinite(action))[:, -1]})
      raise ValueError(f'action holds NaN or infinite numbers in {bad}; expected finite numbers. Fix the data or drop '
                       'the step.')
    return codec.tokenize(self.fields, action)

  def detokenize(self, tokens: Int[Array, '*b K']) -> Float[Array, '*b A']:
    """Map tokens to raw actions.

    A number is `token / (bins - 1) * (high - low) + low`, a class one-hot. A token beyond a field's bins (the
    vocabulary may be larger) becomes the field's top bin, or its fallback class.
    """
    self._expect(tokens, self.num_tokens, 'tokens')
    return codec.detokenize(self.fields, tokens)

  def decode(self, logits: Float[Array, '*b K V'], decoding: Literal['argmax', 'mean'] = 'argmax'
             ) -> Float[Array, '*b A']:
    """Map logits to raw actions, NumPy to NumPy and JAX to JAX.

    Args:
      decoding: 'argmax' takes the likeliest token of each number, 'mean' the mean of its bins by probability, which is
        finer than a bin. Both take the likeliest class.

    Raises:
      ValueError: NumPy logits are not finite; traced code cannot check.
    """
    if not isinstance(logits, jax.Array) and not np.all(np.isfinite(logits)):
      raise ValueError('logits holds NaN or infinite numbers, which stand for no action.')
    return codec.decode(self.fields, logits, decoding)

  def smooth_labels(self, tokens: Int[Array, '*b K'], width: float) -> Float[jax.Array, '*b K V']:
    """Spread tokens over neighbouring bins by a Gaussian.

    Its standard deviation is `width` bins. Bins beyond the field's get no probability; classes are not spread.
    """
    return codec.smooth_labels(self.fields, tokens, width, self.vocab_size)

  def decide_classes(self, action: Float[Array, '*b A']) -> Float[Array, '*b A']:
    """Return the action with one-hot classes, 1 at the largest number.

    NaN stays NaN.
    """
    xp = codec.namespace(action)
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
