"""Policies: a model at the control rate, image in, action out.

The image encoder runs on the newest frame alone. A cache keeps the tokens of the frames before it, each computed with
the instruction of its time; its content is the model's own (`init_cache`, `step`).

    policy = rtjax.load_policy(path)               one robot
    policies = rtjax.load_policy(path, robots=8)   eight robots in one call, each with its own cache and instruction
"""
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Num, UInt8

from rtjax import pretrained
from rtjax.checkpoints import PolicyMetadata
from rtjax.language import instructions
from rtjax.language.instructions import InstructionEncoder
from rtjax.models import Dtype, PolicyModel, parameters
from rtjax.models.base import Cache
from rtjax.observation import observe
from rtjax.policies import image_size
from rtjax.runtime import compiler
from rtjax.runtime.numbers import LARGEST, unusable

_P = ParamSpec('_P')
_R = TypeVar('_R')


class PolicyOutput(NamedTuple):
  """One step of a policy.

  Attributes:
    action: {field: [size]} in the units of the ActionSpec.
    tokens: int32 [K], the most likely token of each action dimension; with an action codec, the tokens of the plan.
    logits: float32 [K, V].
    confidence: float32 [K], the probability of each of `tokens`.
    plan: float32 [F, A], the actions predicted for this step and the F - 1 after it.
  """
  action: dict[str, np.ndarray]
  tokens: np.ndarray
  logits: np.ndarray
  confidence: np.ndarray
  plan: np.ndarray


class NonFiniteInput(ValueError):
  """NaN, infinite or absurdly large numbers in an embedding or state."""


class NonFiniteOutput(ValueError):
  """The model computed NaN, infinite numbers or tokens of no action.

  Attributes:
    outputs: those of the other robots, in the order of the slots; None for the robots without an action.
  """

  def __init__(self, outputs: Sequence[PolicyOutput | None], slots: Sequence[int]):
    self.outputs = list(outputs)
    bad = [slot for slot, output in zip(slots, outputs, strict=True) if output is None]
    super().__init__('the policy computed NaN or infinite numbers, or tokens that stand for no actions, in slot '
                     f'{", ".join(map(str, bad))}: there is no action, hold the robot. Its episode is over: check '
                     'embedding and proprioception, which may be out of range, and call reset.')


def _one_at_a_time(method: 'Callable[Concatenate[BatchPolicy, _P], _R]'
                   ) -> 'Callable[Concatenate[BatchPolicy, _P], _R]':
  @functools.wraps(method)
  def locked(self: 'BatchPolicy', *args: _P.args, **kwargs: _P.kwargs) -> _R:
    with self._lock:
      return method(self, *args, **kwargs)
  return locked


