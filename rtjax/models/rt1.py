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

RT-1-X (Open X-Embodiment 2023) is the same network with the settings of `RT1_X`: SAME padding and so 10x10 positions,
of which TokenLearner makes 81 tokens, 15 frames, 512 bins, SwiGLU, and a mask that hides actions from everyone.

Additions to the paper, all off by default, help small networks that are trained from scratch (docs/tabletop.md):
`queried_tokens`, `proprioception_size`, `waypoint_weight`, `standardize_embeddings`, `smoothing`, `decoding`, and dense
stages of the encoder.

Source: robotics_transformer, transformer_network.py, film_efficientnet/ and tokenizers/;
google-deepmind/open_x_embodiment, models/rt1.py.
"""
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from rtjax import actions
from rtjax.actions import ActionSpec
from rtjax.models.auxiliary.language_pooling import QueriedTokens
from rtjax.models.auxiliary.waypoint import WaypointHead
from rtjax.models.backbones.film_efficientnet import EfficientNetConfig
from rtjax.models.backbones.image_encoder import PictureEncoder
from rtjax.models.layers.common import Standardize, StateToken, check_proprioception
from rtjax.models.layers.token_learner import TokenLearner
from rtjax.models.layers.transformer import Transformer, TransformerConfig, attention_mask
from rtjax.models.loss import LossTerms, action_loss


class History(NamedTuple):
  """What a policy remembers between steps.

  Attributes:
    tokens: image tokens of the frames seen, each with the instruction of its own time.
    frames: how many frames were seen, up to T.
  """
  tokens: Float[Array, 'B T N D']
  frames: Int[Array, ' B']


@dataclasses.dataclass(frozen=True)
class RT1Config:
  """The network's shape; the defaults are the official one.

  Attributes:
    action_spec: what it acts with.
    window: T, frames it sees.
    padding: where a window that is not full has its blank frames: 'back' as the official policy, which fills its slots
      from the first one on and hides the later ones by causality; 'front' as RT-1-X, whose newest frame is always in
      the last slot. Training cuts its windows the same way.
    horizon: F, actions predicted at each step: this one and the F - 1 after it.
    image_size: height and width that pictures are resized to.
    encoder: the EfficientNet.
    image_tokens: tokens that TokenLearner makes of a frame.
    queried_tokens: tokens of a frame besides these, which the instruction asks for (queried_tokens.py).
    proprioception_size: P, numbers of the robot's state, which is one more token of a frame; 0 = it is not looked at.
    embedding_size: width of the instruction embedding.
    token_width: width of an image token.
    width, layers, heads, head_size: of the transformer.
    feed_forward, dropout, shared_dropout: of the transformer, see `TransformerConfig`.
    images_see_actions: whether image tokens attend to the action tokens of earlier steps, as in the official mask.
    standardize_embeddings: centre instruction embeddings on their mean in the training data, and scale them.
    waypoint_weight: weight of the hindsight waypoint's squared error in the loss (waypoint.py); 0 = none.
    smoothing: standard deviation, in bins, over which the targets spread to neighbouring bins; 0 = one-hot.
    decoding: 'argmax', the likeliest bin, or 'mean', that of the bins by their probabilities (`ActionSpec.decode`).
    loss: 'mean' cross-entropy over tokens, or 'official': that divided by B * T * tokens per step (docs/training.md).
    dtype: numbers to compute in; parameters are always float32.
  """
  action_spec: ActionSpec = actions.RT1
  window: int = 6
  padding: Literal['back', 'front'] = 'back'
  horizon: int = 1
  image_size: tuple[int, int] = (300, 300)
  encoder: EfficientNetConfig = EfficientNetConfig()  # noqa: RUF009 (frozen)
  image_tokens: int = 8
  queried_tokens: int = 0
  proprioception_size: int = 0
  embedding_size: int = 512
  token_width: int = 512
  width: int = 512
  layers: int = 8
  heads: int = 8
  head_size: int = 128
  feed_forward: Literal['linear', 'swiglu'] = 'linear'
  images_see_actions: bool = True
  dropout: float = 0.1
  shared_dropout: bool = False
  standardize_embeddings: bool = False
  waypoint_weight: float = 0.0
  smoothing: float = 0.0
  decoding: Literal['argmax', 'mean'] = 'argmax'
  loss: Literal['mean', 'official'] = 'mean'
  dtype: Literal['float32', 'bfloat16'] = 'float32'

  views: ClassVar[int] = 1

  def __post_init__(self) -> None:
    sizes = {name: getattr(self, name) for name in (
        'window', 'horizon', 'image_tokens', 'embedding_size', 'token_width', 'width', 'layers', 'heads', 'head_size')}
    for name, value in (sizes | {'image_size': min(self.image_size)}).items():
      if value < 1:
        raise ValueError(f'model.{name} is {value}, it must be at least 1.')
    if not 0 <= self.dropout < 1:
      raise ValueError(f'model.dropout is {self.dropout}, expected 0 (none) to below 1.')
    for name in ('queried_tokens', 'proprioception_size', 'waypoint_weight', 'smoothing'):
      if getattr(self, name) < 0:
        raise ValueError(f'model.{name} is {getattr(self, name)}, expected 0 (none) or more.')

  @property
  def action_tokens(self) -> int:
    """K * F: action tokens of one step."""
    return self.action_spec.num_tokens * self.horizon

  @property
  def frame_tokens(self) -> int:
    """N: tokens of one frame."""
    return self.image_tokens + self.queried_tokens + (self.proprioception_size > 0)

  @property
  def step_tokens(self) -> int:
    return self.frame_tokens + self.action_tokens

  @property
  def transformer(self) -> TransformerConfig:
    return TransformerConfig(
        self.token_width, self.width, self.layers, self.heads, self.head_size, self.window * self.step_tokens,
        self.action_spec.vocab_size, self.feed_forward, self.dropout, self.shared_dropout)

  def to_dict(self) -> dict[str, Any]:
    return {'model': 'rt1'} | dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, config: dict[str, Any]) -> 'RT1Config':
    values = {key: value for key, value in config.items() if key != 'model'}
    values |= {'encoder': EfficientNetConfig.from_dict(values['encoder']), 'image_size': tuple(values['image_size']),
               'action_spec': ActionSpec.from_dict(values['action_spec'])}
    return cls(**values)


RT1_X = RT1Config(
    action_spec=actions.RT1_X, window=15, padding='front', image_tokens=81, head_size=256, feed_forward='swiglu',
    images_see_actions=False, shared_dropout=True, encoder=EfficientNetConfig(padding='same', unbiased=False))


class ImageTokenizer(PictureEncoder):
  """One frame and its instruction to a few tokens."""

  def __init__(self, config: RT1Config, *, rngs: nnx.Rngs):
    dtype = jnp.dtype(config.dtype)
    super().__init__(config.encoder, config.image_size, config.embedding_size, config.token_width, dtype=dtype,
                     rngs=rngs)
    self.token_learner = TokenLearner(config.token_width, config.image_tokens, dtype=dtype, rngs=rngs)
    self.embedding = Standardize(config.embedding_size) if config.standardize_embeddings else None
    self.queried = QueriedTokens(config.embedding_size, config.token_width, config.queried_tokens, dtype=dtype,
                                 rngs=rngs) if config.queried_tokens else None

  def __call__(self, images: Array, embeddings: Float[Array, 'B E'], train: bool = False,
               rngs: nnx.Rngs | None = None) -> Float[Array, 'B N D']:
    if self.embedding is not None:
      embeddings = self.embedding(embeddings)
    features = self.features(images, embeddings, train, rngs)
    if self.queried is None:
      return self.token_learner(features.reshape(features.shape[0], -1, features.shape[-1]))
    placed = self.queried.place(features)
    return jnp.concatenate([self.token_learner(placed), self.queried(placed, embeddings)], 1)


class RT1(nnx.Module):
  """See the module's docstring. Calling it runs inference, compiled; `apply` is the same without, and for training."""

  def __init__(self, config: RT1Config, *, rngs: nnx.Rngs):
    self.config = config
    self.tokenizer = ImageTokenizer(config, rngs=rngs)
    self.state = StateToken(config.proprioception_size, config.token_width, dtype=jnp.dtype(config.dtype), rngs=rngs
                            ) if config.proprioception_size else None
    self.transformer = Transformer(config.transformer, dtype=jnp.dtype(config.dtype), rngs=rngs)
    self.waypoint = WaypointHead(config.frame_tokens, config.token_width, dtype=jnp.dtype(config.dtype), rngs=rngs
                                 ) if config.waypoint_weight else None

  def __call__(self, images: Array | np.ndarray, embeddings: Array | np.ndarray,
               proprioception: Array | np.ndarray | None = None) -> Float[Array, 'B T K V']:
    """Logits of every action token of every step, in inference mode.

    Args:
      images: uint8 [B, T, H, W, 3], as the camera gives them; resized and normalised here.
      embeddings: float32 [B, 512], one instruction for the window, or [B, T, 512].
      proprioception: float32 [B, T, P] in the units of the training data, for a network that looks at it.

    Raises:
      ValueError: for shapes or types the network cannot take.
    """
    self.check_inputs(images, embeddings, proprioception)
    inputs = jax.tree.map(jnp.asarray, (images, embeddings, proprioception))
    return _compiled_apply(*nnx.split(self), *inputs)

  def check_inputs(self, images: Any, embeddings: Any, proprioception: Any = None) -> None:
    c = self.config
    if images.ndim != 5 or images.shape[-1] != 3 or not 1 <= images.shape[1] <= c.window:
      raise ValueError(f'images has shape {images.shape}, expected [B, T, H, W, 3] with T from 1 to {c.window}.')
    if images.dtype != np.uint8:
      raise ValueError(f'images has type {images.dtype}, expected uint8 in 0..255: pictures as the camera gives them.')
    allowed = [(images.shape[0], c.embedding_size), (*images.shape[:2], c.embedding_size)]
    if tuple(embeddings.shape) not in allowed:
      raise ValueError(f'embeddings has shape {tuple(embeddings.shape)}, expected {allowed[0]} or {allowed[1]}.')
    check_proprioception(proprioception, images.shape[:2], c.proprioception_size)

  def apply(self, images: Array, embeddings: Array, proprioception: Array | None = None, train: bool = False,
            rngs: nnx.Rngs | None = None) -> Float[Array, 'B T K V']:
    """As `__call__`, in plain traceable code. In training, BatchNorm takes the batch's statistics and moves its own.

    Args:
      images: uint8, or float32 in 0..255 (augmented) [B, T, H, W, 3].
      rngs: stream `dropout`; None leaves dropout and drop connect out.
    """
    return self.decode(self.tokens(images, embeddings, proprioception, train, rngs), rngs)

  def tokens(self, images: Array, embeddings: Array, proprioception: Array | None = None, train: bool = False,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B T N D']:
    """The tokens of every frame; arguments as for `apply`."""
    batch, steps = images.shape[:2]
    if embeddings.ndim == 2:
      embeddings = jnp.broadcast_to(embeddings[:, None], (batch, steps, embeddings.shape[-1]))
    tokens = self.tokenizer(images.reshape(-1, *images.shape[2:]), embeddings.reshape(batch * steps, -1), train, rngs)
    return self._with_state(tokens.reshape(batch, steps, *tokens.shape[1:]), proprioception)

  def _with_state(self, image_tokens: Float[Array, '*b N D'], proprioception: Array | None) -> Float[Array, '*b n D']:
    """The image tokens of frames and, if there is one, their state token."""
    if self.state is None:
      return image_tokens
    return jnp.concatenate([image_tokens, self.state(proprioception)[..., None, :]], -2)

  def decode(self, image_tokens: Float[Array, 'B T N D'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B T K V']:
    """Image tokens of a window to the logits of its action tokens."""
    c = self.config
    batch, steps, images, width = image_tokens.shape
    zeros = jnp.zeros((batch, steps, c.action_tokens, width), image_tokens.dtype)
    sequence = jnp.concatenate([image_tokens, zeros], 2).reshape(batch, steps * c.step_tokens, width)
    mask = attention_mask(steps, images, c.action_tokens, c.images_see_actions)
    logits = self.transformer(sequence, mask, rngs).reshape(batch, steps, c.step_tokens, -1)
    return logits[:, :, images - 1:-1]

  def decode_step(self, image_tokens: Float[Array, 'B T N D'], slot: Int[Array, ' B']) -> Float[Array, 'B K V']:
    """What `decode` gives at step `slot`, without computing what nobody looks at."""
    c = self.config
    batch, steps, images, width = image_tokens.shape
    ahead = slot[:, None] * c.step_tokens + images  # [B, 1], the place of the step's first action token
    reads = jnp.arange(c.action_tokens) - 1  # relative to it: the last image token and all action tokens but the last
    if c.images_see_actions:
      zeros = jnp.zeros((batch, steps, c.action_tokens, width), image_tokens.dtype)
      sequence = jnp.concatenate([image_tokens, zeros], 2).reshape(batch, steps * c.step_tokens, width)
      return self.transformer(sequence, attention_mask(steps, images, c.action_tokens), rows=ahead + reads)
    # Nobody attends to an action token, so those of other steps are left out:  i1 ... iN of all steps, a1 ... a(K-1).
    total, actions = steps * images, c.action_tokens - 1
    sequence = jnp.concatenate([
        image_tokens.reshape(batch, total, width), jnp.zeros((batch, actions, width), image_tokens.dtype)], 1)
    places = (np.arange(steps)[:, None] * c.step_tokens + np.arange(images)).reshape(-1)
    positions = jnp.concatenate([jnp.broadcast_to(places, (batch, total)), ahead + reads[1:]], 1)
    image = np.arange(total + actions) < total
    seen = positions[:, :, None] >= positions[:, None, :]  # [B, N, N]
    rows = jnp.concatenate([(slot[:, None] + 1) * images - 1, jnp.broadcast_to(total + reads[1:], (batch, actions))], 1)
    return self.transformer(sequence, seen & image, positions=positions, rows=rows)

  def empty_history(self, batch: int) -> History:
    """What a policy remembers before its first step, of `batch` robots."""
    c = self.config
    shape = (batch, c.window, c.frame_tokens, c.token_width)
    if c.padding == 'back':
      return History(jnp.zeros(shape, c.dtype), jnp.zeros(batch, jnp.int32))
    blank = self._with_state(self.tokenizer(jnp.zeros((1, *c.image_size, 3), jnp.uint8),
                                            jnp.zeros((1, c.embedding_size))), jnp.zeros((1, c.proprioception_size)))
    return History(jnp.broadcast_to(blank[:, None], shape), jnp.zeros(batch, jnp.int32))

  def advance(self, history: History, images: Array, embeddings: Float[Array, 'B E'],
              proprioception: Float[Array, 'B P'] | None = None) -> tuple[History, Float[Array, 'B K V']]:
    """Takes in one frame of each of B robots.

    Args:
      images: uint8 [B, H, W, 3].
      proprioception: for a network that looks at it.

    Returns:
      The history with these frames, and the logits of the actions to take now.
    """
    last = self.config.window - 1
    slot = jnp.minimum(history.frames, last) if self.config.padding == 'back' else jnp.full_like(history.frames, last)
    full = (history.frames > last) | (self.config.padding == 'front')  # every frame moves one slot down
    newest = self._with_state(self.tokenizer(images, embeddings), proprioception)
    here = (jnp.arange(last + 1) == slot[:, None])[:, :, None, None]
    kept = jnp.where(full[:, None, None, None], jnp.roll(history.tokens, -1, 1), history.tokens)
    tokens = jnp.where(here, newest[:, None], kept)
    return History(tokens, jnp.minimum(history.frames + 1, last + 1)), self.decode_step(tokens, slot)

  def loss(self, batch: Mapping[str, Any], *, train: bool, rngs: nnx.Rngs | None = None) -> LossTerms:
    """Cross-entropy of the recorded actions' tokens; with `waypoint_weight`, and the squared error of the waypoints.

    Args:
      batch: `images`, `embeddings`, `actions` [B, T, F, A] and `mask` [B, T, F], which leaves out padding; for
        distillation also `targets` [B, T, F, K, V], probabilities to learn in place of the recorded tokens; where
        the waypoints count `waypoints` [B, T, 3] and `frames` [B, T]; with a state token `proprioception` [B, T, P].
      train: with batch statistics, dropout (given `rngs`) and only the cheap metrics.
    """
    tokens = self.tokens(batch['images'], batch['embeddings'], batch.get('proprioception'), train, rngs)
    terms = self.judge(self.decode(tokens, rngs), batch, train)
    return terms if self.waypoint is None else self._add_waypoints(terms, tokens, batch)

  def _add_waypoints(self, terms: LossTerms, tokens: Float[Array, 'B T N D'], batch: Mapping[str, Any]) -> LossTerms:
    """Each frame's squared error counts as its action tokens together do, so that it adds to their mean."""
    if 'waypoints' not in batch:
      raise ValueError("the batch has no 'waypoints', which this network learns: say --pipeline.waypoints and train on "
                       'datasets whose adapters name proprioception, or set --model.waypoint-weight 0.')
    assert self.waypoint is not None
    squared, distance = self.waypoint.errors(tokens, batch['waypoints'])
    shown = batch['frames'].astype(jnp.float32)
    share = self.config.waypoint_weight * self.config.action_tokens
    return LossTerms(terms.total + share * jnp.sum(squared * shown), terms.weight,
                     terms.metrics | {'waypoint_distance': (jnp.sum(distance * shown), jnp.sum(shown))})

  def standardize(self, moments: Callable[[str], tuple[np.ndarray, np.ndarray]]) -> None:
    """Keeps what it needs of the training data's statistics with the weights.

    Args:
      moments: gives mean and standard deviation of 'embedding' or 'proprioception', float [E] and [P].
    """
    if self.tokenizer.embedding is not None:
      mean, std = moments('embedding')
      # One number scales all: a dimension that hardly ever differs from 0 would else drown the others.
      self.tokenizer.embedding.set(mean, np.full_like(std, np.sqrt(np.mean(np.square(std)))))
    if self.state is not None:
      self.state.set(*moments('proprioception'))
    if self.waypoint is not None:
      self.waypoint.standardize(*moments('proprioception'))

  def judge(self, logits: Float[Array, 'B T K V'], batch: Mapping[str, Any], train: bool) -> LossTerms:
    """The loss of logits; see `loss`."""
    terms = action_loss(self.config.action_spec, logits, batch['actions'], batch['mask'], batch.get('targets'),
                        train=train, smoothing=self.config.smoothing, decoding=self.config.decoding)
    # The official mean runs over all steps, masked ones included.
    return terms if self.config.loss == 'mean' else terms._replace(weight=jnp.float32(np.prod(logits.shape[:-1])))

  def loss_scale(self, batch_size: int) -> float:
    """What the mean cross-entropy is multiplied by: 1, or 1 / (B * T * tokens per step) as in the official code."""
    c = self.config
    return 1.0 if c.loss == 'mean' else 1.0 / (batch_size * c.window * c.step_tokens)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_apply(graphdef: nnx.GraphDef, state: Any, *inputs: Any) -> Array:
  return nnx.merge(graphdef, state).apply(*inputs)
