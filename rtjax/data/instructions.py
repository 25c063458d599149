"""Instructions as vectors without a pretrained encoder: hashed n-grams, NumPy only."""
import hashlib
import itertools
import re

import numpy as np

HASHED_NGRAMS = 'hashed-ngrams/1'
"""The encoder's id. The number rises when a text would get another vector."""

_SIZE = 512


def hashed_ngrams(text: str) -> np.ndarray:
  """A sentence's words, pairs of neighbours and letter triples, each hashed to a signed place in a vector.

  Similar sentences get similar vectors, and every process, machine and Python version the same ones. It knows no
  meaning: 'grab' is as far from 'grasp' as spelling makes it. Case and punctuation are ignored.

  Returns:
    float32 [512] of unit norm; zeros for a text without words.
  """
  words = re.findall(r'\w+', text.lower())
  pairs = [f'{a} {b}' for a, b in itertools.pairwise(words)]
  triples = [f'<{word}>'[i:i + 3] for word in words for i in range(len(word))]
  vector = np.zeros(_SIZE, np.float32)
  for kind, grams in (('word', words), ('pair', pairs), ('letters', triples)):
    for gram in grams:
      number = int.from_bytes(hashlib.blake2b(f'{kind}:{gram}'.encode(), digest_size=8).digest(), 'little')
      vector[(number >> 1) % _SIZE] += 1 if number & 1 else -1
  return vector / max(np.linalg.norm(vector), np.float32(1e-12))
