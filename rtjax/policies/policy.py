"""A model at a robot: one picture in, one action out, with the frames before it remembered.

The image encoder runs on the newest frame alone; the tokens of past frames are kept, each with the instruction of its
own time. What is remembered, and how it moves on with a frame, is the model's (`empty_history`, `advance`).

    policy = rtjax.load_policy(path)               one robot
    policies = rtjax.load_policy(path, robots=8)   eight at once: each its own history and instruction, one call
"""
import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from rtjax.language import instructions
from rtjax.language.instructions import InstructionEncoder
from rtjax.models import Config, Model
from rtjax.models.layers.resize import resize_with_pad


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


class BatchPolicy:
  """Runs several robots or environments, each in a slot of its own with its own history and instruction.

  Args:
    model: the network.
    robots: how many slots.
    embedding_id: which instruction encoder made the embeddings that it was trained on.
    image_size: (height, width) that pictures are brought to first, aspect kept and padded with black, where the
      training pipeline did so (`pipeline.image_size`); None hands them to the network as they come.
    encoder: for instructions as text; of this id. Not needed where the built-in one is meant, or for embeddings.
    views: names of the cameras that it was trained on, in the order of its pictures; for people and tools.
  """

  def __init__(self, model: Model, robots: int, embedding_id: str = '', image_size: tuple[int, int] | None = None,
               encoder: InstructionEncoder | None = None, views: tuple[str, ...] = ()):
    vocabulary = getattr(model, 'vocabulary', None)
    if encoder is None and vocabulary is not None:
      encoder = instructions.Prompts(vocabulary, model.config.embedding_size)
    if encoder is not None:
      instructions.for_policy(embedding_id, encoder)  # raises if it is another
    if robots < 1:
      raise ValueError(f'robots is {robots}, it must be at least 1.')
    self.config: Config = model.config
    self.robots, self.embedding_id, self.image_size, self.views = robots, embedding_id, image_size, views
    self.encoder = encoder
    self._graphdef, self._variables = nnx.split(model)
    self._blank = _blank(self._graphdef, self._variables)
    self._histories = self._all_blank()  # None after a failure, until a slot is reset
    self._embeddings = np.zeros((robots + 1, self.config.embedding_size), np.float32)
    self._ready = np.zeros(robots, bool)

  def in_episode(self, slot: int) -> bool:
    """Whether a slot was `reset` and its history is intact, so that `step` may go on."""
    return bool(self._ready[self._checked(slot)])

  def history(self, slot: int) -> Any:
    """What a slot remembers, with a leading axis of 1, for tests and tools."""
    return jax.tree.map(lambda leaf: leaf[slot:slot + 1], self._histories)

  def reset(self, slot: int, instruction: str | None = None, *, embedding: np.ndarray | None = None) -> None:
    """Forgets all frames of a slot and sets what to do: an instruction, or its embedding (float32 [512])."""
    self._set(slot, instruction, embedding)
    with self._all_lost_on_failure():
      whole = self._all_blank() if self._histories is None else self._histories
      self._histories = _write(whole, jnp.array([slot]), self._blank)
    self._ready[slot] = True

  def set_instruction(self, slot: int, instruction: str | None = None, *, embedding: np.ndarray | None = None) -> None:
    """Changes what to do from the next frame on; frames already seen keep the instruction they came with."""
    self._set(slot, instruction, embedding)

  def step(self, images: UInt8[np.ndarray, 'B *V H W 3'], slots: Sequence[int] | None = None,
           proprioception: Float[np.ndarray, 'B P'] | None = None) -> list[PolicyOutput]:
    """The actions to take on seeing `images`.

    Args:
      images: one picture for each slot in `slots`, all of one size; for a network of several cameras [B, V, H, W, 3].
      slots: different ones, in any order; None: all, in order.
      proprioception: the robots' states, for networks that look at them.

    Raises:
      ValueError: a slot was not `reset`, or is named twice; the pictures or the states are not what the network takes.
      RuntimeError: the device failed, for want of memory say. All slots have lost their histories and need `reset`;
        then the policy goes on.
    """
    images = np.asarray(images)
    rows = np.array([self._checked(slot) for slot in (range(self.robots) if slots is None else slots)], int)
    self._check_pictures(images, len(rows))
    states = self._checked_states(proprioception, len(rows))
    if len(set(rows)) < len(rows):
      raise ValueError(f'slots are {rows.tolist()}, expected different ones: each robot takes one step per call.')
    if not self._ready[rows].all():
      raise ValueError(f'slot {rows[~self._ready[rows]][0]} has no episode: call reset(slot, instruction) before its '
                       'first step.')
    if not len(rows):
      return []
    missing = _call_size(len(rows), self.robots) - len(rows)
    padded = np.concatenate([rows, np.full(missing, self.robots)])
    images, states = jax.tree.map(lambda array: _filled_up(array, missing), (images, states))
    with self._all_lost_on_failure():
      self._histories, found = _step(self._graphdef, self.image_size, self._variables, self._histories, padded,
                                     images, self._embeddings[padded], states)
      logits = np.asarray(found)  # in here: what fails on the device is known only now
    return [self._output(row) for row in logits[:len(rows)]]

  def _all_blank(self) -> Any:
    # One slot more than robots: calls for fewer of them are filled up with it.
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, self.robots + 1, 0), self._blank)

  @contextlib.contextmanager
  def _all_lost_on_failure(self) -> Iterator[None]:
    """For calls that are given the histories to overwrite: one that dies on the device leaves none of them behind."""
    try:
      yield
    except jax.errors.JaxRuntimeError as error:
      self._ready[:] = False
      self._histories = None
      raise RuntimeError(f'the device failed in the policy: {error}. All histories are lost: call reset for every slot '
                         'before its next step.') from error

  def _check_pictures(self, images: np.ndarray, count: int) -> None:
    views = self.config.views
    leading = (count, views) if views > 1 else (count,)
    if images.shape[:-3] != leading or images.shape[-1:] != (3,) or images.dtype != np.uint8:
      expected = ', '.join(map(str, leading))
      raise ValueError(f'images is {images.dtype} {images.shape}, expected uint8 [{expected}, H, W, 3]: '
                       + (f'{views} views' if views > 1 else 'one picture') + ' for each slot.')

  def _checked_states(self, proprioception: np.ndarray | None, count: int) -> np.ndarray | None:
    size = self.config.proprioception_size
    if proprioception is None and not size:
      return None
    states = np.asarray(proprioception if proprioception is not None else np.zeros((count, 0)), np.float32)
    if states.shape != (count, size):
      wanted = f"float32 [{count}, {size}], the robot's state for each slot" if size else 'none for this network'
      raise ValueError(f'proprioception has shape {states.shape}, expected {wanted}.')
    if not np.all(np.isfinite(states)):
      raise ValueError('proprioception holds NaN or infinite numbers.')
    return states

  def _set(self, slot: int, instruction: str | None, embedding: np.ndarray | None) -> None:
    if (instruction is None) == (embedding is None):
      raise ValueError('give either instruction or embedding.')
    if embedding is None:
      embedding = self._embed(instruction or '')
    embedding = np.asarray(embedding, np.float32)
    if embedding.shape != (self.config.embedding_size,):
      raise ValueError(f'embedding has shape {embedding.shape}, expected ({self.config.embedding_size},).')
    if not np.all(np.isfinite(embedding)):
      raise ValueError('embedding holds NaN or infinite numbers.')
    self._embeddings[self._checked(slot)] = embedding

  def _checked(self, slot: int) -> int:
    if not 0 <= slot < self.robots:
      raise ValueError(f'slot is {slot}, expected 0 to {self.robots - 1}.')
    return slot

  def _output(self, logits: np.ndarray) -> PolicyOutput:
    spec, horizon = self.config.action_spec, self.config.horizon
    plan = spec.decode(logits.reshape(horizon, -1, logits.shape[-1]), self.config.decoding)
    now = logits[:spec.num_tokens]
    tokens = now.argmax(-1).astype(np.int32)
    # Softmax's largest value, without overflow.
    confidence = 1 / np.exp(now - now.max(-1, keepdims=True)).sum(-1)
    action = {name: np.asarray(value) for name, value in spec.unpack(plan[0]).items()}
    return PolicyOutput(action, tokens, now, confidence, plan)

  def _embed(self, instruction: str) -> np.ndarray:
    self.encoder = instructions.for_policy(self.embedding_id, self.encoder)
    return self.encoder([instruction])[0]


