"""RT-1 (Brohan et al. 2022): pictures and an instruction in, one token per action dimension out.

    images [B, T, H, W, 3], instruction embeddings [B, T, 512]
      resize, normalise                                  [B*T, 300, 300, 3]
      EfficientNet-B3, FiLM after each block             [B*T, 9, 9, 1536]
      1x1 convolution, FiLM                              [B*T, 81, 512]
      TokenLearner                                       [B, T, 8, 512]
      + action tokens, which are zeros                   [B, T * (8 + K), 512]
      transformer, 8 layers                              [B, T * (8 + K), V]
      the position before each action token predicts it  [B, T, K, V]

The sequence, for each step of the window:  i1 ... i8 a1 ... aK;  the logits of a1 are read at i8, those of a2 at a1,
and so on. As action tokens carry no input, one pass gives all K tokens at once. The mask is drawn in transformer.py.
With an action horizon F > 1 there are K * F action tokens a step, the next F actions one after the other.

Source: robotics_transformer, transformer_network.py, film_efficientnet/ and tokenizers/.
"""
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.models.efficientnet import EfficientNetConfig
from rtjax.models.loss import LossTerms, action_loss
from rtjax.models.picture_encoder import PictureEncoder
from rtjax.models.token_learner import TokenLearner
from rtjax.models.transformer import Transformer, attention_mask


@dataclasses.dataclass(frozen=True)
class RT1Config:
  """The network's shape; the defaults are the official one.

  Attributes:
    action_spec: what it acts with.
    window: T, frames it sees.
    horizon: F, actions predicted at each step: this one and the F - 1 after it.
    image_size: height and width that pictures are resized to.
    encoder: the EfficientNet.
    image_tokens: tokens that a frame becomes.
    embedding_size: width of the instruction embedding.
    token_width: width of an image token.
    width, layers, heads, head_size: of the transformer.
    dropout: in the transformer.
    loss: 'mean' cross-entropy over tokens, or 'official': that divided by B * T * tokens per step (docs/training.md).
    dtype: numbers to compute in; parameters are always float32.
  """
  action_spec: ActionSpec = actions.RT1
  window: int = 6
  horizon: int = 1
  image_size: tuple[int, int] = (300, 300)
  encoder: EfficientNetConfig = EfficientNetConfig()  # noqa: RUF009 (frozen)
  image_tokens: int = 8
  embedding_size: int = 512
  token_width: int = 512
  width: int = 512
  layers: int = 8
  heads: int = 8
  head_size: int = 128
  dropout: float = 0.1
  loss: Literal['mean', 'official'] = 'mean'
  dtype: Literal['float32', 'bfloat16'] = 'float32'

  @property
  def action_tokens(self) -> int:
    """K * F: action tokens of one step."""
    return self.action_spec.num_tokens * self.horizon

  @property
  def step_tokens(self) -> int:
    return self.image_tokens + self.action_tokens

  def to_dict(self) -> dict[str, Any]:
    return {'model': 'rt1'} | dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, config: dict[str, Any]) -> 'RT1Config':
    values = {key: value for key, value in config.items() if key != 'model'}
    values |= {'encoder': EfficientNetConfig.from_dict(values['encoder']), 'image_size': tuple(values['image_size']),
               'action_spec': ActionSpec.from_dict(values['action_spec'])}
    return cls(**values)


