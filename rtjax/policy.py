"""A model at a robot: one picture in, one action out, with the frames before it remembered.

The image encoder runs on the newest frame alone; the tokens of past frames are kept, each with the instruction of its
own time. Frames fill the window's slots from the first one on. While it is not full, the slots behind the newest frame
are hidden by causality; once it is, every frame moves one slot down (robotics_transformer, transformer_network.py).
"""
import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from rtjax.models import RT1, RT1Config
from rtjax.models.resize import resize_with_pad


class History(NamedTuple):
  """What is remembered between steps.

  Attributes:
    tokens: image tokens of the frames seen.
    frames: how many slots are filled, up to T.
  """
  tokens: Float[Array, 'B T N D']
  frames: Int[Array, ' B']


class PolicyOutput(NamedTuple):
  """One step of a policy.

  Attributes:
    action: {field: [size]} in the units of the ActionSpec.
    tokens: int32 [K], the most likely token of each action dimension.
    logits: float32 [K, V].
    confidence: float32 [K], the probability of each token chosen.
    plan: float32 [F, A], raw actions of this step and, with an action horizon, of those after it.
  """
  action: dict[str, np.ndarray]
  tokens: np.ndarray
  logits: np.ndarray
  confidence: np.ndarray
  plan: np.ndarray


def empty_history(config: RT1Config, batch: int) -> History:
  return History(jnp.zeros((batch, config.window, config.image_tokens, config.token_width), config.dtype),
                 jnp.zeros(batch, jnp.int32))


def advance(model: RT1, history: History, images: Array, embeddings: Array) -> tuple[History, Float[Array, 'B K V']]:
  """Takes in one frame of each of B robots; returns the logits of the actions to take now."""
  window = model.config.window
  full = (history.frames == window)[:, None, None, None]
  slot = jnp.minimum(history.frames, window - 1)
  newest = model.tokenizer(images, embeddings)
  here = (jnp.arange(window) == slot[:, None])[:, :, None, None]
  tokens = jnp.where(here, newest[:, None], jnp.where(full, jnp.roll(history.tokens, -1, 1), history.tokens))
  logits = jnp.take_along_axis(model.decode(tokens), slot[:, None, None, None], axis=1)[:, 0]
  return History(tokens, jnp.minimum(history.frames + 1, window)), logits


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _advance(graphdef: nnx.GraphDef, image_size: tuple[int, int] | None, variables: Any, history: History,
             images: Array, embeddings: Array):
  if image_size is not None and images.shape[1:3] != image_size:
    # Truncated to uint8, as the pipeline does.
    images = resize_with_pad(images.astype(jnp.float32), image_size).astype(jnp.uint8)
  return advance(nnx.merge(graphdef, variables), history, images, embeddings)


class Policy:
  """Runs one robot. `reset` at the start of every episode, then `step` once per control period.

  Args:
    model: the network.
    embedding_id: which instruction encoder made the embeddings that it was trained on.
    image_size: (height, width) that pictures are brought to first, aspect kept and padded with black, where the
      training pipeline did so (`pipeline.image_size`); None hands them to the network as they come.
  """

  def __init__(self, model: RT1, embedding_id: str = '', image_size: tuple[int, int] | None = None):
    self.config = model.config
    self.image_size = image_size
    self.embedding_id = embedding_id
    self._graphdef, self._variables = nnx.split(model)
    self._history: History | None = None
    self._embedding: np.ndarray | None = None

  @property
  def history(self) -> History | None:
    """The frames remembered, for tests and tools; None before `reset`."""
    return self._history

  def reset(self, instruction: str | None = None, *, embedding: np.ndarray | None = None) -> None:
    """Forgets all frames and sets what to do: an instruction, or its embedding (float32 [512])."""
    self.set_instruction(instruction, embedding=embedding)
    self._history = empty_history(self.config, 1)

  def set_instruction(self, instruction: str | None = None, *, embedding: np.ndarray | None = None) -> None:
    """Changes what to do from the next frame on; frames already seen keep the instruction they came with."""
    if (instruction is None) == (embedding is None):
      raise ValueError('give either instruction or embedding.')
    if embedding is None:
      embedding = self._embed(instruction or '')
    embedding = np.asarray(embedding, np.float32)
    if embedding.shape != (self.config.embedding_size,):
      raise ValueError(f'embedding has shape {embedding.shape}, expected ({self.config.embedding_size},).')
    if not np.all(np.isfinite(embedding)):
      raise ValueError('embedding holds NaN or infinite numbers.')
    self._embedding = embedding

  def step(self, image: UInt8[np.ndarray, 'H W 3']) -> PolicyOutput:
    """The action to take on seeing `image`.

    Raises:
      ValueError: before `reset`, or for a picture that is not uint8 [H, W, 3].
    """
    if self._history is None or self._embedding is None:
      raise ValueError('call policy.reset(instruction=...) before the first step of an episode.')
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
      raise ValueError(f'image is {image.dtype} {image.shape}, expected uint8 [H, W, 3].')
    self._history, logits = _advance(
        self._graphdef, self.image_size, self._variables, self._history, image[None], self._embedding[None])
    return self._output(np.asarray(logits[0]))

  def _output(self, logits: np.ndarray) -> PolicyOutput:
    spec, horizon = self.config.action_spec, self.config.horizon
    plan = np.asarray(spec.detokenize(logits.argmax(-1).astype(np.int32).reshape(horizon, -1)))
    now = logits[:spec.num_tokens]
    tokens = now.argmax(-1).astype(np.int32)
    # Softmax's largest value, without overflow.
    confidence = 1 / np.exp(now - now.max(-1, keepdims=True)).sum(-1)
    action = {name: np.asarray(value) for name, value in spec.unpack(plan[0]).items()}
    return PolicyOutput(action, tokens, now, confidence, plan)

  def _embed(self, instruction: str) -> np.ndarray:
    from rtjax.data import instructions
    if self.embedding_id != instructions.HASHED_NGRAMS:
      raise ValueError(
          f'this policy was trained on instruction embeddings of {self.embedding_id or "an unnamed encoder"!r}, which '
          f'is not at hand: pass embedding=, a float32 [{self.config.embedding_size}] vector of that encoder, in place '
          'of the text.')
    return instructions.hashed_ngrams(instruction)


def load_policy(path: str | os.PathLike) -> Policy:
  """Loads a policy from whatever `rtjax.load_model` reads."""
  from rtjax.pretrained import load_model
  from rtjax.training import checkpoint
  # Released policies were trained on this encoder (RT-1, section 5.1; tfhub.dev).
  embedding_id, image_size = 'universal-sentence-encoder-large/5', None
  if checkpoint.is_checkpoint(path):
    metadata = checkpoint.read_metadata(path)
    embedding_id, image_size = metadata['embedding_id'], metadata['train']['pipeline']['image_size']
  return Policy(load_model(path), embedding_id, tuple(image_size) if image_size else None)
