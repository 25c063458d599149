"""Vocabularies in the file `tokenizer.json`, by the package `tokenizers`.

Gemma's is byte pairs with a fallback to bytes; T5's, a unigram model. The class has the methods of SentencePiece's
processor that `Tokenizer` uses, so that both kinds of files serve it.

Two settings of such files are undone: truncation, since nothing is cut, and the template of special tokens, since a
model's `PromptFormat` holds them. Special tokens written out in a text stay text, as in SentencePiece: an instruction
cannot end itself with '<eos>'.
"""
import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rtjax.runtime import limits

_BYTE = re.compile('<0x[0-9A-F]{2}>')
_MODELS = 'BPE', 'Unigram'


class TokenizerJson:
  """A vocabulary read from the bytes of a tokenizer.json.

  Raises:
    ValueError: they are no such file, or hold another kind of model.
    ImportError: the package `tokenizers` is not installed.
  """

  def __init__(self, content: bytes):
    package()
    data = limits.json_object(limits.parse_json(content, 'tokenizer.json'), 'tokenizer.json')
    model = limits.json_object(data.get('model'), 'its entry "model"')
    # Old files of byte pairs do not name the type.
    kind = model.get('type') or ('BPE' if 'merges' in model else None)
    if kind not in _MODELS:
      raise ValueError(f'its model is of the type {limits.short(kind)}, expected one of {list(_MODELS)}')
    self._tokenizer = parse(content.decode())
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    self._tokenizer.encode_special_tokens = True
    self._added = self._tokenizer.get_added_tokens_decoder()
    self._ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
    self._by_id = {token: piece for piece, token in self._ids.items()}
    size = max(self._by_id, default=-1) + 1
    if size > 2 * len(self._ids):
      raise ValueError(f'its ids reach {size - 1}, and it has {len(self._ids)} tokens')
    self._size = size
    self._scores = [score for _, score in model['vocab']] if kind == 'Unigram' else None

  def __len__(self) -> int:
    return self._size

  def encode(self, texts: Sequence[str]) -> list[list[int]]:
    """Return the ids of each text, without special ones."""
    with _value_errors():
      return [found.ids for found in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

  def decode(self, ids: Sequence[int]) -> str:
    """Return a text; unknown tokens become ' \u2047 ', control tokens nothing."""
    known: list[list[int]] = [[]]
    for token in ids:
      if self.is_unknown(token) or token not in self._by_id:
        known.append([])
      elif not self.is_control(token):
        known[-1].append(token)
    with _value_errors():
      return ' \u2047 '.join(self._tokenizer.decode(part, skip_special_tokens=False) for part in known)

  def id_to_piece(self, token: int) -> str:
    return self._by_id.get(token, '')

  def piece_to_id(self, piece: str) -> int:
    return self._ids.get(piece, self.unk_id())

  def get_score(self, token: int) -> float:
    """Return a number that is lower for rarer tokens.

    Byte pairs are numbered in the order of their merges. Added tokens, which no text was counted for, come first.
    """
    if token in self._added:
      return 0.0
    return -float(token) if self._scores is None else self._scores[token]

  def is_control(self, token: int) -> bool:
    return token in self._added and self._added[token].special and not self.is_unknown(token)

  def is_unknown(self, token: int) -> bool:
    return token == self.unk_id()

  def is_byte(self, token: int) -> bool:
    return bool(_BYTE.fullmatch(self.id_to_piece(token)))

  def is_unused(self, token: int) -> bool:
    return token not in self._by_id

  def pad_id(self) -> int:
    return self._ids.get('<pad>', -1)

  def eos_id(self) -> int:
    return self._ids.get('<eos>', self._ids.get('</s>', -1))

  def unk_id(self) -> int:
    return self._ids.get('<unk>', -1)


def package() -> Any:
  """Import the package `tokenizers`."""
  try:
    import tokenizers
  except ImportError as error:
    raise ImportError("a tokenizer.json, and byte pairs of actions, need the package tokenizers: pip install "
                      "'rtjax[language]'. SentencePiece models (tokenizer.model, spiece.model) are read without it."
                      ) from error
  return tokenizers


def parse(text: str) -> Any:
  """Return the `tokenizers.Tokenizer` of a JSON text.

  Raises:
    ValueError: it is none.
  """
  with _value_errors():
    return package().Tokenizer.from_str(text)


@contextlib.contextmanager
def _value_errors() -> Iterator[None]:
  """Turn failures of the library into ValueError, panics too."""
  try:
    yield
  except ImportError:
    raise
  except BaseException as error:
    if isinstance(error, Exception) or type(error).__name__ == 'PanicException':
      raise ValueError(f'the tokenizer.json fails: {error}') from error
    raise
