"""A variant of RT-1 that sees several cameras, or several time steps, at once, and knows the robot's own state.

A picture is one view at one step. What becomes of them, for B robots with six views (`views` 6, `window` 1; six time
steps are `views` 1, `window` 6, and images [B, 6, 1, 300, 300, 3]):

    pictures of the newest step, uint8                 images           [B, 1, 6, 300, 300, 3]
    resize, normalise                                  normalized       [6B, 300, 300, 3]
    EfficientNet-B3, FiLM after each block             features         [6B, 9, 9, 1536]
    1x1 convolution, FiLM                              projected        [6B, 9, 9, 512]
    all pictures side by side, oldest step first       picture_tokens   [B, 1, 486, 512]
    + language token, state token, + positions         sequence         [B, 488, 512]
    encoder, 8 layers, all attend to all               encoded          [B, 488, 512]
    TokenLearner                                       learned          [B, 8, 512]
    + positions, decoder, 1 causal layer               decoded          [B, 8, 512]
    one head per action token                          logits           [B, 1, 7, 256]

The sequence, and how eight learned tokens become seven action tokens: the last seven are read in order, so that each
head sees the tokens up to its own (the first head two of them, the last all), and none is learned in vain.

    p1 ... p486 language state  ->  l1   l2   l3   l4   l5     l6     l7    l8
                                         |    |    |    |      |      |     |
                                         x    y    z    roll   pitch  yaw   gripper

The pictures' FiLM layers get the instruction of their own step; the language token and the state token are those of the
newest step, whose action alone is predicted and counts in the loss. A head has as many outputs as its token has values
(256 bins, 2 classes); the logits of the others, up to the vocabulary's 256, are so low that they have no probability,
in the loss as in the policy. Pictures that are not there (steps before an episode, a camera that a dataset lacks) are
hidden from attention and TokenLearner.
"""
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig
from rtjax.models.backbones.image_encoder import PictureEncoder
from rtjax.models.layers.common import StateToken
from rtjax.models.layers.post_norm import PostNormLayer, glorot
from rtjax.models.layers.token_learner import TokenLearner
from rtjax.models.loss import IMPOSSIBLE, LossTerms, action_loss


@dataclasses.dataclass(frozen=True)
class MultiviewConfig:
  """The network's shape; the defaults are six cameras.

  Attributes:
    action_spec: what it acts with.
    views: V, cameras.
    window: T, steps it sees.
    image_size: height and width that pictures are resized to.
    encoder: the EfficientNet, shared by all pictures.
    embedding_size: width of the instruction embedding.
    proprioception_size: P, numbers of the robot's state.
    learned_tokens: what TokenLearner leaves of the sequence; at least one per action token.
    width, heads: of encoder and decoder; a head has width / heads channels.
    layers: of the encoder.
    hidden: width of the hidden layer of encoder's and decoder's MLPs.
    dropout: in encoder and decoder.
    dtype: numbers to compute in; parameters are always float32.
  """
  action_spec: ActionSpec = actions.POSE_7D
  views: int = 6
  window: int = 1
  image_size: tuple[int, int] = (300, 300)
  encoder: EfficientNetConfig = EfficientNetConfig()  # noqa: RUF009 (frozen)
  embedding_size: int = 512
  proprioception_size: int = 7
  learned_tokens: int = 8
  width: int = 512
  heads: int = 8
  layers: int = 8
  hidden: int = 2048
  dropout: float = 0.1
  dtype: Literal['float32', 'bfloat16'] = 'float32'

  horizon: ClassVar[int] = 1  # F: the newest step's action
  padding: ClassVar[str] = 'front'  # the newest step is always in the last place
  decoding: ClassVar[Literal['argmax', 'mean']] = 'argmax'

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
  def picture_tokens(self) -> int:
    """Tokens of one picture: the positions of its last feature map."""
    return self.encoder.out_size(self.image_size[0]) * self.encoder.out_size(self.image_size[1])

  @property
  def tokens(self) -> int:
    """Tokens of the encoder: those of all pictures, the language token and the state token."""
    return self.window * self.views * self.picture_tokens + 2

  def to_dict(self) -> dict[str, Any]:
    return {'model': 'rt1_multiview'} | dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, config: dict[str, Any]) -> 'MultiviewConfig':
    values = {key: value for key, value in config.items() if key != 'model'}
    values |= {'encoder': EfficientNetConfig.from_dict(values['encoder']), 'image_size': tuple(values['image_size']),
               'action_spec': ActionSpec.from_dict(values['action_spec'])}
    return cls(**values)