class BatchPolicy:
  """Policy of several robots, each with its own cache and instruction.

  Several threads may use it: calls run one at a time, since a step overwrites the caches.

  Args:
    model: the model.
    robots: number of slots.
    metadata: instruction encoder and image size of the training; see `PolicyMetadata`.
    encoder: encodes instructions given as text; its id must be `metadata.embedding_id`. Not needed for the built-in
      encoder, for models that read prompts, or where embeddings are given.

  Attributes:
    config: the model's configuration.
  """

  def __init__(self, model: PolicyModel, robots: int, metadata: PolicyMetadata | None = None,
               encoder: InstructionEncoder | None = None):
    self.config, self.robots, self.metadata = model.config, robots, metadata or PolicyMetadata()
    if encoder is None and model.tokenizer is not None:
      encoder = instructions.PromptEncoder(model.tokenizer, self.config.prompt_length, self.config.prompt_format)
    if encoder is not None:
      instructions.for_policy(self.metadata.embedding_id, encoder)  # raises if the ids differ
    if robots < 1:
      raise ValueError(f'robots is {robots}, it must be at least 1.')
    self.encoder = encoder
    self._lock = threading.RLock()
    self._structure, self._variables = _Structure.split(model)
    self._first_cache = _init_cache(self._structure, self._variables)
    self._caches: Cache = self._init_caches()  # None after a failure, until a slot is reset
    self._instructions = np.zeros((robots + 1, self.config.instruction_size), self.config.instruction_dtype)
    self._in_episode = np.zeros(robots, bool)

  def in_episode(self, slot: int) -> bool:
    """Return whether `slot` was reset and its cache is intact."""
    return bool(self._in_episode[self._checked_slot(slot)])

  @_one_at_a_time
  def cache(self, slot: int) -> Cache:
    """Return the cache of a slot, with a leading axis of 1."""
    return jax.tree.map(lambda leaf: leaf[slot:slot + 1], self._caches)

  @_one_at_a_time
  def reset(self, slot: int, instruction: str | None = None, *, embedding: np.ndarray | None = None) -> None:
    """Begin an episode: empty a slot's cache and set its instruction.

    Args:
      instruction: the instruction as text.
      embedding: its embedding instead, float32 [E]; for models that read prompts its token ids, integers [L].
    """
    self._set_instruction(slot, instruction, embedding)
    with self._caches_lost_on_failure():
      caches = self._init_caches() if self._caches is None else self._caches
      self._caches = _write(caches, jnp.array([slot]), self._first_cache)
    self._in_episode[slot] = True

  @_one_at_a_time
  def set_instruction(self, slot: int, instruction: str | None = None, *, embedding: np.ndarray | None = None) -> None:
    """Set the instruction from the next frame on; cached frames keep theirs.

    Args: as for `reset`.
    """
    self._set_instruction(slot, instruction, embedding)

  @_one_at_a_time
  def step(self, images: UInt8[np.ndarray, 'B *views H W 3'], slots: Sequence[int] | None = None,
           proprioception: Float[np.ndarray, 'B S'] | None = None) -> list[PolicyOutput]:
    """Return the next action of each robot.

    Args:
      images: one frame of each slot in `slots`, all of one size (see image_size.py); of several cameras
        [B, views, H, W, 3].
      slots: distinct slots in any order; None: all, in order.
      proprioception: the robots' states, for models that use them.

    Raises:
      ValueError: a slot was not reset, or is named twice; images or states have another shape than the model takes.
      NonFiniteInput: a state is not finite.
      NonFiniteOutput: logits are not finite. It holds the outputs of the other robots, whose episodes continue.
      RuntimeError: the device failed, for example out of memory. All caches are lost: reset every slot, and go on.
    """
    images = np.asarray(images)
    rows = np.array([self._checked_slot(slot) for slot in (range(self.robots) if slots is None else slots)], int)
    self._check_images(images, len(rows))
    images = image_size.fit(images, self.metadata)
    states = self._checked_states(proprioception, len(rows))
    if len(set(rows)) < len(rows):
      raise ValueError(f'slots are {rows.tolist()}, expected different ones: each robot takes one step per call.')
    if not self._in_episode[rows].all():
      raise ValueError(f'slot {rows[~self._in_episode[rows]][0]} has no episode: call reset(slot, instruction) before '
                       'its first step.')
    if not len(rows):
      return []
    missing = _padded_size(len(rows), self.robots) - len(rows)
    padded = np.concatenate([rows, np.full(missing, self.robots)])
    images, states = jax.tree.map(lambda array: _pad(array, missing), (images, states))
    with self._caches_lost_on_failure():
      self._caches, device_logits = _step(self._structure, self._variables, self._caches, padded, images,
                                          self._instructions[padded], states)
      logits = np.asarray(device_logits)  # waits for the device, whose failures show only here
    return self._finite(rows, [self._output(row) for row in logits[:len(rows)]])

  def _finite(self, rows: np.ndarray, outputs: list[PolicyOutput | None]) -> list[PolicyOutput]:
    good = [output for output in outputs if output is not None]
    if len(good) < len(outputs):
      self._in_episode[[row for row, output in zip(rows, outputs, strict=True) if output is None]] = False
      raise NonFiniteOutput(outputs, rows.tolist())
    return good

  def announcement(self, image_size: tuple[int, int], programs: int = 1) -> str:
    """Return the line to print before the first step; see `compiler.announcement`."""
    config = self.config
    views = (config.views,) if config.views > 1 else ()
    states = np.zeros((1, config.proprioception_size), np.float32) if config.proprioception_size else None
    step = jax.jit(functools.partial(_step, self._structure))
    line = compiler.announcement(
        f'the policy for images of {image_size[0]}x{image_size[1]}', step, self._variables, self._init_caches(),
        np.zeros(1, int), np.zeros((1, *views, *(self.metadata.input_size() or image_size), 3), np.uint8),
        self._instructions[:1], states,
        programs=programs)
    if config.dtype == 'bfloat16' and jax.default_backend() == 'cpu':
      line += '\nIt computes in bfloat16, as in its training: on a CPU --dtype float32 is about twice as fast.'
    return line

  def _init_caches(self) -> Cache:
    # One slot more than robots: it pads calls for fewer robots than were compiled for.
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, self.robots + 1, 0), self._first_cache)

  @contextlib.contextmanager
  def _caches_lost_on_failure(self) -> Iterator[None]:
    """Mark all caches as lost when a call fails that overwrites them."""
    try:
      yield
    except jax.errors.JaxRuntimeError as error:
      self._in_episode[:] = False
      self._caches = None
      raise RuntimeError(f'the device failed in the policy: {error}. All caches are lost: call reset for every slot '
                         'before its next step.') from error

  def _check_images(self, images: np.ndarray, count: int) -> None:
    views = self.config.views
    leading = (count, views) if views > 1 else (count,)
    if images.shape[:-3] != leading or images.shape[-1:] != (3,) or images.dtype != np.uint8:
      expected = ', '.join(map(str, leading))
      raise ValueError(f'images is {images.dtype} {images.shape}, expected uint8 [{expected}, H, W, 3]: '
                       + (f'{views} views' if views > 1 else 'one image') + ' for each slot.')

  def _checked_states(self, proprioception: np.ndarray | None, count: int) -> np.ndarray | None:
    size = self.config.proprioception_size
    if proprioception is None and not size:
      return None
    with np.errstate(over='ignore'):  # float64 beyond float32 becomes infinite
      states = np.asarray(proprioception if proprioception is not None else np.zeros((count, 0)), np.float32)
    if states.shape != (count, size):
      expected = f"float32 [{count}, {size}], the robot's state for each slot" if size else 'none for this model'
      raise ValueError(f'proprioception has shape {states.shape}, expected {expected}.')
    if unusable(states).any():
      raise NonFiniteInput(f'proprioception holds NaN, infinite numbers or numbers beyond {LARGEST:g}.')
    return states

  def _set_instruction(self, slot: int, instruction: str | None, embedding: np.ndarray | None) -> None:
    if (instruction is None) == (embedding is None):
      raise ValueError('give either instruction or embedding.')
    if embedding is None:
      self.encoder = instructions.for_policy(self.metadata.embedding_id, self.encoder)
      embedding = self.encoder([instruction or ''])[0]
    self._instructions[self._checked_slot(slot)] = self._checked_embedding(np.asarray(embedding))

  def _checked_embedding(self, embedding: np.ndarray) -> np.ndarray:
    c = self.config
    if embedding.shape != (c.instruction_size,):
      raise ValueError(f'embedding has shape {embedding.shape}, expected ({c.instruction_size},).')
    if not c.reads_prompts:
      with np.errstate(over='ignore'):  # float64 beyond float32 becomes infinite
        embedding = embedding.astype(c.instruction_dtype)
    if unusable(embedding).any():
      raise NonFiniteInput(f'embedding holds NaN, infinite numbers or numbers beyond {LARGEST:g}.')
    if c.reads_prompts and not (np.issubdtype(embedding.dtype, np.integer) and embedding.min() >= 0
                                and embedding.max() < c.vocab_size):
      raise ValueError(f'embedding is {embedding.dtype} from {embedding.min()} to {embedding.max()}; this model reads '
                       f"prompts: expected a prompt's token ids, integers from 0 to {c.vocab_size - 1}.")
    return embedding

  def _checked_slot(self, slot: int) -> int:
    if not 0 <= slot < self.robots:
      raise ValueError(f'slot is {slot}, expected 0 to {self.robots - 1}.')
    return slot

  def _output(self, logits: np.ndarray) -> PolicyOutput | None:
    """Return the output; None if logits are not finite, or no action."""
    if not np.isfinite(logits).all():
      return None
    spec, codec = self.config.action_spec, self.config.action_codec
    plan = np.asarray(self.config.decode(logits))
    if not np.isfinite(plan).all():
      return None
    now = logits[:spec.num_tokens] if codec is None else logits[logits.argmax(-1) < codec.size]
    tokens = now.argmax(-1).astype(np.int32)
    # The softmax's largest value, without overflow.
    confidence = 1 / np.exp(now - now.max(-1, keepdims=True)).sum(-1)
    action = {name: np.asarray(value) for name, value in spec.unpack(plan[0]).items()}
    return PolicyOutput(action, tokens, now, confidence, plan)


