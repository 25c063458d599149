"""RT-1 (Brohan et al. 2022): images and an instruction to action tokens.

    images [B, T, H, W, 3], instruction embeddings [B, T, E]
      resize, normalise                                  [B*T, 300, 300, 3]
      EfficientNet-B3, FiLM after each block             [B*T, 9, 9, 1536]
      1x1 convolution, FiLM                              [B*T, 81, 512]
      TokenLearner                                       [B, T, 8, 512]
      + action tokens, which are zeros                   [B, T * (8 + K), 512]
      transformer, 8 layers                              [B, T * (8 + K), V]
      the position before each action token predicts it  [B, T, K, V]

The sequence of each frame is  i1 ... i8 a1 ... aK.  The logits of a1 are read at i8, those of a2 at a1, and so on.
Action tokens carry no input, so one pass gives all K tokens. The mask is drawn in layers/transformer.py. With an action
horizon F > 1 a frame has K * F action tokens, the next F actions one after the other.

RT-1-X (Open X-Embodiment 2023) is the same network with the settings of `RT1_X`: SAME padding and so 10x10 positions,
81 image tokens, 15 frames, 512 bins, SwiGLU, and a mask that hides actions from all tokens.

Options that the paper does not have are off by default: `auxiliary`, `proprioception_size`, `normalize_instruction`,
`bin_smoothing`, `decoding` and dense stages of the encoder. They help small networks trained from scratch.

Source: robotics_transformer, transformer_network.py, film_efficientnet/ and tokenizers/;
google-deepmind/open_x_embodiment, models/rt1.py.
"""
import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.models.auxiliary.config import AuxiliaryConfig
from rtjax.models.auxiliary.language_pooling import LanguageAttentionPooling
from rtjax.models.auxiliary.waypoint import WaypointHead
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, ImageEncoder
from rtjax.models.base import Decoding, Dtype, LossTerms, Moments, Padding, PolicyConfig, PolicyModel
from rtjax.models.layers.common import Normalize, StateToken
from rtjax.models.layers.frame_cache import FrameCache
from rtjax.models.layers.token_learner import TokenLearner
from rtjax.models.layers.transformer import Transformer, TransformerConfig, attention_mask
from rtjax.models.loss import action_loss
from rtjax.models.registry import register
from rtjax.observation import Batch, Observation
from rtjax.runtime.flags import Hidden


