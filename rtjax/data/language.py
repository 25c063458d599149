"""Instruction vectors that are computed while episodes are read."""
import functools

import numpy as np

from rtjax.data.config import NO_VECTORS
from rtjax.language.instructions import InstructionEncoder, open_encoder

# 130,000 different sentences, as Language-Table has, in 270 MB.
_MOST_SENTENCES = 1 << 17

class ComputedVectors:
  """Vectors of instructions by an encoder, each sentence encoded once.

  Attributes:
    id, size: of the encoder.
  """

  def __init__(self, encoder: InstructionEncoder):
    self.id, self.size = encoder.id, encoder.size
    self._vector = functools.lru_cache(_MOST_SENTENCES)(lambda text: encoder([text])[0])

  def __call__(self, texts: np.ndarray) -> np.ndarray:
    """Return float32 [steps, size]; zero where there is no instruction."""
    none = np.zeros(self.size, np.float32)
    return np.array([self._vector(text) if text else none for text in texts], np.float32).reshape(-1, self.size)


class NoVectors:
  """Vectors of size 0, for models that read the text itself."""
  id = ''
  size = 0

  def __call__(self, texts: np.ndarray) -> np.ndarray:
    return np.zeros((len(texts), 0), np.float32)


Vectors = ComputedVectors | NoVectors


@functools.lru_cache
def open_vectors(name: str) -> Vectors | None:
  """Return the vectors that `DataConfig.encoder` names; None without a name.

  Raises:
    FileNotFoundError, ValueError: see `open_encoder`.
  """
  if not name:
    return None
  return NoVectors() if name == NO_VECTORS else ComputedVectors(open_encoder(name))


def no_vectors_error(dataset: str, found: str) -> ValueError:
  """Return the error of a dataset without the instruction vectors."""
  return ValueError(f'{dataset} stores {found}. Name the encoder that computes them while reading: --pipeline.encoder '
                    'hashed-ngrams/1 (built in), all-minilm-l6/2, a folder of a Universal Sentence Encoder, or an .npz '
                    'table. RT-2 reads the texts and needs none.')