class Policy:
  """Policy of one robot.

  Call `reset` at the start of every episode, then `step` once per control period. Several threads may use it, as in
  `BatchPolicy`; but it has one robot's frames: for two robots load two policies, or one with `robots=2`.

  Args: as for `BatchPolicy`.
  """

  def __init__(self, model: PolicyModel, metadata: PolicyMetadata | None = None,
               encoder: InstructionEncoder | None = None):
    self._batch = BatchPolicy(model, 1, metadata, encoder)
    self.model, self.config, self.metadata = model, model.config, self._batch.metadata

  @property
  def encoder(self) -> InstructionEncoder | None:
    """Encoder of instructions given as text, if it is known yet."""
    return self._batch.encoder

  @property
  def cache(self) -> Cache:
    """Cache of the frames so far, with a leading axis of 1."""
    return self._batch.cache(0)

  def announcement(self, image_size: tuple[int, int]) -> str:
    """Return the line to print before the first step; see `compiler.announcement`."""
    return self._batch.announcement(image_size)

  def reset(self, instruction: str | None = None, *, embedding: np.ndarray | None = None) -> None:
    """Begin an episode: empty the cache and set the instruction; see `BatchPolicy.reset`."""
    self._batch.reset(0, instruction, embedding=embedding)

  def set_instruction(self, instruction: str | None = None, *, embedding: np.ndarray | None = None) -> None:
    """Set the instruction from the next frame on; cached frames keep theirs."""
    self._batch.set_instruction(0, instruction, embedding=embedding)

  def step(self, image: UInt8[np.ndarray, '*views H W 3'],
           proprioception: Float[np.ndarray, ' S'] | None = None) -> PolicyOutput:
    """Return the next action.

    Args:
      image: the newest frame, of any size (see image_size.py); of several cameras [views, H, W, 3].
      proprioception: the robot's state, for models that use it.

    Raises:
      ValueError: before `reset`, or for an image or a state that the model does not take.
      NonFiniteInput, NonFiniteOutput: the state or the logits are not finite.
    """
    state = None if proprioception is None else np.asarray(proprioception)[None]
    return self._batch.step(np.asarray(image)[None], proprioception=state)[0]


