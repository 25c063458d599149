"""Batch tokenisation in the input pipeline.

tensorflow-text, where it is installed, encodes a batch with SentencePiece in one call without holding Python's lock.
Otherwise the tokenizer itself does; both give the same ids (tested).
"""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rtjax.data.tf import tf
from rtjax.language.formats import TEXT, PromptFormat
from rtjax.language.tokenizer import Tokenizer, padded

Encoder = Callable[[Sequence[str], int, PromptFormat], np.ndarray]


def encoder(tokenizer: Tokenizer) -> Encoder:
  """Return the fastest available form of `tokenizer.encode`; threads may share it."""
  if tokenizer.is_json:
    return tokenizer.encode
  try:
    import tensorflow_text
  except (ImportError, tf.errors.NotFoundError):  # no wheel for this platform; one for another TensorFlow
    return tokenizer.encode
  sentencepiece: Any = tensorflow_text.SentencepieceTokenizer(model=tokenizer.model)

  def encode(texts: Sequence[str], length: int, form: PromptFormat = TEXT) -> np.ndarray:
    ids = sentencepiece.tokenize(tf.constant(list(texts), tf.string)).to_list()
    return padded([form(row) for row in ids], texts, length)

  return encode