class Policy:
  """Runs one robot. `reset` at the start of every episode, then `step` once per control period.

  Args: as `BatchPolicy`.
  """

  def __init__(self, model: Model, embedding_id: str = '', image_size: tuple[int, int] | None = None,
               encoder: InstructionEncoder | None = None, views: tuple[str, ...] = ()):
    self._batch = BatchPolicy(model, 1, embedding_id, image_size, encoder, views)
    self.model, self.config, self.views = model, model.config, views
    self.embedding_id, self.image_size = embedding_id, image_size

  @property
  def encoder(self) -> InstructionEncoder | None:
    """What turns instructions into embeddings, if it is known yet."""
    return self._batch.encoder

  @property
  def history(self) -> Any:
    """What is remembered, with a leading axis of 1, for tests and tools."""
    return self._batch.history(0)

  def reset(self, instruction: str | None = None, *, embedding: np.ndarray | None = None) -> None:
    """Forgets all frames and sets what to do: an instruction, or its embedding (float32 [512])."""
    self._batch.reset(0, instruction, embedding=embedding)

  def set_instruction(self, instruction: str | None = None, *, embedding: np.ndarray | None = None) -> None:
    """Changes what to do from the next frame on; frames already seen keep the instruction they came with."""
    self._batch.set_instruction(0, instruction, embedding=embedding)

  def step(self, image: UInt8[np.ndarray, '*V H W 3'],
           proprioception: Float[np.ndarray, ' P'] | None = None) -> PolicyOutput:
    """The action to take on seeing `image`.

    Args:
      image: for a network of several cameras [V, H, W, 3].
      proprioception: the robot's state, for networks that look at it.

    Raises:
      ValueError: before `reset`, or for a picture or a state that the network does not take.
    """
    state = None if proprioception is None else np.asarray(proprioception)[None]
    return self._batch.step(np.asarray(image)[None], proprioception=state)[0]


