"""RT-1 with several cameras or time steps, and the robot state.

Six views of the newest frame (`views` 6, `window` 1); six frames of one camera are `views` 1, `window` 6:

    images of the newest frame, uint8                  observation      [B, 1, 6, 300, 300, 3]
    resize, normalise                                  image_encoder    [6B, 300, 300, 3]
    EfficientNet-B3, FiLM after each block                              [6B, 9, 9, 1536]
    1x1 convolution, FiLM                                               [6B, 9, 9, 512]
    all images side by side, oldest frame first        encode_images    [B, 1, 486, 512]
    + language token, state token, + positions         sequence         [B, 488, 512]
    encoder, 8 layers, full attention                  encode           [B, 488, 512]
    TokenLearner                                       token_learner    [B, 8, 512]
    + positions, decoder, 1 causal layer               decode           [B, 8, 512]
    one head per action token                          classify         [B, 1, 7, 256]

Seven of the eight learned tokens become action tokens. The last seven are read in order, so that each head sees the
tokens up to its own (the first head two of them, the last all), and every token is used:

    i1 ... i486 language state  ->  l1   l2   l3   l4   l5     l6     l7    l8
                                         |    |    |    |      |      |     |
                                         x    y    z    roll   pitch  yaw   gripper

FiLM uses the instruction of each image's own frame. Language token and state token are those of the newest frame, whose
action alone is predicted. A head has as many outputs as its token has values (256 bins, 2 classes); the remaining
logits, up to the vocabulary's 256, are so low that they have no probability. Padded frames and missing cameras are
masked in attention and TokenLearner.
"""
import dataclasses
import functools
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig, ImageEncoder
from rtjax.models.base import Dtype, LossTerms, Moments, PolicyConfig, PolicyModel
from rtjax.models.layers import initializers
from rtjax.models.layers.common import StateToken
from rtjax.models.layers.frame_cache import FrameCache
from rtjax.models.layers.token_learner import TokenLearner
from rtjax.models.layers.transformer import PostNormLayer
from rtjax.models.loss import IMPOSSIBLE, action_loss
from rtjax.models.registry import register
from rtjax.observation import Batch, Observation
from rtjax.runtime.flags import Hidden


@dataclasses.dataclass(frozen=True)
class RT1MultiviewConfig(PolicyConfig):
  """Shape of the network; the defaults are six cameras.

  Attributes:
    action_spec: fields, bounds and bins of an action.
    views: cameras of a frame.
    window: T, frames of a window.
    image_size: height and width that images are resized to.
    encoder: the EfficientNet, shared by all images.
    embedding_size: E, width of the instruction embedding.
    proprioception_size: S, size of the robot state.
    learned_tokens: tokens that TokenLearner makes of the sequence; at least one per action token.
    width: D, width of encoder and decoder.
    heads: attention heads of a layer, of width / heads channels.
    layers: layers of the encoder.
    hidden: width of the hidden layer of the MLPs.
    dropout: dropout of encoder and decoder.
    dtype: type of the computation; parameters are always float32.
  """
  action_spec: ActionSpec = actions.POSE_7D
  views: int = 6
  window: int = 1
  image_size: tuple[int, int] = (300, 300)
  encoder: Hidden[EfficientNetConfig] = EfficientNetConfig()  # noqa: RUF009 (frozen)
  embedding_size: Hidden[int] = 512
  proprioception_size: int = 7
  learned_tokens: Hidden[int] = 8
  width: int = 512
  heads: int = 8
  layers: int = 8
  hidden: Hidden[int] = 2048
  dropout: float = 0.1
  dtype: Dtype = 'float32'

  read_in_dtype: ClassVar[str] = '/kernel$'

  def __post_init__(self) -> None:
    for name in ('views', 'window', 'proprioception_size'):
      if getattr(self, name) < 1:
        raise ValueError(f'model.{name} is {getattr(self, name)}, it must be at least 1.')
    if self.learned_tokens < self.action_spec.num_tokens:
      raise ValueError(f'model.learned_tokens is {self.learned_tokens}, but an action of this ActionSpec has '
                       f'{self.action_spec.num_tokens} tokens, each read at a learned token of its own.')
    if self.width % self.heads:
      raise ValueError(f'model.width {self.width} does not divide into {self.heads} heads.')

  @property
  def image_tokens(self) -> int:
    """Tokens of one image: the positions of its last feature map."""
    return self.encoder.out_size(self.image_size[0]) * self.encoder.out_size(self.image_size[1])

  @property
  def sequence_tokens(self) -> int:
    """Tokens of the encoder: images, language and state."""
    return self.window * self.views * self.image_tokens + 2