class History(NamedTuple):
  """What a policy remembers between steps: nothing where the window is one step.

  Attributes:
    tokens: picture tokens of the T - 1 steps before, the newest last; each with the instruction of its own time.
    steps: how many of these were there, up to T - 1.
  """
  tokens: Float[Array, 'B t N D']
  steps: Int[Array, ' B']


class RT1Multiview(nnx.Module):
  """See the module's docstring. Calling it runs inference, compiled; `apply` is the same without, and for training."""

  def __init__(self, config: MultiviewConfig, *, rngs: nnx.Rngs):
    c = self.config = config
    dtype = jnp.dtype(c.dtype)
    layer = functools.partial(PostNormLayer, c.width, c.heads, c.hidden, c.dropout, dtype=dtype, rngs=rngs)
    linear = functools.partial(nnx.Linear, kernel_init=glorot, dtype=dtype, rngs=rngs)
    position = nnx.initializers.normal(0.02)
    self.tokenizer = PictureEncoder(c.encoder, c.image_size, c.embedding_size, c.width, dtype=dtype, rngs=rngs)
    self.language = linear(c.embedding_size, c.width)
    self.state = StateToken(c.proprioception_size, c.width, dtype=dtype, rngs=rngs)
    self.position = nnx.Param(position(rngs.params(), (c.tokens, c.width)))
    self.encoder = nnx.List([layer() for _ in range(c.layers)])
    self.token_learner = TokenLearner(c.width, c.learned_tokens, dtype=dtype, rngs=rngs)
    self.learned_position = nnx.Param(position(rngs.params(), (c.learned_tokens, c.width)))
    self.decoder = layer()
    self.heads = nnx.List([linear(c.width, bins) for bins in c.action_spec.token_bins])

  def __call__(self, images: Array | np.ndarray, embeddings: Array | np.ndarray, proprioception: Array | np.ndarray,
               frames: Array | np.ndarray | None = None) -> Float[Array, 'B 1 K bins']:
    """Logits of the newest step's action, in inference mode.

    Args:
      images: uint8 [B, T, V, H, W, 3], or [B, T, H, W, 3] of a single view; resized and normalised here. Fewer steps
        than the window's are its newest ones.
      embeddings: float32 [B, 512], one instruction for the window, or [B, T, 512].
      proprioception: float32 [B, T, P], in the units of the training data; the newest step's is looked at.
      frames: bool [B, T], or [B, T, V] to tell views apart: which pictures are there. None: all.

    Raises:
      ValueError: for shapes or types the network cannot take.
    """
    self.check_inputs(images, embeddings, proprioception, frames)
    inputs = jax.tree.map(jnp.asarray, (images, embeddings, proprioception, frames))
    return _compiled_apply(*nnx.split(self), *inputs)

  def check_inputs(self, images: Any, embeddings: Any, proprioception: Any, frames: Any = None) -> None:
    c, shape = self.config, tuple(images.shape)
    views = shape[2] if len(shape) == 6 else 1
    if len(shape) not in (5, 6) or shape[-1] != 3 or views != c.views or not 1 <= shape[1] <= c.window:
      single = ' or [B, T, H, W, 3]' if c.views == 1 else ''
      raise ValueError(f'images has shape {shape}, expected [B, T, {c.views}, H, W, 3]{single} with T from 1 to '
                       f'{c.window}: this network has {c.views} view(s) and a window of {c.window} step(s).')
    if images.dtype != np.uint8:
      raise ValueError(f'images has type {images.dtype}, expected uint8 in 0..255: pictures as the camera gives them.')
    batch, steps = shape[:2]
    given = {'embeddings': embeddings, 'proprioception': proprioception, 'frames': frames}
    allowed: dict[str, list[tuple[int, ...]]] = {
        'embeddings': [(batch, c.embedding_size), (batch, steps, c.embedding_size)],
        'proprioception': [(batch, steps, c.proprioception_size)],
        'frames': [(batch, steps), (batch, steps, c.views)]}
    for name, array in given.items():
      if array is not None and tuple(array.shape) not in allowed[name]:
        raise ValueError(f'{name} has shape {tuple(array.shape)}, expected {" or ".join(map(str, allowed[name]))}.')

  def apply(self, images: Array, embeddings: Array, proprioception: Array, frames: Array | None = None,
            train: bool = False, rngs: nnx.Rngs | None = None) -> Float[Array, 'B 1 K bins']:
    """As `__call__`, in plain traceable code. In training, BatchNorm takes the batch's statistics and moves its own.

    Args:
      images: uint8, or float32 in 0..255 (augmented).
      rngs: stream `dropout`; None leaves dropout and drop connect out.
    """
    if embeddings.ndim == 2:
      embeddings = jnp.broadcast_to(embeddings[:, None], (*images.shape[:2], embeddings.shape[-1]))
    tokens = self.picture_tokens(images, embeddings, train, rngs)
    return self.decode(tokens, embeddings[:, -1], proprioception[:, -1], frames, rngs)

  def picture_tokens(self, images: Array, embeddings: Float[Array, 'B T E'], train: bool = False,
                     rngs: nnx.Rngs | None = None) -> Float[Array, 'B T N D']:
    """The tokens of every step's pictures, view by view."""
    batch, steps, size = embeddings.shape
    pictures = images.reshape(-1, *images.shape[-3:])
    each = jnp.repeat(embeddings.reshape(-1, size), self.config.views, axis=0)
    features = self.tokenizer.features(pictures, each, train, rngs)
    return features.reshape(batch, steps, -1, features.shape[-1])

  def decode(self, picture_tokens: Float[Array, 'B T N D'], embeddings: Float[Array, 'B E'],
             proprioception: Float[Array, 'B P'] | None, frames: Array | None = None,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B 1 K bins']:
    """Picture tokens of a window, and the newest step's instruction and state, to the logits of its action."""
    visible = None if frames is None else self.visible(frames)
    encoded = self.encode(self.sequence(picture_tokens, embeddings, proprioception), visible, rngs)
    learned = self.token_learner(encoded, visible)
    return self.read(self.decode_learned(learned, rngs))[:, None]

  def sequence(self, picture_tokens: Float[Array, 'B T N D'], embeddings: Float[Array, 'B E'],
               proprioception: Float[Array, 'B P'] | None) -> Float[Array, 'B n D']:
    """Pictures, language, state, each with its position. Fewer steps than the window's take its newest places."""
    batch, _, _, width = picture_tokens.shape
    others = jnp.stack([self.language(embeddings), self.state(proprioception)], 1)
    tokens = jnp.concatenate([picture_tokens.reshape(batch, -1, width), others], 1)
    return tokens + self.position[-tokens.shape[1]:].astype(tokens.dtype)

  def visible(self, frames: Bool[Array, 'B T *V']) -> Bool[Array, 'B n']:
    """Which tokens of the sequence are there, from which pictures are."""
    c = self.config
    pictures = jnp.broadcast_to(frames if frames.ndim == 3 else frames[..., None], (*frames.shape[:2], c.views))
    tokens = jnp.repeat(pictures.reshape(len(frames), -1), c.picture_tokens, axis=1)
    return jnp.pad(tokens, ((0, 0), (0, 2)), constant_values=True)

  def encode(self, x: Float[Array, 'B N D'], visible: Bool[Array, 'B N'] | None = None,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    mask = None if visible is None else jnp.broadcast_to(visible[:, None], (*x.shape[:2], x.shape[1]))
    for layer in self.encoder:
      x = layer(x, mask, rngs)
    return x

  def decode_learned(self, learned: Float[Array, 'B n D'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B n D']:
    batch, count, _ = learned.shape
    causal = jnp.broadcast_to(np.tri(count, dtype=bool), (batch, count, count))
    return self.decoder(learned + self.learned_position[...].astype(learned.dtype), causal, rngs)

  def read(self, decoded: Float[Array, 'B n D']) -> Float[Array, 'B K bins']:
    spec = self.config.action_spec
    tokens = decoded[:, -spec.num_tokens:].swapaxes(0, 1)
    logits = [head(token).astype(jnp.float32) for head, token in zip(self.heads, tokens, strict=True)]
    return jnp.stack([jnp.pad(part, ((0, 0), (0, spec.vocab_size - part.shape[-1])), constant_values=IMPOSSIBLE)
                      for part in logits], 1)

  def empty_history(self, batch: int) -> History:
    """What a policy remembers before its first step, of `batch` robots."""
    c = self.config
    shape = (batch, c.window - 1, c.views * c.picture_tokens, c.width)
    return History(jnp.zeros(shape, c.dtype), jnp.zeros(batch, jnp.int32))

  def advance(self, history: History, images: Array, embeddings: Float[Array, 'B E'],
              proprioception: Float[Array, 'B P'] | None = None) -> tuple[History, Float[Array, 'B K bins']]:
    """Takes in one step of each of B robots: the logits are those of `apply` on the steps up to it.

    Args:
      images: uint8 [B, V, H, W, 3], or [B, H, W, 3] of a single view.

    Returns:
      The history with this step, and the logits of the action to take now.

    Raises:
      ValueError: without proprioception.
    """
    newest = self.picture_tokens(images[:, None], embeddings[:, None])
    tokens = jnp.concatenate([history.tokens, newest], 1)
    frames = history.steps[:, None] >= np.arange(self.config.window)[::-1]  # by age
    logits = self.decode(tokens, embeddings, proprioception, frames)[:, 0]
    return History(tokens[:, 1:], jnp.minimum(history.steps + 1, self.config.window - 1)), logits

  def loss(self, batch: Mapping[str, Any], *, train: bool, rngs: nnx.Rngs | None = None) -> LossTerms:
    """Mean cross-entropy of the tokens of the newest step's recorded action.

    Args:
      batch: `images`, `embeddings`, `proprioception`, `frames`, and `actions` [B, T, 1, A] and `mask` [B, T, 1], of
        which the newest step's count.
      train: with batch statistics, dropout (given `rngs`) and only the cheap metrics.
    """
    if 'proprioception' not in batch:
      raise ValueError("the batch has no 'proprioception', which this network needs: say --pipeline.proprioception and "
                       'train on datasets whose adapters name it.')
    inputs = {name: batch[name] for name in ('images', 'embeddings', 'proprioception', 'frames')}
    self.check_inputs(**inputs)
    logits = self.apply(**inputs, train=train, rngs=rngs)
    terms = action_loss(self.config.action_spec, logits, batch['actions'][:, -1:], batch['mask'][:, -1:], train=train)
    terms.metrics.pop('accuracy_per_step', None)  # there is but one
    return terms

  def loss_scale(self, batch_size: int) -> float:
    """What the mean cross-entropy is multiplied by."""
    return 1.0

  def standardize(self, moments: Callable[[str], tuple[np.ndarray, np.ndarray]]) -> None:
    """Keeps mean and standard deviation (float [P]) of the training data's proprioception with the weights.

    Args:
      moments: gives both, by the statistics' name.

    Raises:
      ValueError: if the data has another number of them than the network.
    """
    self.state.set(*moments('proprioception'))


@functools.partial(jax.jit, static_argnums=0)
def _compiled_apply(graphdef: nnx.GraphDef, state: Any, *inputs: Any) -> Array:
  return nnx.merge(graphdef, state).apply(*inputs)