def _call_size(count: int, most: int) -> int:
  """Robots that a call is made for: a power of two, or all, so that few sizes are compiled."""
  return min(1 << (count - 1).bit_length(), most)


def _filled_up(array: np.ndarray, missing: int) -> np.ndarray:
  """Zeros for `missing` robots behind those that are there."""
  return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) if missing else array


@functools.partial(jax.jit, static_argnums=0)
def _blank(graphdef: nnx.GraphDef, variables: Any) -> Any:
  return nnx.merge(graphdef, variables).empty_history(1)


@functools.partial(jax.jit, donate_argnums=0)
def _write(histories: Any, slots: Int[Array, ' B'], values: Any) -> Any:
  return jax.tree.map(lambda all_slots, rows: all_slots.at[slots].set(rows), histories, values)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _step(graphdef: nnx.GraphDef, image_size: tuple[int, int] | None, variables: Any, histories: Any,
          slots: Int[Array, ' B'], images: Array, embeddings: Float[Array, 'B E'],
          proprioception: Array | None) -> tuple[Any, Array]:
  if image_size is not None and images.shape[-3:-1] != image_size:
    # Truncated to uint8, as the pipeline does.
    pictures = images.reshape(-1, *images.shape[-3:]).astype(jnp.float32)
    images = resize_with_pad(pictures, image_size).astype(jnp.uint8).reshape(*images.shape[:-3], *image_size, 3)
  history = jax.tree.map(lambda leaf: leaf[slots], histories)
  history, logits = nnx.merge(graphdef, variables).advance(history, images, embeddings, proprioception)
  return _write(histories, slots, history), logits


@overload
def load_policy(path: str | os.PathLike, *, encoder: InstructionEncoder | None = None) -> Policy: ...
@overload
def load_policy(path: str | os.PathLike, *, robots: int, encoder: InstructionEncoder | None = None) -> BatchPolicy: ...
def load_policy(path: str | os.PathLike, *, robots: int | None = None,
                encoder: InstructionEncoder | None = None) -> Policy | BatchPolicy:
  """Loads a policy from whatever `rtjax.load_model` reads: of one robot, or of `robots` that share each call.

  Args:
    encoder: from `rtjax.language.instructions.open_encoder`, for instructions as text; checked against the checkpoint's id.
  """
  from rtjax.data.config import DataConfig
  from rtjax.pretrained import load_model, safetensors
  from rtjax.training import checkpoint
  # Released policies were trained on this encoder (RT-1, section 5.1; tfhub.dev).
  embedding_id, pipeline = 'universal-sentence-encoder-large/5', DataConfig()
  if checkpoint.is_checkpoint(path):
    metadata = checkpoint.read_metadata(path)
    embedding_id, stored = metadata['embedding_id'], metadata['train']['pipeline']
    pipeline = DataConfig(image_size=_pair(stored['image_size']), views=tuple(stored['views']))
  elif safetensors.find(path):
    metadata = safetensors.read_metadata(path)
    embedding_id, pipeline = metadata['embedding_id'], DataConfig(image_size=_pair(metadata['image_size']))
  what = load_model(path), embedding_id, pipeline.image_size, encoder, pipeline.views
  return Policy(*what) if robots is None else BatchPolicy(what[0], robots, *what[1:])


def _pair(size: list[int] | None) -> tuple[int, int] | None:
  return (size[0], size[1]) if size else None
