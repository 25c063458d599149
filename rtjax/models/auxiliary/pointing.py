"""Pointing loss: language attention on the cell of a pointing answer."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def pointing_loss(scores: Float[Array, 'B n N'], size: tuple[int, int], points: Int[Array, 'B 2'],
                  grid: Int[Array, ' B']) -> tuple[Float[Array, ' B'], Float[Array, ' B'], Float[Array, ' B']]:
  """Return loss, hit and mask of each row.

  The loss is the negative log of the first query's attention on the cell that the answer names. Only the first query
  points, so that the others stay free for comparisons. An instruction uses the words of the pointing prompt, so that
  attention on 'the red cube' in a pointing prompt carries over to 'pick up the red cube'.

  Args:
    scores: attention logits of language-attention pooling over the positions of a feature map.
    size: height and width of that map.
    points: column and row of the cell, -1 where a row asks for none.
    grid: cells across, and down, of the grid that `points` refers to.

  Returns:
    loss; 1 where the most attended position lies in the cell; 1 where a row asks to point.
  """
  asked = points[:, :1] >= 0
  column, row = (jnp.arange(length) * grid[:, None] // length == points[:, axis, None]
                 for axis, length in enumerate(size[::-1]))
  inside = (row[:, :, None] & column[:, None]).reshape(len(points), -1) | ~asked
  log_weights = jax.nn.log_softmax(scores[:, 0])
  loss = -jax.nn.logsumexp(jnp.where(inside, log_weights, -jnp.inf), 1)
  hit = jnp.take_along_axis(inside, jnp.argmax(log_weights, 1, keepdims=True), 1)
  return loss, hit[:, 0].astype(jnp.float32), asked[:, 0].astype(jnp.float32)
