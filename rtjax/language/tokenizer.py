"""Tokenizer: texts to token ids and back.

RT-2 uses the small vocabulary of this package (`Tokenizer()`), made of the project's own text by
data/vocabulary/train.py, or that of a published model (`Tokenizer.load`):

    T5, mT5                    spiece.model, or tokenizer.json
    PaliGemma, T5Gemma 2       tokenizer.model, or tokenizer.json

In all of them padding is 0 and the end of a text 1. Ids around a prompt depend on the model (`formats.PromptFormat`).

    'pick up 7 cubes'     ->  _pick _up _7 _cubes </s> 0 0 0        `encode(texts, length)`
    '1 128 91'            ->  _1 _128 _91 </s>                      the package's own: each of 0 to 255 is one token

A checkpoint holds the vocabulary itself and its `id` (`to_json`).
"""
import base64
import functools
import hashlib
import importlib.resources
import os
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtjax.language.formats import TEXT, ActionVocabulary, PromptFormat
from rtjax.language.tokenizer_json import TokenizerJson
from rtjax.runtime import limits

try:
  import sentencepiece
except ImportError as error:
  raise ImportError("the tokenizer needs sentencepiece: pip install 'rtjax[language]'.") from error

PAD, EOS = 0, 1
FILES = 'spiece.model', 'tokenizer.model', 'tokenizer.json'
"""Names of a published model's vocabulary; of several the first is read."""
_FIX = ('Expected a SentencePiece model such as the spiece.model of T5 or mT5 or the tokenizer.model of Gemma, or a '
        'tokenizer.json.')
_MEANINGFUL = re.compile(r'<(loc|seg)\d+>')


