"""Tokenizer: texts to token ids and back, by SentencePiece.

RT-2 uses one of two vocabularies: the small one of this package (`Tokenizer()`), made of the project's own text by
data/vocabulary/train.py, or the file `spiece.model` of T5 or mT5 (`Tokenizer.load`). In both, padding is 0 and the end
of a text 1.

    'pick up 7 cubes'     ->  _pick _up _7 _cubes </s> 0 0 0        `encode(texts, length)`
    '1 128 91'            ->  _1 _128 _91 </s>                      each integer from 0 to 255 is one token

A checkpoint holds the vocabulary itself and its `id` (`to_json`).
"""
import base64
import functools
import hashlib
import importlib.resources
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from rtjax.runtime import limits

try:
  import sentencepiece
except ImportError as error:
  raise ImportError("the tokenizer needs sentencepiece: pip install 'rtjax[language]'.") from error

PAD, EOS = 0, 1
_FIX = 'Expected a SentencePiece model such as the spiece.model of T5 or mT5.'


class Tokenizer:
  """A SentencePiece tokenizer.

  Args:
    model: bytes of a SentencePiece model; None: the package's own.
    name: first part of the id.

  Attributes:
    model: the bytes; `Tokenizer(model, name)` makes an equal tokenizer.
    id: name and hash of the content: 'rtjax/0123456789ab'.
    size: number of tokens. A model's embedding table may be larger (T5's is).

  Raises:
    ValueError: the bytes are no SentencePiece model, or padding and the end of a text are not 0 and 1.
  """

  def __init__(self, model: bytes | None = None, name: str = 'rtjax'):
    self.model = _own() if model is None else bytes(model)
    self.id = f'{name}/{hashlib.sha256(self.model).hexdigest()[:12]}'
    self._name = name
    try:
      self._pieces = sentencepiece.SentencePieceProcessor(model_proto=self.model)
      self.size = len(self._pieces)
    except Exception as error:  # of several kinds, depending on what is wrong
      raise ValueError(f'the vocabulary {name!r} cannot be read: {error}. {_FIX}') from error
    if not self.size:
      raise ValueError(f'the vocabulary {name!r} is empty. {_FIX}')
    if (self._pieces.pad_id(), self._pieces.eos_id()) != (PAD, EOS):
      raise ValueError(f'the vocabulary {name!r} numbers padding {self._pieces.pad_id()} and the end of a text '
                       f'{self._pieces.eos_id()}, expected {PAD} and {EOS} as T5 does.')

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Tokenizer':
    """Load a SentencePiece file, or a folder with a `spiece.model`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is no SentencePiece model.
    """
    file = pathlib.Path(path).expanduser()
    file = file / 'spiece.model' if file.is_dir() else file
    if not file.is_file():
      raise FileNotFoundError(f'tokenizer {str(file)!r}: no such file. {_FIX}')
    limits.check_file(file, limits.JSON_BYTES)
    return cls(file.read_bytes(), file.parent.name if file.name == 'spiece.model' else file.stem)

  def to_json(self) -> dict[str, str]:
    """Return the vocabulary and its id, as checkpoints and exports hold them."""
    return {'id': self.id, 'model': base64.b64encode(self.model).decode()}

  @classmethod
  def from_json(cls, data: Mapping[str, str]) -> 'Tokenizer':
    """Return the tokenizer that `to_json` wrote.

    Raises:
      ValueError: it is damaged, or not the one that its id names.
    """
    if not isinstance(data, Mapping) or not all(isinstance(data.get(name), str) for name in ('id', 'model')):
      raise ValueError(f'the tokenizer stored with the weights is {repr(data)[:60]}, expected its id and its model.')
    tokenizer = cls(base64.b64decode(data['model']), data['id'].rpartition('/')[0])
    if tokenizer.id != data['id']:
      raise ValueError(f'the tokenizer stored with the weights is {tokenizer.id!r}, expected {data["id"]!r}: the file '
                       'was changed. Use the original checkpoint.')
    return tokenizer

  def __reduce__(self) -> tuple[type['Tokenizer'], tuple[bytes, str]]:
    return Tokenizer, (self.model, self._name)

  def tokens(self, text: str) -> list[int]:
    """Return the ids of a text, and EOS."""
    return [*self._pieces.encode(_checked([text])[0]), EOS]

  def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
    """Return int32 ids [B, length], with EOS and padding.

    Raises:
      ValueError: a text has more than `length` tokens, EOS included; nothing is truncated.
    """
    return padded([[*ids, EOS] for ids in self._pieces.encode(list(_checked(texts)))], texts, length)

  def decode(self, ids: np.ndarray | Sequence[Sequence[int]]) -> list[str]:
    """Return the texts of ids [B, L], each up to its EOS.

    Ids beyond the vocabulary, which a model with a larger table may give, become ' \u2047 ' like unknown tokens.
    """
    rows = np.asarray(ids)
    if rows.ndim != 2 or rows.dtype.kind not in 'iu' or (rows.size and rows.min() < 0):
      raise ValueError(f'ids are {rows.dtype} {list(rows.shape)}, expected integers of 0 or more [B, L].')
    unknown = self._pieces.unk_id()
    texts = []
    for row in rows.tolist():
      row = row[:row.index(EOS)] if EOS in row else row
      texts.append(self._pieces.decode([i if i < self.size else unknown for i in row if i != PAD]))
    return texts

  @functools.cached_property
  def integers(self) -> dict[int, int]:
    """Map from integers that are a single token to ids."""
    found = {}
    for token in range(self.size):
      digits = self._pieces.id_to_piece(token).removeprefix('\u2581')
      if self._pieces.id_to_piece(token) == f'\u2581{digits}' and digits.isdecimal() and digits == str(int(digits)):
        found[int(digits)] = token
    return found

  def action_ids(self, bins: int) -> np.ndarray:
    """Return a different token for each action bin, int32 [bins].

    If each of 0 to bins - 1 is a token, these: an action then reads '1 128 91 241 5 101 127'. Otherwise the tokens that
    the vocabulary's own text used least, which get a new meaning (RT-2, section 3.2, has both ways). Stored in the
    checkpoint.

    Raises:
      ValueError: there are fewer ordinary tokens than bins.
    """
    if bins < 1:
      raise ValueError(f'bins is {bins}, expected at least 1.')
    if set(range(bins)) <= set(self.integers):
      return np.array([self.integers[i] for i in range(bins)], np.int32)
    ordinary = [i for i in range(self.size) if not (
        self._pieces.is_control(i) or self._pieces.is_unknown(i) or self._pieces.is_byte(i)
        or self._pieces.is_unused(i))]
    if len(ordinary) < bins:
      raise ValueError(f'{bins} bins: the vocabulary {self.id!r} has {len(ordinary)} tokens to spare, and not all of '
                       'the integers. Use fewer bins or a larger vocabulary.')
    # Scores are logarithms of frequency, or minus the number of the merge. Of equal ones the last is the rarest.
    return np.array(sorted(ordinary, key=lambda i: (self._pieces.get_score(i), -i))[:bins], np.int32)


def padded(rows: Sequence[Sequence[int]], texts: Sequence[str], length: int) -> np.ndarray:
  """Pad ids to int32 [B, length]; raise ValueError for a long text."""
  out = np.full((len(rows), length), PAD, np.int32)
  for row, ids in enumerate(rows):
    if len(ids) > length:
      raise ValueError(f'the text {texts[row]!r} has {len(ids)} tokens, its end included, at most {length} are '
                       'allowed. Shorten it, or allow more.')
    out[row, :len(ids)] = ids
  return out


def _checked(texts: Sequence[str]) -> Sequence[str]:
  if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
    raise ValueError(f'texts is {texts!r}, expected a list of strings.')
  return texts


def _own() -> bytes:
  return (importlib.resources.files('rtjax.language') / 'vocabulary.model').read_bytes()
