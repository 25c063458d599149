"""Cache of image tokens, so that each frame is encoded once."""
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int


class FrameCache(NamedTuple):
  """Image tokens of the frames so far.

  Attributes:
    tokens: tokens of each frame, computed with the instruction of its time.
    num_frames: number of frames so far, up to the number of slots.
  """
  tokens: Float[Array, 'B t N D']
  num_frames: Int[Array, ' B']

  @classmethod
  def empty(cls, batch_size: int, slots: int, tokens: int, width: int, dtype: DTypeLike) -> 'FrameCache':
    """Return the cache before the first frame; `tokens` is N."""
    return cls(jnp.zeros((batch_size, slots, tokens, width), dtype), jnp.zeros(batch_size, jnp.int32))

  def append(self, newest: Float[Array, 'B 1 N D']
             ) -> tuple[Float[Array, 'B T N D'], Bool[Array, 'B T'], 'FrameCache']:
    """Return all tokens, the newest last, frame mask and next cache.

    T is one more than the slots; the oldest frame leaves the cache.
    """
    slots = self.tokens.shape[1]
    tokens = jnp.concatenate([self.tokens, newest], 1)
    frame_mask = self.num_frames[:, None] >= jnp.arange(slots, -1, -1)  # by age
    return tokens, frame_mask, FrameCache(tokens[:, 1:], jnp.minimum(self.num_frames + 1, slots))