class ImageTokenizer(PictureEncoder):
  """One frame and its instruction to a few tokens."""

  def __init__(self, config: RT1Config, *, rngs: nnx.Rngs):
    dtype = jnp.dtype(config.dtype)
    super().__init__(config.encoder, config.image_size, config.embedding_size, config.token_width, dtype=dtype,
                     rngs=rngs)
    self.token_learner = TokenLearner(config.token_width, config.image_tokens, dtype=dtype, rngs=rngs)

  def __call__(self, images: Array, embeddings: Float[Array, 'B E'], train: bool = False,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    features = self.features(images, embeddings, train, rngs)
    return self.token_learner(features.reshape(features.shape[0], -1, features.shape[-1]))


class RT1(nnx.Module):
  """See the module's docstring. Calling it runs inference, compiled; `apply` is the same without, and for training."""

  def __init__(self, config: RT1Config, *, rngs: nnx.Rngs):
    self.config = config
    self.tokenizer = ImageTokenizer(config, rngs=rngs)
    self.transformer = Transformer(
        config.token_width, config.width, config.layers, config.heads, config.head_size,
        config.window * config.step_tokens, config.action_spec.vocab_size, config.dropout,
        dtype=jnp.dtype(config.dtype), rngs=rngs)

  def __call__(self, images: Array | np.ndarray, embeddings: Array | np.ndarray) -> Float[Array, 'B T K V']:
    """Logits of every action token of every step, in inference mode.

    Args:
      images: uint8 [B, T, H, W, 3], as the camera gives them; resized and normalised here.
      embeddings: float32 [B, 512], one instruction for the window, or [B, T, 512].

    Raises:
      ValueError: for shapes or types the network cannot take.
    """
    self.check_inputs(images, embeddings)
    return _compiled_apply(*nnx.split(self), jnp.asarray(images), jnp.asarray(embeddings))

  def check_inputs(self, images: Any, embeddings: Any) -> None:
    c = self.config
    if images.ndim != 5 or images.shape[-1] != 3 or not 1 <= images.shape[1] <= c.window:
      raise ValueError(f'images has shape {images.shape}, expected [B, T, H, W, 3] with T from 1 to {c.window}.')
    if images.dtype != np.uint8:
      raise ValueError(f'images has type {images.dtype}, expected uint8 in 0..255: pictures as the camera gives them.')
    allowed = [(images.shape[0], c.embedding_size), (*images.shape[:2], c.embedding_size)]
    if tuple(embeddings.shape) not in allowed:
      raise ValueError(f'embeddings has shape {tuple(embeddings.shape)}, expected {allowed[0]} or {allowed[1]}.')

  def apply(self, images: Array, embeddings: Array, train: bool = False,
            rngs: nnx.Rngs | None = None) -> Float[Array, 'B T K V']:
    """As `__call__`, in plain traceable code. In training, BatchNorm takes the batch's statistics and moves its own.

    Args:
      images: uint8, or float32 in 0..255 (augmented) [B, T, H, W, 3].
      rngs: stream `dropout`; None leaves dropout and drop connect out.
    """
    batch, steps = images.shape[:2]
    if embeddings.ndim == 2:
      embeddings = jnp.broadcast_to(embeddings[:, None], (batch, steps, embeddings.shape[-1]))
    tokens = self.tokenizer(images.reshape(-1, *images.shape[2:]), embeddings.reshape(batch * steps, -1), train, rngs)
    return self.decode(tokens.reshape(batch, steps, *tokens.shape[1:]), rngs)

  def decode(self, image_tokens: Float[Array, 'B T N D'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B T K V']:
    """Image tokens of a window to the logits of its action tokens."""
    c = self.config
    batch, steps, images, width = image_tokens.shape
    zeros = jnp.zeros((batch, steps, c.action_tokens, width), image_tokens.dtype)
    sequence = jnp.concatenate([image_tokens, zeros], 2).reshape(batch, steps * c.step_tokens, width)
    logits = self.transformer(sequence, attention_mask(steps, images, c.action_tokens), rngs)
    logits = logits.reshape(batch, steps, c.step_tokens, -1)
    return logits[:, :, images - 1:-1]

  def loss(self, batch: Mapping[str, Any], *, train: bool, rngs: nnx.Rngs | None = None) -> LossTerms:
    """Cross-entropy of the recorded actions' tokens.

    Args:
      batch: `images`, `embeddings`, `actions` [B, T, F, A] and `mask` [B, T, F], which leaves out padding.
      train: with batch statistics, dropout (given `rngs`) and only the cheap metrics.
    """
    logits = self.apply(batch['images'], batch['embeddings'], train, rngs)
    terms = action_loss(self.config.action_spec, logits, batch['actions'], batch['mask'], train=train)
    # The official mean runs over all steps, masked ones included.
    return terms if self.config.loss == 'mean' else terms._replace(weight=jnp.float32(np.prod(logits.shape[:-1])))

  def loss_scale(self, batch_size: int) -> float:
    """What the mean cross-entropy is multiplied by: 1, or 1 / (B * T * tokens per step) as in the official code."""
    c = self.config
    return 1.0 if c.loss == 'mean' else 1.0 / (batch_size * c.window * c.step_tokens)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_apply(graphdef: nnx.GraphDef, state: Any, images: Array, embeddings: Array) -> Array:
  return nnx.merge(graphdef, state).apply(images, embeddings)
