"""RT-2 (Brohan et al. 2023): a vision-language model that answers with actions.

    images         [B, T, H, W, 3]  ->  backbone's image encoder  ->  [B, T * N, D]   N tokens of each frame
    prompt         [B, L]           ->  embedding                 ->  [B, L, D]       padded
    proprioception [B, T, S]        ->  linear, newest frame      ->  [B, 1, D]       s, optional

    prefix   v1 ... vN (oldest frame) ... v1 ... vN (newest)  p1 ... pL  [s]  [g1 ... gn]     full attention
                                     |
    decode, causal, attends to the prefix:
      action_head 'classifier'   q1 ... qK     learned queries, in one pass; classifier k has V bins and reads qk
      action_head 'text'         > a1 ... aK   "1 128 91 241 5 101 127": each the likeliest of the ids of the V bins
      action_head 'fast'         > a1 a2 ...   a chunk of actions in fewer tokens, as many as it takes (fast.py)
      language                   > w1 w2 ...   an answer, a caption, 'yes' or 'no', up to the end of the text

With a horizon F > 1 there are K * F queries or tokens: the next F actions, one after the other.

The prompt alone tells the task (rtjax/language/prompts.py). The backbone is any of the interface in
rtjax/models/backbones/vision_language.py; by default it is PaLI.

Additions to the paper, off by default, help small networks that are trained from scratch: the state token s, and
`auxiliary`: grounded tokens g, pooled from the newest frame's feature map by attention of the prompt
(language_pooling.py). They predict the hindsight waypoint, and with s reach the classifiers directly, since most of an
action is the direction from the gripper to its waypoint (waypoint.py). The first of them learns to attend to the object
that a prompt points at (pointing.py).

Source: RT-2, sections 3.2 and 3.3.
"""
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from rtjax.language import prompts
from rtjax.models import parameters, registry
from rtjax.models.auxiliary.language_pooling import LanguageAttentionPooling
from rtjax.models.auxiliary.waypoint import GroundingResidual, WaypointHead
from rtjax.models.backbones.vision_language import Cache, Memory, VisionLanguageBackbone
from rtjax.models.base import LossTerms, Moments, PolicyModel
from rtjax.models.layers import initializers, lora
from rtjax.models.layers.common import StateToken, lecun_linear
from rtjax.models.layers.frame_cache import FrameCache
from rtjax.models.layers.lora import LoraConfig
from rtjax.models.rt2 import decoding, fast
from rtjax.models.rt2.config import RT2Config
from rtjax.models.rt2.loss import robot_loss, text_loss
from rtjax.observation import Batch, Observation, TextBatch


class EncodedImages(NamedTuple):
  """Output of `RT2.encode_images`.

  Attributes:
    tokens: image tokens of each frame.
    feature_map: feature map of the newest frame, for backbones that have one.
  """
  tokens: Float[Array, 'B T N D']
  feature_map: Float[Array, 'B H W C'] | None


class Context(NamedTuple):
  """All that actions and answers are decoded from.

  Attributes:
    memory: the backbone's memory of the prefix.
    grounded: grounded tokens, for models with language-attention pooling.
    scores: attention logits behind each of them over the positions of the feature map.
    state: state token, for models that use proprioception.
  """
  memory: Memory
  grounded: Float[Array, 'B n D'] | None
  scores: Float[Array, 'B n N'] | None
  state: Float[Array, 'B D'] | None


class ActionClassifier(nnx.Module):
  """A learned query and a linear map to bins per action token."""

  def __init__(self, tokens: int, bins: int, width: int, *, rngs: nnx.Rngs):
    normal = initializers.normal
    self.queries = nnx.Param(normal(1.0)(rngs.params(), (tokens, width)))  # the scale of T5's embeddings
    self.kernel = nnx.Param(normal(width ** -0.5)(rngs.params(), (tokens, width, bins)))
    self.bias = nnx.Param(jnp.zeros((tokens, bins)))

  def __call__(self, hidden: Float[Array, 'B K D']) -> Float[Array, 'B K V']:
    """Return float32 logits, given the outputs of the queries."""
    return jnp.einsum('bkd,kdv->bkv', hidden.astype(jnp.float32), self.kernel[...]) + self.bias[...]


