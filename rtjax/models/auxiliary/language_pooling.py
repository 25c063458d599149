"""Tokens that the instruction asks for: an addition to the paper, for networks that are trained from scratch.

TokenLearner chooses positions by what is there; that its features depend on the instruction is left to FiLM. Here the
instruction points directly: n queries, projections of it, are compared with the features of every position, and each
gathers a token from where it fits. Features know their place, so that the token tells where the thing is:

    features [B, h, w, D] + projection of (y, x)            [B, h * w, D]
    instruction [B, E]                                      queries [B, n, D]
    softmax over positions of (queries . norm(features))    [B, n, h * w]
    tokens                                                  [B, n, D]
"""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float


class QueriedTokens(nnx.Module):
  """See the module's docstring. `place` and then the call, so that others may use the placed features too."""

  def __init__(self, embedding_size: int, width: int, tokens: int, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    self.coordinates = nnx.Linear(2, width, use_bias=False, dtype=dtype, rngs=rngs)
    self.norm = nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=rngs)
    self.query = nnx.LinearGeneral(embedding_size, (tokens, width), dtype=dtype, rngs=rngs)

  def place(self, features: Float[Array, 'B h w D']) -> Float[Array, 'B N D']:
    """The features of each position, which know where it is: y and x run from -1 to 1."""
    _, height, width, size = features.shape
    places = np.stack(np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing='ij'), -1)
    return (features + self.coordinates(jnp.asarray(places, features.dtype))).reshape(-1, height * width, size)

  def scores(self, placed: Float[Array, 'B N D'], embeddings: Float[Array, 'B E']) -> Float[Array, 'B n N']:
    """How well each position fits what is asked for, as logits over positions, float32."""
    keys, queries = self.norm(placed), self.query(embeddings)
    scores = jnp.einsum('bnd,bNd->bnN', queries, keys) / np.sqrt(keys.shape[-1]).astype(keys.dtype)
    return scores.astype(jnp.float32)

  def gather(self, placed: Float[Array, 'B N D'], scores: Float[Array, 'B n N']) -> Float[Array, 'B n D']:
    """The tokens, in which each position has the share that its score gives it."""
    return jnp.einsum('bnN,bNd->bnd', jax.nn.softmax(scores, axis=-1).astype(placed.dtype), placed)

  def __call__(self, placed: Float[Array, 'B N D'], embeddings: Float[Array, 'B E']) -> Float[Array, 'B n D']:
    return self.gather(placed, self.scores(placed, embeddings))
