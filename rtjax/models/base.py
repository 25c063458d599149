"""Contract of policy models.

Trainer, policies, evaluation, export and server know a model by this module alone.

A model is an `nnx.Module` with a configuration. It maps an `Observation` to logits [B, T, K * F, V] of action tokens,
has a loss, and takes single frames with a cache. docs/add_a_model.md builds a small one.
"""
import abc
import dataclasses
import functools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.language.fast import FastCodec
from rtjax.language.formats import TEXT, PromptFormat
from rtjax.models import parameters, registry
from rtjax.models.layers.lora import LoraConfig
from rtjax.observation import Batch, Observation, TextBatch, observe

if TYPE_CHECKING:
  from rtjax.language.tokenizer import Tokenizer

Dtype = Literal['float32', 'bfloat16']
Decoding = Literal['argmax', 'mean']
Padding = Literal['back', 'front']
Moments = Callable[[str], tuple[np.ndarray, np.ndarray]]
"""Mean and standard deviation of 'instruction' [E] or 'proprioception' [S] in the training data."""

Cache = Any
"""A pytree of fixed shapes with the batch as first axis; only the model that made it knows what is inside."""


class LossTerms(NamedTuple):
  """A loss as sums, which add up over batches.

  Attributes:
    total: sum of the loss over the targets that count.
    weight: number of these targets; the loss is `model.loss_scale(batch_size) * total / weight`.
    metrics: name -> (sum, count), scalars or vectors; the average is sum / count.
  """
  total: jax.Array
  weight: jax.Array
  metrics: dict[str, tuple[jax.Array, jax.Array]]


class PolicyConfig:
  """Base of a policy model's configuration, a frozen dataclass.

  A model redefines the attributes that it lets vary as fields, and leaves the others at these values.

  Attributes:
    action_spec: fields, bounds and bins of an action.
    window: T, frames of a window.
    image_size: height and width that the model resizes images to.
    dtype: type of the computation; parameters that train are always float32.
    horizon: F, actions predicted at each frame.
    views: cameras of a frame.
    padding: side of a short window that holds the padded frames.
    decoding: how a continuous number is read from its logits (`ActionSpec.decode`).
    action_codec: writes the F actions of a frame as tokens of varying number; None: each action has K tokens.
    embedding_size: E, width of an instruction embedding; 0: the model reads prompts.
    prompt_length: L, tokens of a prompt; 0: the model takes instruction embeddings.
    answer_length: M, most tokens of a generated answer, its end included.
    prompt_format: ids around a prompt.
    vocab_size: number of token ids that a prompt may hold.
    proprioception_size: S, size of the robot state; 0: the model does not use it.
    lora: low-rank adapters.
    generates_text: whether `PolicyModel.generate` answers prompts.
    tensorflow_export: whether the formats that are translated to TensorFlow can express the model.
    supports_distillation: whether the loss takes `Batch.target_probabilities`.
    prunable_layers: prefix of the parameters of a stack whose heads and layers `training.pruning` may remove.
    read_in_dtype: pattern of the parameters that the model reads in `dtype` alone, so that those that do not train may
      be held in it and all results stay the same; empty: none.
    normalization: statistics that a run keeps when it starts from other weights: theirs, or those of its own data.
    partitions: name -> pattern of the parameters that train; 'full' is always there.
  """
  action_spec: ActionSpec
  window: int
  image_size: tuple[int, int]
  dtype: Dtype
  horizon: int = 1
  views: int = 1
  padding: Padding = 'front'
  decoding: Decoding = 'argmax'
  action_codec: FastCodec | None = None
  embedding_size: int = 0
  prompt_length: int = 0
  answer_length: int = 0
  vocab_size: int = 0
  proprioception_size: int = 0
  lora: LoraConfig = LoraConfig()
  prompt_format: ClassVar[PromptFormat] = TEXT
  generates_text: ClassVar[bool] = False
  tensorflow_export: ClassVar[bool] = True
  supports_distillation: ClassVar[bool] = False
  prunable_layers: ClassVar[str] = ''
  read_in_dtype: ClassVar[str] = ''
  normalization: ClassVar[Literal['from_weights', 'from_data']] = 'from_weights'
  partitions: ClassVar[Mapping[str, str]] = {}

  @property
  def reads_prompts(self) -> bool:
    """Whether instructions come as token ids of a prompt."""
    return self.prompt_length > 0

  @property
  def instruction_size(self) -> int:
    """Length of the array that stands for an instruction: E, or L."""
    return self.prompt_length or self.embedding_size

  @property
  def instruction_dtype(self) -> type[np.generic]:
    """Type of the array that stands for an instruction."""
    return np.int32 if self.reads_prompts else np.float32

  def decode(self, logits: Float[actions.Array, '*b KF V']) -> Float[actions.Array, '*b F A']:
    """Return the actions of logits, NumPy to NumPy, JAX to JAX."""
    spec = self.action_spec
    return spec.decode(logits.reshape(*logits.shape[:-2], self.horizon, spec.num_tokens, -1), self.decoding)

  def with_codec(self, chunks: Callable[[], Float[np.ndarray, 'n F A']], known: Sequence[FastCodec] = ()
                 ) -> 'PolicyConfig':
    """Return the configuration completed with an action codec.

    Models that use none return themselves.

    Args:
      chunks: reads actions of the training data, to fit it on.
      known: codecs of earlier runs, the first of which that fits is taken.
    """
    return self

  def with_tokenizer(self, tokenizer: 'Tokenizer') -> 'PolicyConfig':
    """Return the configuration completed from a tokenizer.

    A language model takes the ids of its action tokens.

    Raises:
      ValueError: the tokenizer does not fit the model.
    """
    return self

  def with_placeholders(self) -> 'PolicyConfig':
    """Return the configuration completed without data and tokenizer, to be compiled alone."""
    return self