@registry.register('rt2', RT2Config)
class RT2(PolicyModel):
  """RT-2; see the module's docstring."""
  config: RT2Config
  backbone: VisionLanguageBackbone

  def __init__(self, config: RT2Config, *, rngs: nnx.Rngs):
    c, auxiliary, width, dtype = config, config.auxiliary, config.backbone.width, jnp.dtype(config.dtype)
    count, features = auxiliary.language_tokens, config.backbone.feature_width(config.auxiliary.stem)
    is_classifier = c.action_head == 'classifier'
    self.config = c
    self.backbone = registry.model_class(c.backbone)(c.backbone, stem=auxiliary.stem, rngs=rngs)
    self.state = StateToken(c.proprioception_size, width, dtype=dtype, rngs=rngs) if c.proprioception_size else None
    # Added to the tokens of each frame, the newest last.
    age = initializers.normal(0.02)
    self.frame_age = nnx.Param(age(rngs.params(), (c.window, width))) if c.window > 1 else None
    self.classifier = ActionClassifier(
        c.horizon * c.action_spec.num_tokens, c.action_spec.vocab_size, width, rngs=rngs) if is_classifier else None
    self.language_pooling = LanguageAttentionPooling(width, features, count, dtype=dtype, rngs=rngs) if count else None
    self.grounding_projection = lecun_linear(features, width, dtype=dtype, rngs=rngs) if count else None
    self.grounding_residual = GroundingResidual(
        (count + (self.state is not None)) * width, width, dtype=dtype, rngs=rngs) if count and is_classifier else None
    self.waypoint = WaypointHead(count, width, dtype=dtype, rngs=rngs) if auxiliary.waypoint_weight else None
    lora.adapt(self, c.lora, rngs=rngs)

  def logits(self, observation: Observation, *, train: bool = False,
             rngs: nnx.Rngs | None = None) -> Float[Array, 'B 1 KF V']:
    """Return logits of the newest frame's action tokens.

    Args:
      rngs: stream `dropout`; None turns dropout off.
    """
    return self.action_logits(self.encode_observation(observation, rngs), rngs)[:, None]

  def encode_observation(self, observation: Observation, rngs: nnx.Rngs | None = None) -> Context:
    """Return the context of an observation."""
    assert observation.prompt is not None  # `check` requires it
    images, state = self.encode_images(observation.images, rngs), self.encode_state(observation.proprioception)
    return self.encode(images, observation.prompt, observation.frame_mask, state, rngs)

  def encode_state(self, proprioception: Float[Array, 'B T S'] | None) -> Float[Array, 'B D'] | None:
    """Return the state token of the newest frame; None for models without.

    Raises:
      ValueError: the model uses proprioception, and it is missing.
    """
    if self.state is None:
      return None
    return self.state(None if proprioception is None else proprioception[:, -1])

  def encode_images(self, images: Num[Array, 'B T H W 3'], rngs: nnx.Rngs | None = None) -> EncodedImages:
    """Return image tokens, and the newest frame's feature map.

    Args:
      images: in 0..255, as a camera gives them.
    """
    lead = images.shape[:2]
    tokens, features = self.backbone.embed_images(images.reshape(-1, *images.shape[2:]), rngs)
    newest = None if features is None else features.reshape(*lead, *features.shape[1:])[:, -1]
    return EncodedImages(tokens.reshape(*lead, *tokens.shape[1:]), newest)

  def encode(self, images: EncodedImages, prompt: Int[Array, 'B L'], frame_mask: Bool[Array, 'B T'] | None = None,
             state: Float[Array, 'B D'] | None = None, rngs: nnx.Rngs | None = None) -> Context:
    """Return the context of frames, a prompt and a state token.

    Args:
      images: the newest frame is the last.
      frame_mask: False where a frame is padding; None: all are real.
    """
    tokens, (batch, frames, count, width) = images.tokens, images.tokens.shape
    if self.frame_age is not None:
      tokens = tokens + self.frame_age[...][-frames:, None].astype(tokens.dtype)
    text, text_mask = self.backbone.embed_text(prompt), prompt != self.config.backbone.pad_id
    real = jnp.ones((batch, frames), bool) if frame_mask is None else frame_mask
    parts = [(tokens.reshape(batch, frames * count, width), jnp.repeat(real, count, axis=1)), (text, text_mask)]
    if state is not None:
      parts.append((state[:, None], jnp.ones((batch, 1), bool)))
    grounded, scores = self.ground(images.feature_map, text, text_mask)
    if grounded is not None:
      parts.append((grounded, jnp.ones(grounded.shape[:2], bool)))
    sequence = jnp.concatenate([part.astype(tokens.dtype) for part, _ in parts], 1)
    memory = self.backbone.prefix(sequence, jnp.concatenate([mask for _, mask in parts], 1), rngs)
    return Context(memory, grounded, scores, state)

  def ground(self, feature_map: Float[Array, 'B H W C'] | None, text: Float[Array, 'B L D'],
             text_mask: Bool[Array, 'B L']) -> tuple[Float[Array, 'B n D'] | None, Float[Array, 'B n N'] | None]:
    """Return grounded tokens and their attention logits.

    Both are None for models without language-attention pooling. The prompt's words attend together: their sum, at the
    scale of one of them.
    """
    if self.language_pooling is None or self.grounding_projection is None or feature_map is None:
      return None, None
    words = jnp.sum(jnp.where(text_mask[..., None], text, 0), 1)
    words = words / jnp.sqrt(jnp.maximum(jnp.sum(text_mask, 1), 1))[:, None]
    features = self.language_pooling.add_coordinates(feature_map)
    scores = self.language_pooling.scores(features, words.astype(text.dtype))
    return self.grounding_projection(self.language_pooling.pool(features, scores)), scores

  def action_logits(self, context: Context, rngs: nnx.Rngs | None = None) -> Float[Array, 'B KF V']:
    """Return logits of the action tokens.

    As text, each token is given the likeliest of those before it.
    """
    c, (batch, _) = self.config, context.memory.mask.shape
    if c.action_codec is not None:
      cache = self.backbone.start_cache(context.memory, length=c.horizon * c.action_spec.size)
      return fast.decode_chunks(self._decode_step, cache, c.action_codec, self.action_ids, batch=batch,
                                begin=c.backbone.begin_id)
    if self.classifier is None:
      allowed = decoding.allowed_bins(c.action_spec.token_bins * c.horizon, c.action_spec.vocab_size)
      cache = self.backbone.start_cache(context.memory, length=len(allowed))
      return decoding.decode_actions(self._decode_step, cache, self.action_ids, allowed, batch=batch,
                                     begin=c.backbone.begin_id)
    queries = self.classifier.queries[...]
    hidden = self.backbone.decode(jnp.broadcast_to(queries, (batch, *queries.shape)), context.memory, rngs)
    if self.grounding_residual is not None and context.grounded is not None:
      grounded = context.grounded.reshape(batch, -1)
      inputs = grounded if context.state is None else jnp.concatenate([grounded, context.state], -1)
      hidden = hidden + self.grounding_residual(inputs)[:, None]
    return self.classifier(hidden)

  def text_logits(self, context: Context, targets: Int[Array, 'B M'], rngs: nnx.Rngs | None = None
                  ) -> Float[Array, 'B M vocab']:
    """Return logits of each token of a text (teacher forcing)."""
    inputs = jnp.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=self.config.backbone.begin_id)
    return self.backbone.logits(self.backbone.decode(inputs, context.memory, rngs))

  def check_text(self, batch: TextBatch) -> None:
    """Raise ValueError unless the pointing loss can use all grids."""
    auxiliary = self.config.auxiliary
    if not auxiliary.pointing_weight:
      return
    size = min(self.config.image_size) // auxiliary.stem.patch
    grid = np.asarray(batch.grid)[np.asarray(batch.points)[:, 0] >= 0]
    wrong = grid[(grid < 1) | (grid > size)]
    if wrong.size:
      raise ValueError(f'pairs that point have a grid of {sorted(set(wrong.tolist()))} cells across, expected 1 to '
                       f'{size}, the size of the feature map. Give the grid in the data, or train without the pointing '
                       'loss: --model.auxiliary.pointing-weight 0.')

  def init_cache(self, batch_size: int) -> FrameCache:
    c = self.config
    return FrameCache.empty(batch_size, c.window - 1, c.backbone.image_tokens, c.backbone.width, c.dtype)

  def step(self, cache: FrameCache, observation: Observation) -> tuple[FrameCache, Float[Array, 'B K V']]:
    assert observation.prompt is not None  # `check` requires it
    newest = self.encode_images(observation.images)
    tokens, frame_mask, cache = cache.append(newest.tokens)
    context = self.encode(EncodedImages(tokens, newest.feature_map), observation.prompt, frame_mask,
                          self.encode_state(observation.proprioception))
    return cache, self.action_logits(context)

  def loss(self, batch: Batch, *, train: bool, rngs: nnx.Rngs | None = None) -> LossTerms:
    """Return the loss of recorded actions, of answers, or of both.

    Args:
      batch: with windows, whose newest frame counts, with `text`, or with both.
      train: label smoothing, and no metrics that cost time. Otherwise answers are generated too.
      rngs: stream `dropout`; None turns dropout off.
    """
    parts = []
    if batch.observation is not None:
      parts.append(robot_loss(self, batch, train=train, rngs=rngs))
    if batch.text is not None:
      parts.append(text_loss(self, batch.text, train=train, rngs=rngs))
    metrics = {name: pair for part in parts for name, pair in part.metrics.items()}
    return LossTerms(sum((part.total for part in parts), jnp.float32(0)), parts[0].weight, metrics)

  def generate(self, images: np.ndarray, texts: Sequence[str] | np.ndarray, *, task: str = '',
               length: int | None = None, temperature: float = 0.0, top_k: int = 0, seed: int = 0) -> Any:
    """Answer texts about images, compiled: `model.generate(images, ['what is red?'], task='vqa')`.

    Args:
      images: uint8 [B, H, W, 3].
      texts: B instructions, questions or captions of a `task`; complete prompts where no task is named; or token ids
        of prompts, padded: integers [B, L].
      task: one of rtjax.language.prompts.TASKS.
      length: most tokens of an answer, its end included; None: `config.answer_length`.
      temperature, top_k: 0: the likeliest token; above, one drawn from the `top_k` likeliest (0: from all).
      seed: of the random numbers.

    Returns:
      B texts; or for token ids, ids: int32 [B, M], padded after the end of the text.

    Raises:
      ValueError: wrong images, an unknown task, a text that is too long, or texts for a model without a tokenizer.
    """
    ids = texts.astype(np.int32) if isinstance(texts, np.ndarray) else self.encode_prompts(texts, task)
    if isinstance(texts, np.ndarray) and task:
      raise ValueError(f'task is {task!r} and texts are token ids: ids are complete prompts, give no task with them.')
    images, length = np.asarray(images), self.config.answer_length if length is None else length
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
      raise ValueError(f'images is {images.dtype} {images.shape}, expected uint8 [B, H, W, 3]: an image for each text.')
    if ids.shape != (len(images), self.config.prompt_length):
      raise ValueError(f'prompts has shape {ids.shape}, expected ({len(images)}, {self.config.prompt_length}): one for '
                       'each image, padded to prompt_length.')
    for name, value, least in (('length', length, 1), ('temperature', temperature, 0), ('top_k', top_k, 0)):
      if value < least:
        raise ValueError(f'{name} is {value}, it must be at least {least}.')
    answers = np.asarray(_compiled_generate(*nnx.split(self), images, ids, jax.random.key(seed), length=length,
                                            temperature=temperature, top_k=top_k))
    return answers if self.tokenizer is None or isinstance(texts, np.ndarray) else self.tokenizer.decode(answers)

  def encode_prompts(self, texts: Sequence[str], task: str = '') -> Int[np.ndarray, 'B L']:
    """Return token ids of the prompts of a task, padded.

    Args:
      texts: as in `generate`.

    Raises:
      ValueError: the model has no tokenizer, the task is unknown, or a text is too long.
    """
    if self.tokenizer is None:
      raise ValueError('this model has no tokenizer to read texts with: load it from its checkpoint with '
                       'rtjax.load_model, or give token ids.')
    full = [prompts.prompt(task, text) for text in texts] if task else list(texts)
    return self.tokenizer.encode(full, self.config.prompt_length, self.config.prompt_format)

  def generate_ids(self, images: Num[Array, 'B H W 3'], prompt: Int[Array, 'B L'], key: Array, *,
                   length: int | None = None, temperature: float = 0.0, top_k: int = 0) -> Int[Array, 'B M']:
    """Return answers as token ids, in traceable code.

    Args:
      length, temperature, top_k: as in `generate`.
    """
    c, backbone = self.config, self.config.backbone
    length = length or c.answer_length
    cache = self.backbone.start_cache(self.encode(self.encode_images(images[:, None]), prompt).memory, length=length)
    return decoding.generate(
        self._decode_step, cache, key, batch=len(images), length=length, begin=backbone.begin_id, end=backbone.end_id,
        pad=backbone.pad_id, temperature=temperature, top_k=top_k)

  def set_normalization(self, moments: Moments) -> None:
    if self.state is not None:
      self.state.set(*moments('proprioception'))
    if self.waypoint is not None:
      self.waypoint.set_normalization(*moments('proprioception'))

  def merged(self) -> 'RT2':
    """Return a copy whose kernels hold the sum of LoRA's adapters."""
    if not lora.adapted(self):
      return self
    model = registry.from_values(dataclasses.replace(self.config, lora=LoraConfig()), parameters.merged(self))
    model.tokenizer = self.tokenizer
    return model

  @property
  def action_ids(self) -> Int[np.ndarray, ' V']:
    """Text token of each bin, or of each of the codec's tokens.

    Raises:
      ValueError: the configuration has none.
    """
    if not self.config.action_ids:
      raise ValueError(f'model.action_head is {self.config.action_head!r} and model.action_ids is empty: take the '
                       'configuration from `config.with_tokenizer(tokenizer)`, for FAST after `.with_codec(chunks)`.')
    return np.array(self.config.action_ids, np.int32)

  def _decode_step(self, cache: Cache, tokens: Int[Array, ' B']) -> tuple[Cache, Float[Array, 'B vocab']]:
    cache, hidden = self.backbone.decode_step(cache, tokens)
    return cache, self.backbone.logits(hidden)


@functools.partial(jax.jit, static_argnums=0, static_argnames=('length', 'temperature', 'top_k'))
def _compiled_generate(graphdef: nnx.GraphDef, state: Any, images: Array, ids: Array, key: Array, **options: Any
                       ) -> Array:
  return nnx.merge(graphdef, state).generate_ids(images, ids, key, **options)
