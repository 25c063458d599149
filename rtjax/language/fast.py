"""FAST: chunks of actions as few tokens.

    chunk [H, A]  ->  bounds to [-1, 1]  ->  cosine transform over time  ->  round(scale * c)  ->  byte pairs
                                             [H, A], frequency f, number a      integers          K' tokens

Integers are read with the lowest frequencies of all numbers first: (f0, a0), (f0, a1), ... (f1, a0), ... The transform
is orthonormal, so that rounding moves a decoded chunk by at most 0.5 / scale in root mean square, in units of half a
number's range, and coefficients stay within sqrt(H). Every integer in that range is a symbol: unlike the published
tokenizer, whose symbols are those of its training data, it encodes any chunk.

`Tokenizer.action_ids(codec.size, 'rarest')` gives the text tokens for its ids.

Source: Pertsch et al. 2025, FAST: Efficient Action Tokenization for Vision-Language-Action Models (arXiv 2501.09747);
scale 10 and 1024 tokens are the defaults of the published processor.
"""
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from rtjax.language import tokenizer_json
from rtjax.runtime import limits, serialization

# Symbols are letters of one block of 20,992 ideographs, which no step of a tokenizer splits or changes.
_FIRST, _LETTERS = 0x4e00, 20992


@dataclasses.dataclass(frozen=True)
class FastCodec:
  """Encoder and decoder of chunks; `fit` makes one.

  Attributes:
    horizon: H, actions of a chunk.
    low, high: bounds of each of the A numbers of an action.
    scale: steps of a coefficient per 1.
    model: byte pairs, a tokenizer.json.
  """
  horizon: int
  low: tuple[float, ...]
  high: tuple[float, ...]
  scale: float
  model: str

  def __post_init__(self) -> None:
    _check_shape(self.horizon, self.low, self.high, self.scale)
    letters = _letters(self.horizon, self.scale)
    known = self._pairs.get_vocab()
    if any(letter not in known for letter in letters) or any(set(piece) - set(letters) for piece in known):
      raise ValueError(f'model has other symbols than the {len(letters)} of horizon {self.horizon} and scale '
                       f'{self.scale}. Make the codec with FastCodec.fit.')

  @classmethod
  def fit(cls, chunks: Float[np.ndarray, 'n H A'], low: Sequence[float] | np.ndarray,
          high: Sequence[float] | np.ndarray, *, scale: float = 10.0, size: int = 1024) -> 'FastCodec':
    """Learn the byte pairs of training data.

    Args:
      chunks: actions in their own units.
      low, high: bounds of each number (`ActionSpec.bounds`).
      size: most tokens.

    Raises:
      ValueError: the shapes differ, numbers are not finite, or there are more symbols than tokens.
    """
    tokenizers = tokenizer_json.package()
    low, high = tuple(map(float, low)), tuple(map(float, high))
    horizon = np.shape(chunks)[1] if np.ndim(chunks) == 3 else 0
    _check_shape(horizon, low, high, scale)
    letters = _letters(horizon, scale)
    if size < len(letters):
      raise ValueError(f'size is {size}, chunks of {horizon} actions at scale {scale} have {len(letters)} symbols. '
                       'Allow more tokens, or use a smaller scale.')
    pairs = tokenizers.Tokenizer(tokenizers.models.BPE())
    bare = cls(horizon, low, high, scale, _alphabet(letters))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=letters, show_progress=False, special_tokens=[])
    pairs.train_from_iterator(map(bare._write, bare._integers(chunks)), trainer)
    return dataclasses.replace(bare, model=pairs.to_str())

  @property
  def size(self) -> int:
    """Number of tokens."""
    return self._pairs.get_vocab_size()

  @functools.cached_property
  def letters(self) -> Int[np.ndarray, ' n']:
    """Token of each single integer, the least first."""
    known = self._pairs.get_vocab()
    return np.array([known[letter] for letter in _letters(self.horizon, self.scale)], np.int32)

  @functools.cached_property
  def merges(self) -> Int[np.ndarray, 'n 3']:
    """Pairs of tokens and their replacement, in the order of learning."""
    known = self._pairs.get_vocab()
    pairs = [pair.split(' ') if isinstance(pair, str) else pair  # of older files
             for pair in json.loads(self._pairs.to_str())['model']['merges']]
    rows = [[known[left], known[right], known[left + right]] for left, right in pairs]
    return np.array(rows, np.int32).reshape(-1, 3)

  @functools.cached_property
  def lengths(self) -> Int[np.ndarray, ' n']:
    """Coefficients that each token stands for."""
    return np.array([len(self._pairs.id_to_token(token)) for token in range(self.size)], np.int32)

  @functools.cached_property
  def coefficients(self) -> Int[np.ndarray, 'n longest']:
    """Integers of each token, then zeros; at most those of a chunk."""
    count = self.horizon * len(self.low)
    table = np.zeros((self.size, min(count, int(self.lengths.max()))), np.int32)
    for token, row in enumerate(table):
      piece = self._pairs.id_to_token(token)[:count]
      row[:len(piece)] = [ord(letter) - _FIRST - _most(self.horizon, self.scale) for letter in piece]
    return table

  @functools.cached_property
  def cosines(self) -> Float[np.ndarray, 'f H']:
    """Matrix of the orthonormal cosine transform (DCT-II)."""
    return _cosines(self.horizon).astype(np.float32)

  def encode(self, chunks: Float[np.ndarray, 'n H A']) -> list[list[int]]:
    """Return the tokens of each chunk.

    Numbers beyond their bounds count as the bound, as in `ActionSpec.tokenize`.

    Raises:
      ValueError: the shape is another, or numbers are not finite.
    """
    return [self._pairs.encode(self._write(chunk)).ids for chunk in self._integers(chunks)]

  def decode(self, ids: Sequence[int]) -> Float[np.ndarray, 'H A']:
    """Return the chunk of its tokens.

    Raises:
      ValueError: the tokens stand for more or fewer numbers than a chunk has, or there is no such token.
    """
    pieces = [self._pairs.id_to_token(int(token)) for token in ids]
    if None in pieces:
      raise ValueError(f'the tokens {limits.short(list(ids))} are not all in the {self.size} of this codec.')
    text, count = ''.join(pieces), self.horizon * len(self.low)
    if len(text) != count:
      raise ValueError(f'the tokens {limits.short(list(ids))} stand for {len(text)} coefficients, a chunk of '
                       f'{self.horizon} actions has {count}.')
    integers = np.array([ord(letter) - _FIRST for letter in text]) - _most(self.horizon, self.scale)
    scaled = _cosines(self.horizon).T @ (integers.reshape(self.horizon, -1) / self.scale)
    low, high = np.array(self.low), np.array(self.high)
    return np.clip(low + (scaled + 1) / 2 * (high - low), low, high).astype(np.float32)

  def to_json(self) -> dict[str, Any]:
    """Return the codec as JSON."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> 'FastCodec':
    """Return the codec that `to_json` wrote.

    Raises:
      ValueError: it is damaged.
    """
    data = limits.json_object(data, 'the action codec')
    read: Callable[[Any, Any], Any] = serialization.from_json
    return cls(**{field.name: read(data.get(field.name), field.type) for field in dataclasses.fields(cls)})

  @functools.cached_property
  def _pairs(self) -> Any:
    return tokenizer_json.parse(self.model)

  def _integers(self, chunks: np.ndarray) -> Int[np.ndarray, 'n H A']:
    """Return rounded coefficients."""
    chunks = np.asarray(chunks, np.float64)
    if chunks.ndim != 3 or chunks.shape[1:] != (self.horizon, len(self.low)):
      raise ValueError(f'chunks has shape {chunks.shape}, expected [n, {self.horizon}, {len(self.low)}].')
    if not np.isfinite(chunks).all():
      raise ValueError('chunks holds NaN or infinite numbers.')
    low, high = np.array(self.low), np.array(self.high)
    scaled = (np.clip(chunks, low, high) - low) / (high - low) * 2 - 1
    return np.rint(self.scale * (_cosines(self.horizon) @ scaled)).astype(int)

  def _write(self, integers: np.ndarray) -> str:
    return ''.join(chr(_FIRST + i) for i in (integers + _most(self.horizon, self.scale)).ravel().tolist())


def _check_shape(horizon: int, low: tuple[float, ...], high: tuple[float, ...], scale: float) -> None:
  if not 1 <= horizon <= limits.NETWORK['horizon']:
    raise ValueError(f'the horizon is {horizon}, expected 1 to {limits.NETWORK["horizon"]}: chunks of the shape '
                     '[n, H, A].')
  if not low or len(low) != len(high) or not np.isfinite(low + high).all() or not np.less(low, high).all():
    raise ValueError(f'low is {low} and high {high}, expected a pair for each number, low < high.')
  if not 0 < scale <= _LETTERS or len(_letters(horizon, scale)) > _LETTERS:
    raise ValueError(f'scale is {scale}, expected a positive number with at most {_LETTERS} different integers.')


@functools.cache
def _cosines(horizon: int) -> Float[np.ndarray, 'f H']:
  """Return the matrix of the orthonormal cosine transform (DCT-II)."""
  frequency, time = np.mgrid[:horizon, :horizon]
  matrix = np.sqrt(2 / horizon) * np.cos(np.pi * frequency * (2 * time + 1) / (2 * horizon))
  matrix[0] = np.sqrt(1 / horizon)
  return matrix


def _most(horizon: int, scale: float) -> int:
  """Return the largest integer that a coefficient can become."""
  return int(np.rint(scale * np.sqrt(horizon) * (1 + 1e-9)))


def _letters(horizon: int, scale: float) -> list[str]:
  return [chr(_FIRST + i) for i in range(2 * _most(horizon, scale) + 1)]


def _alphabet(letters: Sequence[str]) -> str:
  """Return byte pairs without any merge."""
  tokenizers = tokenizer_json.package()
  ids = {letter: i for i, letter in enumerate(letters)}
  return tokenizers.Tokenizer(tokenizers.models.BPE(ids, [])).to_str()