class Tokenizer:
  """A tokenizer.

  Args:
    model: bytes of a SentencePiece model or of a tokenizer.json; None: the package's own.
    name: first part of the id.
    source: file that it was read from, for messages.

  Attributes:
    source: see above.
    model: the bytes; `Tokenizer(model, name)` makes an equal tokenizer.
    id: name and hash of the content: 'rtjax/0123456789ab'.
    size: number of tokens. A model's embedding table may be larger (T5's is).

  Raises:
    ValueError: the bytes are neither, or padding and the end of a text are not 0 and 1.
    ImportError: a tokenizer.json needs the package `tokenizers`.
  """

  def __init__(self, model: bytes | None = None, name: str = 'rtjax', source: str = ''):
    self.model = _own() if model is None else bytes(model)
    self.id = f'{name}/{hashlib.sha256(self.model).hexdigest()[:12]}'
    self.source, self._name = source, name
    try:
      self._pieces: Any = (TokenizerJson(self.model) if self.is_json else
                           sentencepiece.SentencePieceProcessor(model_proto=self.model))
      self.size = len(self._pieces)
    except ImportError:
      raise
    except Exception as error:  # of several kinds, depending on what is wrong
      raise ValueError(f'the vocabulary {name!r} cannot be read: {error}. {_FIX}') from error
    if not self.size:
      raise ValueError(f'the vocabulary {name!r} is empty. {_FIX}')
    if (self._pieces.pad_id(), self._pieces.eos_id()) != (PAD, EOS):
      raise ValueError(f'the vocabulary {name!r} numbers padding {self._pieces.pad_id()} and the end of a text '
                       f'{self._pieces.eos_id()}, expected {PAD} and {EOS} as T5 does.')

  def __str__(self) -> str:
    return f'the tokenizer {self.id!r}' + (f' of {self.source}' if self.source else '')

  @property
  def is_json(self) -> bool:
    """Whether the vocabulary is a tokenizer.json."""
    return self.model.startswith(b'{')  # a SentencePiece model begins with the tag of its first piece

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Tokenizer':
    """Load one of FILES, or a folder with one.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is of another kind.
    """
    file = find(path)
    if not file.is_file():
      raise FileNotFoundError(f'tokenizer {str(file)!r}: no such file. {_FIX}')
    limits.check_file(file, limits.JSON_BYTES)
    try:
      return cls(file.read_bytes(), file.parent.name if file.name in FILES else file.stem, str(file))
    except ValueError as error:
      raise ValueError(f'{file}: {error}') from error

  def to_json(self) -> dict[str, str]:
    """Return the vocabulary and its id, as checkpoints and exports hold them."""
    if not self.is_json:
      return {'id': self.id, 'model': base64.b64encode(self.model).decode()}
    # Gemma's has 33 MB of JSON.
    return {'id': self.id, 'model': base64.b64encode(zlib.compress(self.model)).decode(), 'compression': 'zlib'}

  @classmethod
  def from_json(cls, data: Mapping[str, str]) -> 'Tokenizer':
    """Return the tokenizer that `to_json` wrote.

    Raises:
      ValueError: it is damaged, or not the one that its id names.
    """
    if not isinstance(data, Mapping) or not all(isinstance(data.get(name), str) for name in ('id', 'model')):
      raise ValueError(f'the tokenizer stored with the weights is {repr(data)[:60]}, expected its id and its model.')
    tokenizer = cls(_stored(data), data['id'].rpartition('/')[0])
    if tokenizer.id != data['id']:
      raise ValueError(f'the tokenizer stored with the weights is {tokenizer.id!r}, expected {data["id"]!r}: the file '
                       'was changed. Use the original checkpoint.')
    return tokenizer

  def __reduce__(self) -> tuple[type['Tokenizer'], tuple[bytes, str]]:
    return Tokenizer, (self.model, self._name)

  def tokens(self, text: str, form: PromptFormat = TEXT) -> list[int]:
    """Return the ids of a text, by default with EOS."""
    return form(self._pieces.encode(list(_checked([text])))[0])

  def encode(self, texts: Sequence[str], length: int, form: PromptFormat = TEXT) -> np.ndarray:
    """Return int32 ids [B, length], in a format (by default with EOS) and padded.

    Raises:
      ValueError: a text has more than `length` tokens, those of the format included; nothing is truncated.
    """
    return padded([form(ids) for ids in self._pieces.encode(list(_checked(texts)))], texts, length)

  @property
  def used_size(self) -> int:
    """Number of tokens, without control tokens at the end."""
    return next((i + 1 for i in reversed(range(self.size)) if not self._pieces.is_control(i)), 0)

  def check_pieces(self, pieces: Mapping[int, str]) -> None:
    """Raise ValueError unless these ids are these tokens."""
    for token, piece in pieces.items():
      found = self._piece(token)
      if found != piece:
        raise ValueError(f'{self} has {found!r} at id {token}, this backbone needs {piece!r} there. Use the tokenizer '
                         'that the backbone was trained with.')

  def agrees(self, other: 'Tokenizer') -> bool:
    """Return whether the ids of both are the same tokens.

    Control tokens may have other names, and the larger vocabulary further tokens.
    """
    return all(self._piece(i) == other._piece(i) or self._pieces.is_control(i) or other._pieces.is_control(i)
               for i in range(min(self.size, other.size)))

  def _piece(self, token: int) -> str:
    return self._pieces.id_to_piece(token) if token < self.size else 'missing'

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

  def action_ids(self, bins: int, vocabulary: ActionVocabulary = 'auto') -> np.ndarray:
    """Return a different token for each action bin, int32 [bins].

    Stored in the checkpoint.

    Args:
      vocabulary: 'integers', the tokens of 0 to bins - 1: an action then reads '1 128 91 241 5 101 127' (RT-2 on
        PaLI-X, section 3.2); 'rarest', the tokens that the vocabulary's own text used least, the rarest first, which
        get a new meaning (RT-2 on PaLM-E; OpenVLA, the last ones of its vocabulary); 'loc', '<loc0000>' and its
        successors, PaliGemma's tokens for coordinates; 'auto', 'integers' where all are tokens, otherwise 'rarest'.

    Raises:
      ValueError: the vocabulary lacks such tokens.
    """
    if bins < 1:
      raise ValueError(f'bins is {bins}, expected at least 1.')
    if vocabulary == 'rarest' or (vocabulary == 'auto' and not set(range(bins)) <= set(self.integers)):
      return self._rarest(bins)
    if vocabulary not in ('auto', 'integers', 'loc'):
      raise ValueError(f"the action vocabulary is {vocabulary!r}, expected 'auto', 'integers', 'rarest' or 'loc'.")
    tokens = self._locations if vocabulary == 'loc' else self.integers
    missing = [i for i in range(bins) if i not in tokens]
    if missing:
      names = "tokens '<loc0000>' to" if vocabulary == 'loc' else 'integers 0 to'
      raise ValueError(f'{bins} bins need the {names} {bins - 1} as tokens; the vocabulary {self.id!r} lacks '
                       f"{len(missing)} of them, first that of {missing[0]}. Use the action vocabulary 'rarest', or "
                       'fewer bins.')
    return np.array([tokens[i] for i in range(bins)], np.int32)

  @property
  def _locations(self) -> dict[int, int]:
    """Map from n to the id of PaliGemma's token <loc n>."""
    ids = ((i, self._pieces.piece_to_id(f'<loc{i:04}>')) for i in range(1024))
    return {i: token for i, token in ids if self._pieces.id_to_piece(token) == f'<loc{i:04}>'}

  def _rarest(self, bins: int) -> np.ndarray:
    ordinary = [i for i in range(self.size) if not (
        self._pieces.is_control(i) or self._pieces.is_unknown(i) or self._pieces.is_byte(i)
        or self._pieces.is_unused(i) or _MEANINGFUL.fullmatch(self._pieces.id_to_piece(i)))]
    if len(ordinary) < bins:
      raise ValueError(f'{bins} bins: the vocabulary {self.id!r} has {len(ordinary)} tokens to spare, and not all of '
                       'the integers. Use fewer bins or a larger vocabulary.')
    # Scores are logarithms of frequency, or minus the number of the merge. Of equal ones the last is the rarest.
    return np.array(sorted(ordinary, key=lambda i: (self._pieces.get_score(i), -i))[:bins], np.int32)


def find(path: str | os.PathLike) -> pathlib.Path:
  """Return the path, or in a folder the first of FILES."""
  path = pathlib.Path(path).expanduser()
  return next((path / name for name in FILES if (path / name).is_file()), path)


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


def _stored(data: Mapping[str, str]) -> bytes:
  try:
    model = base64.b64decode(data['model'])
    if data.get('compression') == 'zlib':
      limits.check_inflated(model, limits.JSON_BYTES)
      model = zlib.decompress(model)
  except zlib.error as error:
    raise ValueError(f'the tokenizer stored with the weights is damaged: {error}. Use the original checkpoint.'
                     ) from error
  return model


def _own() -> bytes:
  return (importlib.resources.files('rtjax.language') / 'vocabulary.model').read_bytes()