class PolicyModel(nnx.Module):
  """Base of policy models.

  A call runs inference, compiled; all other methods are plain traceable code.

  Attributes:
    config: see `PolicyConfig`.
    tokenizer: reads and writes text; set by `set_tokenizer`, None for models without language.
  """
  config: PolicyConfig
  tokenizer: 'Tokenizer | None' = None

  @abc.abstractmethod
  def logits(self, observation: Observation, *, train: bool = False,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B T K V']:
    """Return logits of each frame's action tokens.

    Some models predict the newest frame alone (T = 1).

    Args:
      train: BatchNorm takes the statistics of the batch and updates its averages.
      rngs: stream `dropout`; None turns dropout off.
    """

  @abc.abstractmethod
  def loss(self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> LossTerms:
    """Return the loss of recorded actions, and metrics.

    Args:
      train: as in `logits`; leaves out the metrics that cost time.
    """

  @abc.abstractmethod
  def init_cache(self, batch_size: int) -> Cache:
    """Return the cache of `batch_size` robots before their first frame."""

  @abc.abstractmethod
  def step(self, cache: Cache, observation: Observation) -> tuple[Cache, Float[Array, 'B K V']]:
    """Take one frame of each robot.

    Args:
      observation: T = 1, without frame mask.

    Returns:
      The next cache, and logits of the actions to take now: those of `logits` on the frames so far.
    """

  def __call__(self, images: Array | np.ndarray, instruction: Array | np.ndarray,
               proprioception: Array | np.ndarray | None = None,
               frame_mask: Array | np.ndarray | None = None) -> Float[Array, 'B T K V']:
    """Return logits in inference mode.

    Args:
      images: uint8 [B, T, H, W, 3], or [B, T, views, H, W, 3], as the camera gives them. T may be less than the window.
      instruction: float32 [B, E] or [B, T, E]; for language models token ids of a prompt, integers [B, L].
      proprioception: float32 [B, T, S], for models that use it.
      frame_mask: bool [B, T], False where a frame is padding; [B, T, views] masks single views.

    Raises:
      ValueError: an input has another shape or type than the model takes.
    """
    observation = observe(images, instruction, proprioception, frame_mask)
    self.check(observation)
    return _compiled_logits(*nnx.split(self), observation)

  def check(self, observation: Observation) -> None:
    """Raise ValueError unless shapes, types, token ids and numbers are valid."""
    c, images = self.config, observation.images
    shape = tuple(images.shape)
    views = f'{c.views}, ' if c.views > 1 else ''
    if len(shape) not in (5, 6) or shape[-1] != 3 or not 1 <= shape[1] <= c.window or 0 in shape or (
        shape[2] if len(shape) == 6 else 1) != c.views:
      raise ValueError(f'images has shape {shape}, expected [B, T, {views}H, W, 3] with T from 1 to {c.window}: this '
                       f'model has {c.views} view(s) and a window of {c.window} frame(s).')
    if images.dtype != np.uint8:
      raise ValueError(f'images has type {images.dtype}, expected uint8 in 0..255, as the camera gives them.')
    batch, steps = shape[:2]
    allowed: dict[str, list[tuple[int, ...] | None]] = {
        'instruction': [None] if c.reads_prompts else [(batch, c.embedding_size), (batch, steps, c.embedding_size)],
        'prompt': [(batch, c.prompt_length)] if c.reads_prompts else [None],
        'proprioception': [(batch, steps, c.proprioception_size)] if c.proprioception_size else [None],
        'frame_mask': [None, (batch, steps), (batch, steps, c.views)]}
    for name, shapes in allowed.items():
      value = getattr(observation, name)
      found = None if value is None else tuple(value.shape)
      if found not in shapes:
        raise ValueError(f'{name} has shape {found}, expected {" or ".join(map(str, shapes))}.')
    for name in ('instruction', 'proprioception'):
      value = getattr(observation, name)
      if value is not None and not isinstance(value, jax.core.Tracer) and not np.isfinite(value).all():
        raise ValueError(f'{name} holds NaN or infinite numbers.')
    if observation.prompt is not None:
      ids = np.asarray(observation.prompt)
      if ids.min() < 0 or ids.max() >= c.vocab_size:
        raise ValueError(f'prompt holds token ids from {ids.min()} to {ids.max()}, expected 0 to {c.vocab_size - 1}.')

  def check_text(self, batch: TextBatch) -> None:
    """Raise ValueError unless image-text pairs fit, for models that read them."""

  def loss_scale(self, batch_size: int) -> float:
    """Return the factor of the mean loss."""
    return 1.0

  def set_normalization(self, moments: Moments) -> None:
    """Keep statistics of the training data, if the model normalises."""

  def set_tokenizer(self, tokenizer: 'Tokenizer') -> None:
    """Keep the tokenizer, so that the model reads and writes text.

    Raises:
      ValueError: the tokenizer does not fit the model.
    """
    self.config.with_tokenizer(tokenizer)
    self.tokenizer = tokenizer

  def merged(self) -> 'PolicyModel':
    """Return the model without adapters; one that has none returns itself."""
    return self

  def computing_in(self, dtype: Dtype) -> 'PolicyModel':
    """Return the model with another type of computation, its variables unchanged."""
    if dtype not in (known := typing.get_args(Dtype)):
      raise ValueError(f'dtype is {dtype!r}, expected one of {", ".join(known)}.')
    if dtype == self.config.dtype:
      return self
    config = dataclasses.replace(self.config, dtype=dtype)  # type: ignore[type-var]  # all are dataclasses
    model: PolicyModel = registry.from_values(config, parameters.stored(self))
    if self.tokenizer is not None:
      model.set_tokenizer(self.tokenizer)
    return model

  def generate(self, images: np.ndarray, texts: Sequence[str] | np.ndarray, *, task: str = '') -> Any:
    """Answer texts about images, for models whose `config.generates_text` is True."""
    raise ValueError(f'{type(self).__name__} generates no text.')

  # For `training.pruning`, of models with `config.prunable_layers`.

  def encode_frames(self, observation: Observation) -> Float[Array, 'B T N D']:
    """Return the input of the prunable layers."""
    raise ValueError(f'{type(self).__name__} has no layers that can be pruned.')

  def loss_from_frames(self, frames: Float[Array, 'B T N D'], batch: Batch, *, train: bool) -> LossTerms:
    """Return the loss, given the output of `encode_frames`."""
    raise ValueError(f'{type(self).__name__} has no layers that can be pruned.')


@functools.partial(jax.jit, static_argnums=0)
def _compiled_logits(graphdef: nnx.GraphDef, state: Any, observation: Observation) -> Array:
  return nnx.merge(graphdef, state).logits(observation)
