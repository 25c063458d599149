"""Instruction encoders: from sentences to the vectors that condition a policy.

A policy understands the vectors of the encoder that it was trained with; its checkpoint holds the encoder's id. These
kinds exist:

    'hashed-ngrams/1'     built in: NumPy alone; knows spelling, not meaning
    'all-minilm-l6/2', 'universal-sentence-encoder-multilingual-q6/3'
                          know meaning; weights from packages of the extra 'language' (sentence_encoders.py)
    FOLDER                a Universal Sentence Encoder from TensorFlow Hub, unpacked (needs TensorFlow)
    TABLE.npz             vectors stored in a dataset, under the id of the encoder that made them

A table lets a policy take a dataset's instructions without their encoder. This command makes one of all splits:

    python -m rtjax.data.instruction_table DATASET --out table.npz

Vision-language models read token ids instead: `PromptEncoder`, made from the tokenizer in their checkpoint.

Every encoder reads the normal form of a text (`rtjax.language.text`) and refuses one without a word.
"""
import collections
import contextlib
import dataclasses
import difflib
import functools
import hashlib
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rtjax.language import prompts, sentence_encoders
from rtjax.language.formats import TEXT, PromptFormat
from rtjax.language.text import listed, normalized, tidy
from rtjax.runtime import limits
from rtjax.runtime.suggest import did_you_mean

if TYPE_CHECKING:
  from rtjax.language.tokenizer import Tokenizer  # needs sentencepiece

HASHED_NGRAMS = 'hashed-ngrams/1'
"""Id of the built-in encoder. The number rises when the vector of any text in normal form changes."""

SAME_VECTOR = 1e-6
"""Tolerance per element between vectors of one sentence; batches of other sizes round differently."""

_SIZE = 512


class InstructionEncoder(Protocol):
  """Map from texts to float32 embeddings or int32 token ids, [n, size].

  Calls raise ValueError for a text without a word.

  Attributes:
    id: name and version, stored in checkpoints as "embedding_id".
    size: length of a vector.
  """

  @property
  def id(self) -> str: ...
  @property
  def size(self) -> int: ...
  def __call__(self, texts: Sequence[str]) -> np.ndarray: ...


def open_encoder(spec: str | os.PathLike) -> InstructionEncoder:
  """Open an encoder of one of the kinds above.

  Raises:
    FileNotFoundError: it is neither the id of an encoder nor an existing folder or file.
    ValueError: the folder or file is no encoder or table.
    ImportError: the encoder's package is not installed.
  """
  require(spec)
  if spec in NAMED:
    return _open_named(str(spec))
  path = pathlib.Path(spec).expanduser()
  return UniversalSentenceEncoder(path) if path.is_dir() else Table.load(path)


def require(spec: str | os.PathLike) -> None:
  """Require the id of an encoder, or an existing folder or file.

  Raises FileNotFoundError.
  """
  if spec not in NAMED and not pathlib.Path(spec).expanduser().exists():
    raise FileNotFoundError(
        f'instruction encoder {str(spec)!r}: no such folder or file. Expected one of {list(NAMED)}, a folder of a '
        'Universal Sentence Encoder from TensorFlow Hub, or an .npz table.' + did_you_mean(spec, list(NAMED)))


def for_policy(embedding_id: str, encoder: InstructionEncoder | None = None) -> InstructionEncoder:
  """Return the given encoder of a policy, or that of its id.

  Args:
    embedding_id: id in the policy's checkpoint; '' where it names none, which accepts any encoder.
    encoder: from `open_encoder`, or any other of the protocol.

  Raises:
    ValueError: the ids differ, or the policy needs an encoder of a folder and none was given.
    ImportError: none was given, and the package of the id is not installed.
  """
  if encoder is None and embedding_id in NAMED:
    return _open_named(embedding_id)
  needed = repr(embedding_id) if embedding_id else 'an unnamed encoder'
  if encoder is None:
    raise ValueError(
        f'this policy was trained on instruction embeddings of {needed}, which is not built in. Pass encoder=, opened '
        'by rtjax.language.instructions.open_encoder from a folder of that encoder or from a table of its vectors '
        '(python -m rtjax.data.instruction_table DATASET --out table.npz makes one); or pass embedding= in place of '
        'the text.')
  if embedding_id and encoder.id != embedding_id:
    raise ValueError(f'this policy was trained on instruction embeddings of {needed}, the encoder given is '
                     f'{encoder.id!r}, whose vectors mean nothing to it. Pass one of {needed}.')
  return encoder


class HashedNgrams:
  """Built-in encoder; see `hashed_ngrams`."""
  id = HASHED_NGRAMS
  size = _SIZE

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    return np.array([hashed_ngrams(text) for text in listed(texts)], np.float32).reshape(-1, _SIZE)