@dataclasses.dataclass(frozen=True)
class RT1Config(PolicyConfig):
  """Shape of RT-1; the defaults are the official network.

  Attributes:
    action_spec: fields, bounds and bins of an action.
    window: T, frames of a window.
    padding: side of a short window that holds the padded frames: 'back' as in the official policy, which fills its
      slots from the first one on and hides the later ones by causality; 'front' as in RT-1-X, whose newest frame is
      always in the last slot. Training cuts its windows the same way.
    horizon: F, actions predicted at each frame: its own and the F - 1 after it.
    image_size: height and width that images are resized to.
    encoder: the EfficientNet.
    image_tokens: tokens that TokenLearner makes of a frame.
    proprioception_size: S, size of the robot state, one more token of a frame; 0 = not used.
    embedding_size: E, width of the instruction embedding.
    token_width: width of an image token.
    width: D, width of the transformer.
    layers: layers of the transformer.
    heads: attention heads of a layer.
    head_size, feed_forward, shared_dropout: see `TransformerConfig`.
    dropout: dropout of the transformer.
    images_see_actions: whether image tokens attend to the action tokens of earlier frames, as in the official mask.
    normalize_instruction: centre instruction embeddings on the mean of the training data, and scale them.
    bin_smoothing: standard deviation, in bins, of a target's spread over neighbouring bins; 0 = one-hot.
    decoding: 'argmax', the likeliest bin, or 'mean', the mean of the bins by probability (`ActionSpec.decode`).
    loss: 'mean' cross-entropy over tokens, or 'official': divided by B * T * tokens per frame as in the reference.
    dtype: type of the computation; parameters are always float32.
    auxiliary: additions for small networks trained from scratch.
  """
  action_spec: ActionSpec = actions.RT1
  window: int = 6
  padding: Hidden[Padding] = 'back'
  horizon: int = 1
  image_size: tuple[int, int] = (300, 300)
  encoder: Hidden[EfficientNetConfig] = EfficientNetConfig()  # noqa: RUF009 (frozen)
  image_tokens: Hidden[int] = 8
  proprioception_size: int = 0
  embedding_size: Hidden[int] = 512
  token_width: Hidden[int] = 512
  width: int = 512
  layers: int = 8
  heads: int = 8
  head_size: Hidden[int] = 128
  feed_forward: Hidden[Literal['linear', 'swiglu']] = 'linear'
  images_see_actions: Hidden[bool] = True
  dropout: float = 0.1
  shared_dropout: Hidden[bool] = False
  normalize_instruction: Hidden[bool] = False
  bin_smoothing: Hidden[float] = 0.0
  decoding: Hidden[Decoding] = 'argmax'
  loss: Hidden[Literal['mean', 'official']] = 'mean'
  dtype: Dtype = 'float32'
  auxiliary: Hidden[AuxiliaryConfig] = AuxiliaryConfig()  # noqa: RUF009 (frozen)

  supports_distillation: ClassVar[bool] = True
  read_in_dtype: ClassVar[str] = r'^(?!transformer/position/).*/kernel$'
  prunable_layers: ClassVar[str] = 'transformer/layers/'

  def __post_init__(self) -> None:
    sizes = {name: getattr(self, name) for name in (
        'window', 'horizon', 'image_tokens', 'embedding_size', 'token_width', 'width', 'layers', 'heads', 'head_size')}
    for name, value in (sizes | {'image_size': min(self.image_size)}).items():
      if value < 1:
        raise ValueError(f'model.{name} is {value}, it must be at least 1.')
    if not 0 <= self.dropout < 1:
      raise ValueError(f'model.dropout is {self.dropout}, expected 0 (none) to below 1.')
    for name in ('proprioception_size', 'bin_smoothing'):
      if getattr(self, name) < 0:
        raise ValueError(f'model.{name} is {getattr(self, name)}, expected 0 (none) or more.')

  @property
  def action_tokens(self) -> int:
    """Action tokens of a frame, K * F."""
    return self.action_spec.num_tokens * self.horizon

  @property
  def frame_tokens(self) -> int:
    """Tokens of a frame that carry input, N."""
    return self.image_tokens + self.auxiliary.language_tokens + (self.proprioception_size > 0)

  @property
  def sequence_tokens(self) -> int:
    """All tokens of a frame in the transformer's sequence."""
    return self.frame_tokens + self.action_tokens

  @property
  def transformer(self) -> TransformerConfig:
    return TransformerConfig(
        self.token_width, self.width, self.layers, self.heads, self.head_size, self.window * self.sequence_tokens,
        self.action_spec.vocab_size, self.feed_forward, self.dropout, self.shared_dropout)


RT1_X = RT1Config(
    action_spec=actions.RT1_X, window=15, padding='front', image_tokens=81, head_size=256, feed_forward='swiglu',
    images_see_actions=False, shared_dropout=True, encoder=EfficientNetConfig(padding='same', unbiased=False))