def _padded_size(count: int, most: int) -> int:
  """Return a power of two, or `most`: few sizes are compiled."""
  return min(1 << (count - 1).bit_length(), most)


def _pad(array: np.ndarray, missing: int) -> np.ndarray:
  return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) if missing else array


class _Structure:
  """A model without its arrays, hashed once.

  `jax.jit` hashes its static arguments in each call, and flax a whole `GraphDef` each time: 2.2 of the 3.9 ms that a
  call with RT-1 took before it began to compute; 1.1 more went to flattening the `State` (bench/RESULTS.md).
  """

  def __init__(self, graphdef: nnx.GraphDef, tree: Any):
    self._parts, self._hash = (graphdef, tree), hash((graphdef, tree))

  @classmethod
  def split(cls, model: PolicyModel) -> tuple['_Structure', list[Array]]:
    graphdef, variables = nnx.split(model)
    leaves, tree = jax.tree.flatten(variables)
    return cls(graphdef, tree), leaves

  def merge(self, variables: list[Array]) -> PolicyModel:
    graphdef, tree = self._parts
    return nnx.merge(graphdef, jax.tree.unflatten(tree, variables))

  def __hash__(self) -> int:
    return self._hash

  def __eq__(self, other: object) -> bool:
    return self is other or (isinstance(other, _Structure) and self._parts == other._parts)


@functools.partial(jax.jit, static_argnums=0)
def _init_cache(structure: _Structure, variables: list[Array]) -> Cache:
  return structure.merge(variables).init_cache(1)


@functools.partial(jax.jit, donate_argnums=0)
def _write(caches: Cache, slots: Int[Array, ' B'], values: Cache) -> Cache:
  return jax.tree.map(lambda all_slots, rows: all_slots.at[slots].set(rows), caches, values)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(structure: _Structure, variables: list[Array], caches: Cache, slots: Int[Array, ' B'],
          images: UInt8[Array, 'B *views H W 3'], instruction: Num[Array, 'B E'],
          proprioception: Float[Array, 'B S'] | None) -> tuple[Cache, Float[Array, 'B K V']]:
  states = None if proprioception is None else proprioception[:, None]
  observation = observe(images[:, None], instruction, states)
  cache = jax.tree.map(lambda leaf: leaf[slots], caches)
  cache, logits = structure.merge(variables).step(cache, observation)
  return _write(caches, slots, cache), logits


@overload
def load_policy(path: str | os.PathLike, *, encoder: InstructionEncoder | None = None, verify: bool = True,
                dtype: Dtype | None = None) -> Policy: ...
@overload
def load_policy(path: str | os.PathLike, *, robots: int, encoder: InstructionEncoder | None = None,
                verify: bool = True, dtype: Dtype | None = None) -> BatchPolicy: ...
def load_policy(path: str | os.PathLike, *, robots: int | None = None, encoder: InstructionEncoder | None = None,
                verify: bool = True, dtype: Dtype | None = None) -> Policy | BatchPolicy:
  """Load a policy of one robot, or of `robots` in each call.

  All formats of `rtjax.load_model` are read. Parameters that the model computes with in bfloat16 alone are held in it:
  the actions are the same, in half the memory.

  Args:
    encoder: from `rtjax.language.instructions.open_encoder`, for instructions given as text.
    verify: compare the checksums of an rtjax checkpoint's files first.
    dtype: type of the computation, see `rtjax.load_model`; None: that of the checkpoint.

  Raises:
    CheckpointError: a file of the checkpoint is damaged.
    ValueError: the encoder has another id than the weights were trained with.
  """
  model, metadata = pretrained.load(path, verify=verify, dtype=dtype)
  if model.config.read_in_dtype:
    parameters.hold_in_dtype(model, model.config.read_in_dtype, model.config.dtype)
  return Policy(model, metadata, encoder) if robots is None else BatchPolicy(model, robots, metadata, encoder)