def hashed_ngrams(text: str) -> np.ndarray:
  """Hash a sentence's words, word pairs and letter triples into a vector.

  Each n-gram adds +1 or -1 at one position. Similar sentences get similar vectors, equal on every machine and Python
  version. The vector knows no meaning: 'grab' is as far from 'grasp' as their spelling. Case and punctuation are
  ignored.

  Returns:
    float32 [512] of unit norm.

  Raises:
    ValueError: the text carries no word.
  """
  words = re.findall(r'\w+', normalized(text).lower())
  pairs = [f'{a} {b}' for a, b in itertools.pairwise(words)]
  triples = [f'<{word}>'[i:i + 3] for word in words for i in range(len(word))]
  vector = np.zeros(_SIZE, np.float32)
  for kind, grams in (('word', words), ('pair', pairs), ('letters', triples)):
    for gram in grams:
      number = int.from_bytes(hashlib.blake2b(f'{kind}:{gram}'.encode(), digest_size=8).digest(), 'little')
      vector[(number >> 1) % _SIZE] += 1 if number & 1 else -1
  return vector / max(np.linalg.norm(vector), np.float32(1e-12))


NAMED: dict[str, Callable[[], InstructionEncoder]] = {
    HASHED_NGRAMS: HashedNgrams, sentence_encoders.MINILM: sentence_encoders.MiniLM,
    sentence_encoders.USE_MULTILINGUAL: sentence_encoders.MultilingualUSE}
"""Encoders that their id alone opens."""


@functools.cache
def _open_named(name: str) -> InstructionEncoder:
  return NAMED[name]()


class UniversalSentenceEncoder:
  """Universal Sentence Encoder from TensorFlow Hub: vectors [n, 512].

  Its files do not tell the member of the family, and vectors of different members do not mix. The path must tell: it
  ends as the address, `universal-sentence-encoder-large/5`, or as the archive, `universal-sentence-encoder-large_5`.

  Raises:
    ValueError: the path has another ending, or the folder holds no such SavedModel.
    ImportError: TensorFlow is not installed.
  """

  def __init__(self, folder: str | os.PathLike):
    path = pathlib.Path(folder).expanduser().absolute()
    if not (path / 'saved_model.pb').is_file():
      held = sorted(p.name for p in path.iterdir())[:5] if path.is_dir() else 'nothing'
      raise ValueError(f'{folder} is no Universal Sentence Encoder: it holds {held}, expected a SavedModel '
                       '(saved_model.pb). Name the folder that the archive from TensorFlow Hub was unpacked into.')
    named = re.search(r'(universal-sentence-encoder[a-z-]*)[/_](\d+)$', path.as_posix())
    if not named:
      raise ValueError(f'{folder}: the path does not tell which Universal Sentence Encoder this is. Rename the folder, '
                       "or link to it, so that its path ends in name and version, such as "
                       "'universal-sentence-encoder-large/5', which the released RT-1 policies need.")
    self.id = '/'.join(named.groups())
    self._model = _load_saved_model(path)
    if not callable(self._model):
      raise ValueError(f'{folder}: this SavedModel cannot be called with texts, expected a Universal Sentence Encoder '
                       'from TensorFlow Hub, for TensorFlow 2.')
    self.size = self(['size']).shape[-1]

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    if not listed(texts):
      return np.zeros((0, self.size), np.float32)
    vectors = np.asarray(self._model([normalized(text) for text in texts]), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts):
      raise ValueError(f'{self.id}: the SavedModel gave {vectors.shape} for {len(texts)} texts, expected '
                       f'[{len(texts)}, 512]: it is no Universal Sentence Encoder.')
    return vectors


class PromptEncoder:
  """Encoder of instructions as prompts: int32 token ids [n, size], padded.

  Args:
    tokenizer: its id is the encoder's.
    length: most tokens of a prompt.
    form: ids around the text, those of the model's `prompt_format`.
  """

  def __init__(self, tokenizer: 'Tokenizer', length: int, form: PromptFormat = TEXT):
    self.id, self.size, self._tokenizer, self._form = tokenizer.id, length, tokenizer, form

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    full = [prompts.prompt('robot', normalized(text)) for text in listed(texts)]
    return self._tokenizer.encode(full, self.size, self._form)


