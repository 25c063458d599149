"""Hindsight waypoints: an auxiliary loss that teaches a network where to go.

The waypoint of a frame is the position of the gripper when its opening is next commanded to change, or else at the end
of the episode; every demonstration tells it in hindsight, without annotation (`rtjax.data`, `waypoints`). For 'pick up
X' it is the place of X. A linear head on a frame's tokens predicts it; its squared error is added to the loss.

An addition to the papers. docs/results/tabletop.md has figures.
"""
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from rtjax.models.layers.common import Normalize, lecun_linear


class WaypointHead(nnx.Module):
  """Head that predicts x, y and z of a frame's waypoint."""

  def __init__(self, tokens: int, width: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    self.normalize = Normalize(3)
    self.linear = lecun_linear(tokens * width, 3, dtype=dtype, rngs=rngs)

  def errors(self, tokens: Float[Array, 'B T N D'], waypoints: Float[Array, 'B T 3'] | None
             ) -> tuple[Float[Array, 'B T'], Float[Array, 'B T']]:
    """Return each frame's normalised squared error, and the distance in m.

    Raises:
      ValueError: the batch has no waypoints.
    """
    if waypoints is None:
      raise ValueError("the batch has no 'waypoints', which this model learns: set --pipeline.waypoints and train on "
                       'datasets whose adapters name proprioception, or set --model.auxiliary.waypoint-weight 0.')
    predicted = self.linear(tokens.reshape(*tokens.shape[:2], -1)).astype(jnp.float32)
    error = predicted - self.normalize(waypoints)
    return jnp.mean(jnp.square(error), -1), jnp.linalg.norm(error * self.normalize.std[...], axis=-1)

  def set_normalization(self, mean: np.ndarray, std: np.ndarray) -> None:
    """Set the statistics of proprioception, which begins with x, y and z.

    Raises:
      ValueError: it has fewer than two numbers; with x and y alone, z is zero.
    """
    if len(mean) < 2:
      raise ValueError(f'a waypoint is x, y and z of the gripper, the first numbers of proprioception; the data has '
                       f'{len(mean)} of them. Train without: --model.auxiliary.waypoint-weight 0.')
    missing = max(3 - len(mean), 0)
    self.normalize.set(np.append(mean[:3], np.zeros(missing)), np.append(std[:3], np.ones(missing)))


class GroundingResidual(nnx.Module):
  """Residual of the action queries, from grounded tokens and state.

  Most of a step's action is the direction from the gripper to its waypoint: this gives it a short path to the heads.
  """

  def __init__(self, inputs: int, width: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
    self.hidden = lecun_linear(inputs, 2 * width, dtype=dtype, rngs=rngs)
    self.out = lecun_linear(2 * width, width, dtype=dtype, rngs=rngs)

  def __call__(self, grounded: Float[Array, '*B I']) -> Float[Array, '*B D']:
    return self.out(nnx.gelu(self.hidden(grounded)))