@register('rt1_multiview', RT1MultiviewConfig)
class RT1Multiview(PolicyModel):
  """RT-1 with late fusion of several images; see the module's docstring."""
  config: RT1MultiviewConfig

  def __init__(self, config: RT1MultiviewConfig, *, rngs: nnx.Rngs):
    c = self.config = config
    dtype = jnp.dtype(c.dtype)
    layer = functools.partial(PostNormLayer, c.width, c.heads, c.hidden, c.dropout, dtype=dtype, rngs=rngs)
    linear = functools.partial(nnx.Linear, kernel_init=initializers.glorot_uniform(), dtype=dtype, rngs=rngs)
    position = initializers.normal(0.02)
    self.image_encoder = ImageEncoder(c.encoder, c.image_size, c.embedding_size, c.width, dtype=dtype, rngs=rngs)
    self.language = linear(c.embedding_size, c.width)
    self.state = StateToken(c.proprioception_size, c.width, dtype=dtype, rngs=rngs)
    self.position = nnx.Param(position(rngs.params(), (c.sequence_tokens, c.width)))
    self.encoder = nnx.List([layer() for _ in range(c.layers)])
    self.token_learner = TokenLearner(c.width, c.learned_tokens, dtype=dtype, rngs=rngs)
    self.learned_position = nnx.Param(position(rngs.params(), (c.learned_tokens, c.width)))
    self.decoder = layer()
    self.heads = nnx.List([linear(c.width, bins) for bins in c.action_spec.token_bins])

  def logits(self, observation: Observation, *, train: bool = False,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B 1 K V']:
    """Return the logits of the newest frame's action."""
    tokens = self.encode_images(observation, train, rngs)
    return self.action_logits(tokens, observation, observation.frame_mask, rngs)[:, None]

  def encode_images(self, observation: Observation, train: bool = False,
                    rngs: nnx.Rngs | None = None) -> Float[Array, 'B T N D']:
    """Return the tokens of every frame's images, view by view."""
    images, instruction = observation.images, observation.instruction
    assert instruction is not None  # `check` requires it
    batch, frames = images.shape[:2]
    if instruction.ndim == 2:
      instruction = jnp.broadcast_to(instruction[:, None], (batch, frames, instruction.shape[-1]))
    per_image = jnp.repeat(instruction.reshape(batch * frames, -1), self.config.views, axis=0)
    features = self.image_encoder(images.reshape(-1, *images.shape[-3:]), per_image, train, rngs)
    return features.reshape(batch, frames, -1, features.shape[-1])

  def action_logits(self, image_tokens: Float[Array, 'B T N D'], newest: Observation,
                    frame_mask: Bool[Array, 'B T *views'] | None,
                    rngs: nnx.Rngs | None = None) -> Float[Array, 'B K V']:
    """Return the logits of the newest frame's action.

    Args:
      image_tokens: of the window, the newest frame last.
      newest: its last instruction and state are used.
    """
    assert newest.instruction is not None
    instruction = newest.instruction if newest.instruction.ndim == 2 else newest.instruction[:, -1]
    state = None if newest.proprioception is None else newest.proprioception[:, -1]
    visible = None if frame_mask is None else self.visible_tokens(frame_mask)
    encoded = self.encode(self.sequence(image_tokens, instruction, state), visible, rngs)
    return self.classify(self.decode(self.token_learner(encoded, visible), rngs))

  def sequence(self, image_tokens: Float[Array, 'B T N D'], instruction: Float[Array, 'B E'],
               proprioception: Float[Array, 'B S'] | None) -> Float[Array, 'B n D']:
    """Return image, language and state tokens, with positions."""
    batch, _, _, width = image_tokens.shape
    others = jnp.stack([self.language(instruction), self.state(proprioception)], 1)
    tokens = jnp.concatenate([image_tokens.reshape(batch, -1, width), others], 1)
    return tokens + self.position[-tokens.shape[1]:].astype(tokens.dtype)

  def visible_tokens(self, frame_mask: Bool[Array, 'B T *views']) -> Bool[Array, 'B n']:
    """Return the token mask of a mask of frames or views."""
    c = self.config
    per_view = frame_mask if frame_mask.ndim == 3 else frame_mask[..., None]
    images = jnp.broadcast_to(per_view, (*frame_mask.shape[:2], c.views))
    tokens = jnp.repeat(images.reshape(len(frame_mask), -1), c.image_tokens, axis=1)
    return jnp.pad(tokens, ((0, 0), (0, 2)), constant_values=True)

  def encode(self, x: Float[Array, 'B N D'], visible: Bool[Array, 'B N'] | None = None,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    """Apply the encoder's layers."""
    mask = None if visible is None else jnp.broadcast_to(visible[:, None], (*x.shape[:2], x.shape[1]))
    for layer in self.encoder:
      x = layer(x, mask, rngs)
    return x

  def decode(self, learned: Float[Array, 'B n D'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B n D']:
    """Apply the causal layer to the learned tokens."""
    batch, count, _ = learned.shape
    causal = jnp.broadcast_to(np.tri(count, dtype=bool), (batch, count, count))
    return self.decoder(learned + self.learned_position[...].astype(learned.dtype), causal, rngs)

  def classify(self, decoded: Float[Array, 'B n D']) -> Float[Array, 'B K V']:
    """Apply the heads to the last K tokens."""
    spec = self.config.action_spec
    tokens = decoded[:, -spec.num_tokens:].swapaxes(0, 1)
    logits = [head(token).astype(jnp.float32) for head, token in zip(self.heads, tokens, strict=True)]
    return jnp.stack([jnp.pad(part, ((0, 0), (0, spec.vocab_size - part.shape[-1])), constant_values=IMPOSSIBLE)
                      for part in logits], 1)

  def init_cache(self, batch_size: int) -> FrameCache:
    c = self.config
    return FrameCache.empty(batch_size, c.window - 1, c.views * c.image_tokens, c.width, c.dtype)

  def step(self, cache: FrameCache, observation: Observation) -> tuple[FrameCache, Float[Array, 'B K V']]:
    tokens, frame_mask, cache = cache.append(self.encode_images(observation))
    return cache, self.action_logits(tokens, observation, frame_mask)

  def loss(self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> LossTerms:
    """Return the cross-entropy of the newest frame's recorded action."""
    observation, recorded, mask = batch.windows()
    if observation.proprioception is None:
      raise ValueError("the batch has no 'proprioception', which this model needs: set --pipeline.proprioception and "
                       'train on datasets whose adapters name it.')
    logits = self.logits(observation, train=train, rngs=rngs)
    terms = action_loss(self.config.action_spec, logits, recorded[:, -1:], mask[:, -1:], train=train)
    terms.metrics.pop('accuracy_per_frame', None)  # there is but one
    return terms

  def set_normalization(self, moments: Moments) -> None:
    self.state.set(*moments('proprioception'))
