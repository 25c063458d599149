"""Typed inputs of policy models: observations, and batches to train on.

Dimension letters: B batch, T time (frames of a window), `views` cameras of a frame, H W C image, E instruction
embedding, L prompt tokens, M answer tokens, S state size, F action horizon, A numbers of an action, K action tokens,
V bins.

All classes are pytrees of JAX arrays, or of NumPy arrays on the host. A field that a model does not use, or that the
data lacks, is None.
"""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Observation:
  """A window of frames of B robots.

  Attributes:
    images: uint8, or float32 in 0..255 (augmented); of several cameras [B, T, views, H, W, 3].
    frame_mask: False where the window is padded; None: all frames are real. [B, T, views] masks single views.
    instruction: instruction embedding of the window, or of each frame.
    prompt: token ids of the newest frame's prompt, padded; for language models.
    proprioception: robot state in the units of the training data.
  """
  images: Num[Array, 'B T *views H W 3']
  frame_mask: Bool[Array, 'B T *views'] | None = None
  instruction: Float[Array, 'B *T E'] | None = None
  prompt: Int[Array, 'B L'] | None = None
  proprioception: Float[Array, 'B T S'] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TextBatch:
  """Prompts about images, and the answers to learn.

  Attributes:
    tasks: index of each row's task in `rtjax.language.prompts.TASKS`.
    points: column and row that a pointing answer names, -1 in other rows.
    grid: cells across (and down) of the grid that `points` refers to; 0 where unknown.
    weights: factor of each answer token's loss; None: 1 for every token that is not padding.
  """
  images: Num[Array, 'B H W 3']
  prompts: Int[Array, 'B L']
  targets: Int[Array, 'B M']
  tasks: Int[Array, ' B']
  points: Int[Array, 'B 2']
  grid: Int[Array, ' B']
  weights: Float[Array, 'B M'] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Training examples: robot windows, image-text pairs, or both.

  Attributes:
    actions: the F actions from each frame on; zero where there is none.
    action_mask: True where an action counts in the loss.
    waypoints: position of the gripper when its opening is next commanded to change, or at the end (m).
    target_probabilities: targets that replace the recorded tokens, for distillation.
    text: image-text pairs, for vision-language models.
  """
  observation: Observation | None = None
  actions: Float[Array, 'B T F A'] | None = None
  action_mask: Bool[Array, 'B T F'] | None = None
  waypoints: Float[Array, 'B T 3'] | None = None
  target_probabilities: Float[Array, 'B T F K V'] | None = None
  text: TextBatch | None = None

  @property
  def size(self) -> int:
    """Number of windows, or of image-text pairs where there are no windows."""
    return len(jax.tree.leaves(self)[0])

  def apart(self) -> list['Batch']:
    """Return windows and pairs as batches of their own."""
    if self.observation is None or self.text is None:
      return [self]
    return [dataclasses.replace(self, text=None), Batch(text=self.text)]

  def windows(self) -> tuple[Observation, Array, Array]:
    """Return observation, actions and action mask of robot windows.

    Raises:
      ValueError: the batch holds none.
    """
    if self.observation is None or self.actions is None or self.action_mask is None:
      raise ValueError('the batch holds no robot windows: it lacks observation, actions or action_mask.')
    return self.observation, self.actions, self.action_mask


def observe(images: Array | np.ndarray, instruction: Array | np.ndarray,
            proprioception: Array | np.ndarray | None = None,
            frame_mask: Array | np.ndarray | None = None) -> Observation:
  """Return an observation; an integer `instruction` is a prompt's token ids."""
  is_prompt = jnp.issubdtype(instruction.dtype, jnp.integer)
  # Any, since host arrays are NumPy's.
  arrays: dict[str, Any] = {'images': images, 'frame_mask': frame_mask, 'proprioception': proprioception,
                            'prompt' if is_prompt else 'instruction': instruction}
  return Observation(**arrays)