@dataclasses.dataclass(frozen=True)
class Table:
  """Sentences and their vectors; looks up the sentence, in any Unicode form.

  Attributes:
    id: encoder that made the vectors.
    texts: n different sentences.
    vectors: float32 [n, size], finite.
  """
  id: str
  texts: tuple[str, ...]
  vectors: np.ndarray

  def __post_init__(self) -> None:
    vectors = np.asarray(self.vectors, np.float32)
    if not self.texts or vectors.ndim != 2 or len(vectors) != len(self.texts):
      raise ValueError(f'Table: vectors has shape {vectors.shape} for {len(self.texts)} texts, expected a row for '
                       'each, and at least one.')
    if not np.isfinite(vectors).all():
      bad = self.texts[np.argwhere(~np.isfinite(vectors))[0, 0]]
      raise ValueError(f'Table: the vector of {bad!r} holds NaN or infinite numbers.')
    object.__setattr__(self, 'vectors', vectors)

  @property
  def size(self) -> int:
    return self.vectors.shape[1]

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    return self.vectors[[self._row(text) for text in listed(texts)]].reshape(-1, self.size)

  @functools.cached_property
  def _rows(self) -> dict[str, int]:
    """Row of each sentence, as stored and in normal form."""
    exact = {text: row for row, text in enumerate(self.texts)}
    forms: dict[str, int] = {}
    for text, row in exact.items():
      with contextlib.suppress(ValueError):  # Undecodable ones remain, since an old table may hold some.
        forms.setdefault(tidy(text), row)
    return forms | exact

  def _row(self, text: str) -> int:
    form = normalized(text)
    text = text if text in self._rows else form
    if text not in self._rows:
      nearest = difflib.get_close_matches(text, self.texts, 3, 0)
      raise ValueError(f'the instruction {text!r} is not among the {len(self.texts)} of this table of {self.id!r}. '
                       f'The nearest are {nearest}. Use one of them, or the encoder itself in place of the table.')
    return self._rows[text]

  def save(self, path: str | os.PathLike) -> None:
    """Write the table as .npz."""
    with open(path, 'wb') as file:  # NumPy would add .npz to a name without it
      np.savez(file, id=np.array(self.id), texts=np.array(self.texts), vectors=self.vectors)

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Table':
    """Read a table that `save` wrote; nothing in the file is executed.

    Raises:
      ValueError: the file is of another kind, or damaged.
    """
    limits.check_file(path)
    try:
      with limits.open_npz(path) as held:
        id_, texts, vectors = (limits.npz_array(held, name, path) for name in ('id', 'texts', 'vectors'))
        return cls(str(id_), tuple(map(str, texts)), vectors)
    except limits.BoundError:
      raise
    except limits.NPZ_DAMAGE as error:
      raise ValueError(f'{path} is no table of instructions: {error}. Expected an .npz that python -m '
                       'rtjax.data.instruction_table wrote.') from error


def collect(embedding_id: str, pairs: Iterable[tuple[str, np.ndarray]]) -> Table:
  """Return the table of (sentence, vector) pairs.

  All vectors of a sentence must be equal.

  Raises:
    ValueError: there is no pair, or vectors of one sentence differ by more than `SAME_VECTOR`.
  """
  first: dict[str, np.ndarray] = {}
  differing: dict[str, float] = collections.defaultdict(float)
  for text, vector in pairs:
    if not np.isfinite(vector).all():
      raise ValueError(f'a vector of {text!r} holds NaN or infinite numbers. Fix the dataset.')
    difference = float(np.abs(first.setdefault(text, vector) - vector).max())
    if difference > SAME_VECTOR:
      differing[text] = max(difference, differing[text])
  if differing:
    worst = max(differing, key=lambda text: differing[text])
    raise ValueError(f'{len(differing)} of {len(first)} sentences have several vectors, which differ by up to '
                     f'{differing[worst]:.2g} ({worst!r}); expected one for each, within {SAME_VECTOR}. Were they made '
                     'by several encoders, or augmented? Fix the dataset, or use the encoder itself.')
  if not first:
    raise ValueError('there is no sentence to put into a table: the dataset has no step.')
  return Table(embedding_id, tuple(first), np.stack(list(first.values())))


def _load_saved_model(path: pathlib.Path) -> Any:
  try:
    import tensorflow as tf
  except ImportError as error:
    raise ImportError('a Universal Sentence Encoder needs TensorFlow: pip install rtjax[data]. Without it, make a '
                      'table elsewhere (python -m rtjax.data.instruction_table) and take that along.') from error
  with contextlib.suppress(RuntimeError):  # TensorFlow is in use already, as its user set it up
    tf.config.set_visible_devices([], 'GPU')  # the GPU belongs to JAX
  limits.check_all_downloaded(path)
  try:
    return tf.saved_model.load(str(path))
  except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
    raise ValueError(f'{path}: this SavedModel cannot be read: {error}. Unpack the archive again.') from error

