"""The hindsight waypoint: an addition to the paper that tells the image tokens what to find.

Where will the gripper be when its opening is next commanded to change, or else at the end? Every demonstration answers
that in hindsight, from what was recorded anyway (`rtjax.data`, `waypoints`). For 'pick up X' it is where X is. A linear
head on a frame's tokens has to tell it; its squared error is added to the loss, and nothing else looks at the head.
"""
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rtjax.models.layers.common import Standardize


class WaypointHead(nnx.Module):
  """All tokens of a frame to x, y and z of its waypoint, in standard deviations of where the gripper is."""

  def __init__(self, tokens: int, width: int, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    self.scale = Standardize(3)
    self.linear = nnx.Linear(tokens * width, 3, dtype=dtype, rngs=rngs)

  def errors(self, tokens: Float[Array, 'B T N D'], waypoints: Float[Array, 'B T 3']
             ) -> tuple[Float[Array, 'B T'], Float[Array, 'B T']]:
    """Of each frame the mean squared error, standardised, and the distance in the unit of `waypoints`, m."""
    found = self.linear(tokens.reshape(*tokens.shape[:2], -1)).astype(jnp.float32)
    missed = found - self.scale(waypoints)
    return jnp.mean(jnp.square(missed), -1), jnp.linalg.norm(missed * self.scale.std[...], axis=-1)

  def standardize(self, mean: np.ndarray, std: np.ndarray) -> None:
    """Takes mean and standard deviation of the training data's proprioception, which begins with x, y and z.

    Raises:
      ValueError: if it has fewer than three numbers.
    """
    if len(mean) < 3:
      raise ValueError(f'a waypoint is x, y and z of the gripper, the first numbers of proprioception; the data has '
                       f'{len(mean)} of them. Train without: --model.waypoint-weight 0.')
    self.scale.set(mean[:3], std[:3])


class Follow(nnx.Module):
  """What was found, and the robot's state, to what is added to each action's query for RT-2's heads to read.

  Towards a waypoint is nearly all that a step does, so that the way from one to the other should be short.
  """

  def __init__(self, known: int, width: int, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
    self.hidden = nnx.Linear(known, 2 * width, dtype=dtype, rngs=rngs)
    self.out = nnx.Linear(2 * width, width, dtype=dtype, rngs=rngs)

  def __call__(self, known: Float[Array, '*b K']) -> Float[Array, '*b D']:
    return self.out(nnx.gelu(self.hidden(known)))