@register('rt1', RT1Config)
class RT1(PolicyModel):
  """RT-1 and RT-1-X; see the module's docstring."""
  config: RT1Config

  def __init__(self, config: RT1Config, *, rngs: nnx.Rngs):
    c, dtype = config, jnp.dtype(config.dtype)
    self.config = config
    self.image_encoder = ImageEncoder(c.encoder, c.image_size, c.embedding_size, c.token_width, dtype=dtype, rngs=rngs)
    self.token_learner = TokenLearner(c.token_width, c.image_tokens, dtype=dtype, rngs=rngs)
    self.instruction = Normalize(c.embedding_size) if c.normalize_instruction else None
    self.language_pooling = LanguageAttentionPooling(
        c.embedding_size, c.token_width, c.auxiliary.language_tokens, dtype=dtype, rngs=rngs
    ) if c.auxiliary.language_tokens else None
    self.state = StateToken(c.proprioception_size, c.token_width, dtype=dtype, rngs=rngs
                            ) if c.proprioception_size else None
    self.transformer = Transformer(c.transformer, dtype=dtype, rngs=rngs)
    self.waypoint = WaypointHead(c.frame_tokens, c.token_width, dtype=dtype, rngs=rngs
                                 ) if c.auxiliary.waypoint_weight else None

  def logits(self, observation: Observation, *, train: bool = False,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B T K V']:
    return self.decode(self.encode_frames(observation, train=train, rngs=rngs), rngs)

  def encode_frames(self, observation: Observation, *, train: bool = False,
                    rngs: nnx.Rngs | None = None) -> Float[Array, 'B T N D']:
    """Return the tokens of every frame that carry input."""
    images, instruction = observation.images, observation.instruction
    assert instruction is not None  # `check` requires it
    batch, frames = images.shape[:2]
    if instruction.ndim == 2:
      instruction = jnp.broadcast_to(instruction[:, None], (batch, frames, instruction.shape[-1]))
    flat = images.reshape(-1, *images.shape[2:]), instruction.reshape(batch * frames, -1)
    tokens = self._image_tokens(*flat, train, rngs)
    tokens = tokens.reshape(batch, frames, *tokens.shape[1:])
    if self.state is None:
      return tokens
    return jnp.concatenate([tokens, self.state(observation.proprioception)[..., None, :]], -2)

  def _image_tokens(self, images: Array, instruction: Float[Array, 'B E'], train: bool = False,
                    rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    if self.instruction is not None:
      instruction = self.instruction(instruction)
    features = self.image_encoder(images, instruction, train, rngs)
    if self.language_pooling is None:
      return self.token_learner(features.reshape(features.shape[0], -1, features.shape[-1]))
    placed = self.language_pooling.add_coordinates(features)
    return jnp.concatenate([self.token_learner(placed), self.language_pooling(placed, instruction)], 1)

  def decode(self, tokens: Float[Array, 'B T N D'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B T K V']:
    """Return the logits of a window, given the output of `encode_frames`."""
    c = self.config
    batch, frames, count, width = tokens.shape
    zeros = jnp.zeros((batch, frames, c.action_tokens, width), tokens.dtype)
    sequence = jnp.concatenate([tokens, zeros], 2).reshape(batch, frames * c.sequence_tokens, width)
    mask = attention_mask(frames, count, c.action_tokens, c.images_see_actions)
    logits = self.transformer(sequence, mask, rngs).reshape(batch, frames, c.sequence_tokens, -1)
    return logits[:, :, count - 1:-1]

  def decode_frame(self, tokens: Float[Array, 'B T N D'], slot: Int[Array, ' B']) -> Float[Array, 'B K V']:
    """Return `decode` at frame `slot`, computing only positions it depends on."""
    c = self.config
    batch, frames, count, width = tokens.shape
    first = slot[:, None] * c.sequence_tokens + count  # [B, 1], the place of the frame's first action token
    reads = jnp.arange(c.action_tokens) - 1  # relative to it: the last input token and all action tokens but the last
    if c.images_see_actions:
      zeros = jnp.zeros((batch, frames, c.action_tokens, width), tokens.dtype)
      sequence = jnp.concatenate([tokens, zeros], 2).reshape(batch, frames * c.sequence_tokens, width)
      return self.transformer(sequence, attention_mask(frames, count, c.action_tokens), rows=first + reads)
    # No token attends to an action token, so those of other frames are left out: inputs of all frames, a1 ... a(K-1).
    total, others = frames * count, c.action_tokens - 1
    sequence = jnp.concatenate([
        tokens.reshape(batch, total, width), jnp.zeros((batch, others, width), tokens.dtype)], 1)
    places = (np.arange(frames)[:, None] * c.sequence_tokens + np.arange(count)).reshape(-1)
    positions = jnp.concatenate([jnp.broadcast_to(places, (batch, total)), first + reads[1:]], 1)
    is_input = np.arange(total + others) < total
    causal = positions[:, :, None] >= positions[:, None, :]  # [B, N, N]
    rows = jnp.concatenate([(slot[:, None] + 1) * count - 1, jnp.broadcast_to(total + reads[1:], (batch, others))], 1)
    return self.transformer(sequence, causal & is_input, positions=positions, rows=rows)

  def init_cache(self, batch_size: int) -> FrameCache:
    c = self.config
    empty = FrameCache.empty(batch_size, c.window, c.frame_tokens, c.token_width, c.dtype)
    if c.padding == 'back':
      return empty
    state = jnp.zeros((1, 1, c.proprioception_size)) if c.proprioception_size else None
    blank = self.encode_frames(Observation(jnp.zeros((1, 1, *c.image_size, 3), jnp.uint8), None,
                                           jnp.zeros((1, c.embedding_size)), proprioception=state))
    return empty._replace(tokens=jnp.broadcast_to(blank, empty.tokens.shape))

  def step(self, cache: FrameCache, observation: Observation) -> tuple[FrameCache, Float[Array, 'B K V']]:
    last, front = self.config.window - 1, self.config.padding == 'front'
    slot = jnp.full_like(cache.num_frames, last) if front else jnp.minimum(cache.num_frames, last)
    full = (cache.num_frames > last) | front  # every frame moves one slot down
    newest = self.encode_frames(observation)
    here = (jnp.arange(last + 1) == slot[:, None])[:, :, None, None]
    kept = jnp.where(full[:, None, None, None], jnp.roll(cache.tokens, -1, 1), cache.tokens)
    tokens = jnp.where(here, newest, kept)
    return FrameCache(tokens, jnp.minimum(cache.num_frames + 1, last + 1)), self.decode_frame(tokens, slot)

  def loss(self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> LossTerms:
    """Return the cross-entropy of recorded actions, plus the waypoint loss."""
    observation, _, _ = batch.windows()
    frames = self.encode_frames(observation, train=train, rngs=rngs)
    terms = self._loss_from_logits(self.decode(frames, rngs), batch, train)
    return terms if self.waypoint is None else self._add_waypoints(terms, frames, batch)

  def loss_from_frames(self, frames: Float[Array, 'B T N D'], batch: Batch, *, train: bool) -> LossTerms:
    return self._loss_from_logits(self.decode(frames), batch, train)

  def _loss_from_logits(self, logits: Float[Array, 'B T K V'], batch: Batch, train: bool) -> LossTerms:
    _, recorded, mask = batch.windows()
    terms = action_loss(self.config.action_spec, logits, recorded, mask, batch.target_probabilities, train=train,
                        bin_smoothing=self.config.bin_smoothing, decoding=self.config.decoding)
    # The official mean runs over all frames, masked ones included.
    return terms if self.config.loss == 'mean' else terms._replace(weight=jnp.float32(np.prod(logits.shape[:-1])))

  def _add_waypoints(self, terms: LossTerms, frames: Float[Array, 'B T N D'], batch: Batch) -> LossTerms:
    """Add squared errors, each with the weight of its frame's tokens."""
    assert self.waypoint is not None
    observation, _, _ = batch.windows()
    squared, distance = self.waypoint.errors(frames, batch.waypoints)
    real = jnp.ones_like(squared) if observation.frame_mask is None else observation.frame_mask.astype(jnp.float32)
    weight = self.config.auxiliary.waypoint_weight * self.config.action_tokens
    return LossTerms(terms.total + weight * jnp.sum(squared * real), terms.weight,
                     terms.metrics | {'waypoint_distance': (jnp.sum(distance * real), jnp.sum(real))})

  def loss_scale(self, batch_size: int) -> float:
    """Return 1, or with the official loss 1 / (B * T * tokens)."""
    c = self.config
    return 1.0 if c.loss == 'mean' else 1.0 / (batch_size * c.window * c.sequence_tokens)

  def set_normalization(self, moments: Moments) -> None:
    if self.instruction is not None:
      mean, std = moments('instruction')
      # One number scales all: a dimension that hardly varies would otherwise drown the others.
      self.instruction.set(mean, np.full_like(std, np.sqrt(np.mean(np.square(std)))))
    if self.state is not None:
      self.state.set(*moments('proprioception'))
    if self.waypoint is not None:
      self.waypoint.set_normalization(*moments('proprioception'))
