"""RT-2 (Brohan et al. 2023) in the manner of PaLI: a vision-language model, some of whose answers are actions.

    pictures [B, T, H, W, 3]  ->  vision transformer, projection  ->  [B, T * N, D]   N tokens of each frame
    prompt   [B, L]           ->  embedding                       ->  [B, L, D]       filled up with padding

    encoder   v1 ... vN (oldest frame) ... v1 ... vN (newest)  p1 ... pL [s] [f1 ... fn]    everyone sees all of it
                                     |
    decoder, causal, sees all of that and what it has said:
      act = 'heads'     q1 ... qK     learned queries, in one pass; head k of V bins reads qk
      act = 'text'      > a1 ... aK   "1 128 91 241 5 101 127": each the likeliest of the V ids that stand for bins
      language          > w1 w2 ...   an answer, a caption, 'yes' or 'no', up to the end of the text

What it is asked is told by the prompt alone (rtjax/language/prompts.py). A policy's "embedding" of an instruction is the ids of
the prompt as float32 [L], which holds ids up to 2**24 exactly: batches, servers and exports need no second kind.

Additions to the paper, none by default, help small networks that are trained from scratch: the state token s, of
`proprioception_size` numbers of the robot's state, and `queried_tokens` f, which the prompt asks for among the pieces
that the newest frame is cut into before its patches (queried_tokens.py). f also has to tell the waypoint (waypoint.py),
and the heads hear of both directly: what to do is mostly the way from s to f. Asked to point, f1 has to look there.

Source: RT-2, sections 3.2 and 3.3; PaLI (Chen et al. 2022), section 3.1.
"""
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from rtjax.language import prompts
from rtjax.models.auxiliary.language_pooling import QueriedTokens
from rtjax.models.auxiliary.waypoint import Follow, WaypointHead
from rtjax.models.backbones.siglip import SigLIP, SigLIPConfig
from rtjax.models.backbones.t5 import PAD, T5, shift_right
from rtjax.models.backbones.vit import ViT, ViTConfig
from rtjax.models.layers import lora
from rtjax.models.layers.common import StateToken, check_proprioception
from rtjax.models.loss import LossTerms
from rtjax.models.rt2 import decoding, loss
from rtjax.models.rt2.config import RT2Config
from rtjax.models.rt2.decoding import END
from rtjax.models.rt2.loss import newest_prompt

_VISION: dict[type, Any] = {ViTConfig: ViT, SigLIPConfig: SigLIP}


class History(NamedTuple):
  """What a policy remembers between steps.

  Attributes:
    tokens: visual tokens of the frames before the newest, the oldest first.
    frames: how many of them there are, up to T - 1.
  """
  tokens: Float[Array, 'B T-1 N D']
  frames: Int[Array, ' B']


class Seen(NamedTuple):
  """What the vision transformer makes of frames.

  Attributes:
    tokens: visual tokens of each frame.
    pieces: of the newest frame, what its stem made of them (ViT.stem): where things are, finer than patches.
  """
  tokens: Float[Array, 'B T N D']
  pieces: Float[Array, 'B h w C']


class Context(NamedTuple):
  """What the decoder goes by.

  Attributes:
    encoded, mask: the encoder's output, and which of its positions are there: what the decoder looks at.
    found: the tokens that the prompt asked for, of a network that has such.
    scores: how well each piece fits what each of them is, as logits.
    state: the state token, of a network that has one.
  """
  encoded: Float[Array, 'B S D']
  mask: Bool[Array, 'B S']
  found: Float[Array, 'B n D'] | None
  scores: Float[Array, 'B n P'] | None
  state: Float[Array, 'B D'] | None

  @property
  def memory(self) -> tuple[Float[Array, 'B S D'], Bool[Array, 'B S']]:
    return self.encoded, self.mask


class RT2(nnx.Module):
  """See the module's docstring. Calling it runs inference, compiled; `apply` is the same without."""

  def __init__(self, config: RT2Config, *, rngs: nnx.Rngs):
    c, spec, width, dtype = config, config.action_spec, config.text.width, jnp.dtype(config.dtype)
    self.config = config
    self.vision = _VISION[type(c.vision)](c.vision, rngs=rngs)
    self.projection = nnx.Linear(c.vision.width, width, dtype=dtype, rngs=rngs)
    self.text = T5(c.text, rngs=rngs)
    normal = nnx.initializers.normal
    self.state = StateToken(c.proprioception_size, width, dtype=dtype, rngs=rngs) if c.proprioception_size else None
    if c.window > 1:
      self.age = nnx.Param(normal(0.02)(rngs.params(), (c.window, width)))
    if c.act == 'heads':
      self.queries = nnx.Param(normal(1.0)(rngs.params(), (spec.num_tokens, width)))  # as T5's embeddings begin
      self.heads = nnx.Param(normal(width ** -0.5)(rngs.params(), (spec.num_tokens, width, spec.vocab_size)))
      self.heads_bias = nnx.Param(jnp.zeros((spec.num_tokens, spec.vocab_size)))
    count = c.queried_tokens
    self.queried: Any = None if not count else QueriedTokens(width, c.vision.piece_width, count, dtype=dtype, rngs=rngs)
    if count:
      self.gathered = nnx.Linear(c.vision.piece_width, width, dtype=dtype, rngs=rngs)
    if count and c.act == 'heads':
      self.follow = Follow((count + (self.state is not None)) * width, width, dtype=dtype, rngs=rngs)
    self.waypoint = WaypointHead(count, width, dtype=dtype, rngs=rngs) if c.waypoint_weight else None
    lora.adapt(self, c.lora, rngs=rngs)
    self.vocabulary: Any = None  # given by what loads a checkpoint (rtjax/models/vocabulary.py)

  def __call__(self, images: Array | np.ndarray, embeddings: Array | np.ndarray,
               proprioception: Array | np.ndarray | None = None) -> Float[Array, 'B 1 K V']:
    """Logits of the action tokens of the newest frame, in inference mode.

    Args:
      images: uint8 [B, T, H, W, 3], as the camera gives them; resized and normalised here.
      embeddings: the prompt's ids, float32 or integers [B, L] or [B, T, L], of which the newest counts.
      proprioception: float32 [B, T, P], of which the newest counts, for a network that looks at it.

    Raises:
      ValueError: for shapes, types or ids the network cannot take.
    """
    self.check_inputs(images, embeddings, proprioception)
    inputs = jax.tree.map(jnp.asarray, (images, embeddings, proprioception))
    return _compiled_apply(*nnx.split(self), *inputs)

  def check_inputs(self, images: Any, embeddings: Any, proprioception: Any = None) -> None:
    c, (batch, *_) = self.config, images.shape
    if images.ndim != 5 or images.shape[-1] != 3 or not 1 <= images.shape[1] <= c.window or 0 in images.shape:
      raise ValueError(f'images has shape {images.shape}, expected [B, T, H, W, 3] with T from 1 to {c.window}.')
    if images.dtype != np.uint8:
      raise ValueError(f'images has type {images.dtype}, expected uint8 in 0..255: pictures as the camera gives them.')
    allowed = [(batch, c.prompt_length), (*images.shape[:2], c.prompt_length)]
    if tuple(embeddings.shape) not in allowed:
      raise ValueError(f'embeddings has shape {tuple(embeddings.shape)}, expected {allowed[0]} or {allowed[1]}: the '
                       f'ids of a prompt, filled up with {PAD} to prompt_length.')
    ids = np.asarray(embeddings)
    if not np.array_equal(ids, np.floor(ids)) or ids.min() < 0 or ids.max() >= c.text.vocab_size:
      raise ValueError(f'embeddings holds numbers from {ids.min()} to {ids.max()}, expected token ids: whole numbers '
                       f'from 0 to {c.text.vocab_size - 1}.')
    check_proprioception(proprioception, images.shape[:2], c.proprioception_size)

  def apply(self, images: Array, embeddings: Array, proprioception: Array | None = None,
            frames: Bool[Array, 'B T'] | None = None, train: bool = False,
            rngs: nnx.Rngs | None = None) -> Float[Array, 'B 1 K V']:
    """As `__call__`, in plain traceable code.

    Args:
      images: uint8, or float32 in 0..255 (augmented) [B, T, H, W, 3].
      frames: which of them are there; None: all.
      rngs: stream `dropout`; None leaves dropout out.
    """
    state = self.told(None if proprioception is None else proprioception[:, -1])
    context = self.context(self.see(images, rngs), frames, newest_prompt(embeddings), rngs, state)
    return self.act(context, rngs)[:, None]

  def told(self, proprioception: Float[Array, 'B P'] | None) -> Float[Array, 'B D'] | None:
    """The state token, of a network that has one.

    Raises:
      ValueError: without proprioception.
    """
    return None if self.state is None else self.state(proprioception)

  def see(self, images: Array, rngs: nnx.Rngs | None = None) -> Seen:
    """What is seen in frames [B, T, H, W, 3]."""
    pieces = self.vision.stem(self.vision.prepare(images.reshape(-1, *images.shape[-3:])))
    tokens = self.projection(self.vision.patches(self.vision.encode(pieces, rngs)))
    apart = images.shape[:-3]
    return Seen(tokens.reshape(*apart, *tokens.shape[1:]), pieces.reshape(*apart, *pieces.shape[1:])[:, -1])

  def context(self, seen: Seen, frames: Bool[Array, 'B T'] | None, prompts: Int[Array, 'B L'],
              rngs: nnx.Rngs | None = None, state: Float[Array, 'B D'] | None = None) -> Context:
    """The encoder's view of frames, the newest last, a prompt, and perhaps a state token and tokens asked for."""
    visual, (batch, steps, count, width) = seen.tokens, seen.tokens.shape
    if self.config.window > 1:
      visual = visual + self.age[...][-steps:, None].astype(visual.dtype)
    words, said = self.text.embed(prompts), prompts != PAD
    there = jnp.ones((batch, steps), bool) if frames is None else frames
    parts = [(visual.reshape(batch, steps * count, width), jnp.repeat(there, count, axis=1)), (words, said)]
    if state is not None:
      parts.append((state[:, None], jnp.ones((batch, 1), bool)))
    found, scores = (None, None) if self.queried is None else self._found(seen.pieces, words, said)
    if found is not None:
      parts.append((found, jnp.ones(found.shape[:2], bool)))
    sequence = jnp.concatenate([tokens.astype(visual.dtype) for tokens, _ in parts], 1)
    mask = jnp.concatenate([present for _, present in parts], 1)
    return Context(self.text.encode(sequence, mask, rngs), mask, found, scores, state)

  def _found(self, pieces: Float[Array, 'B h w C'], words: Float[Array, 'B L D'], said: Bool[Array, 'B L']
             ) -> tuple[Float[Array, 'B n D'], Float[Array, 'B n P']]:
    """What all words of the prompt together, at the scale of one of them, ask for, and the scores by which."""
    asked = jnp.sum(jnp.where(said[..., None], words, 0), 1) / jnp.sqrt(jnp.maximum(jnp.sum(said, 1), 1))[:, None]
    placed = self.queried.place(pieces)
    scores = self.queried.scores(placed, asked.astype(words.dtype))
    return self.gathered(self.queried.gather(placed, scores)), scores

  def act(self, context: Context, rngs: nnx.Rngs | None = None) -> Float[Array, 'B K V']:
    """The logits of the action's tokens. As text, each given the likeliest of those before it, and bins alone."""
    c, (batch, _) = self.config, context.mask.shape
    if c.act == 'text':
      ids, allowed = self.action_ids, decoding.allowed_tokens(c.action_spec.token_bins, c.action_spec.vocab_size)
      cache = self.text.start_cache(*context.memory, length=len(allowed))
      return decoding.decode_actions(self._step, cache, ids, allowed, batch=batch, start=PAD)
    queries = jnp.broadcast_to(self.queries[...], (batch, *self.queries.shape))
    hidden = self.text.decode(queries, *context.memory, rngs)
    if context.found is not None:
      known = context.found.reshape(batch, -1)
      hidden = hidden + self.follow(known if context.state is None
                                    else jnp.concatenate([known, context.state], -1))[:, None]
    return jnp.einsum('bkd,kdv->bkv', hidden.astype(jnp.float32), self.heads[...]) + self.heads_bias[...]

  def read(self, context: Context, targets: Int[Array, 'B M'], rngs: nnx.Rngs | None = None) -> Float[Array, 'B M V']:
    """The logits of each token of a text, given those before it (teacher forcing)."""
    return self.text.logits(self.text.decode(shift_right(targets), *context.memory, rngs))

  def empty_history(self, batch: int) -> History:
    """What a policy remembers before its first step, of `batch` robots."""
    c = self.config
    tokens = jnp.zeros((batch, c.window - 1, c.vision.tokens, c.text.width), c.dtype)
    return History(tokens, jnp.zeros(batch, jnp.int32))

  def advance(self, history: History, images: Array, embeddings: Float[Array, 'B L'],
              proprioception: Float[Array, 'B P'] | None = None) -> tuple[History, Float[Array, 'B K V']]:
    """Takes in one frame of each of B robots.

    Args:
      images: uint8 [B, H, W, 3].
      proprioception: for a network that looks at it.

    Returns:
      The history with these frames, and the logits of the action to take now.
    """
    seen = self.see(images[:, None])
    tokens = jnp.concatenate([history.tokens, seen.tokens], 1)
    frames = history.frames[:, None] >= np.arange(self.config.window)[::-1]  # by age
    seen, state = Seen(tokens, seen.pieces), self.told(proprioception)
    logits = self.act(self.context(seen, frames, newest_prompt(embeddings), state=state))
    return History(tokens[:, 1:], jnp.minimum(history.frames + 1, self.config.window - 1)), logits

  def generate(self, images: np.ndarray, texts: Sequence[str] | np.ndarray, *, task: str = '',
               length: int | None = None, temperature: float = 0.0, top_k: int = 0, seed: int = 0) -> Any:
    """Answers to texts about pictures, compiled: `model.generate(images, ['what is red?'], task='vqa')`.

    Args:
      images: uint8 [B, H, W, 3].
      texts: B instructions, questions or captions of a `task`; whole prompts where no task is named; or their ids
        [B, L] filled up with padding.
      task: one of rtjax.language.prompts.TASKS.
      length: the most tokens of an answer, its end included; None: `config.answer_length`.
      temperature, top_k: 0: the likeliest token; above, one drawn from the `top_k` likeliest (0: from all).
      seed: of what is drawn.

    Returns:
      B texts, or for ids ids: int32 [B, M], ended by END and filled up with PAD.

    Raises:
      ValueError: the pictures, the task, or a text that is too long; or texts for a network without a vocabulary.
    """
    ids = self._asked(texts, task)
    images, length = np.asarray(images), self.config.answer_length if length is None else length
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
      raise ValueError(f'images is {images.dtype} {images.shape}, expected uint8 [B, H, W, 3]: a picture for each '
                       'text.')
    if ids.shape != (len(images), self.config.prompt_length):
      raise ValueError(f'prompts has shape {ids.shape}, expected ({len(images)}, {self.config.prompt_length}): one for '
                       'each picture, filled up to prompt_length.')
    for name, value, least in (('length', length, 1), ('temperature', temperature, 0), ('top_k', top_k, 0)):
      if value < least:
        raise ValueError(f'{name} is {value}, it must be at least {least}.')
    written = np.asarray(_compiled_write(*nnx.split(self), images, ids, jax.random.key(seed), length=length,
                                         temperature=temperature, top_k=top_k))
    return written if isinstance(texts, np.ndarray) else self.vocabulary.decode(written)

  def _asked(self, texts: Sequence[str] | np.ndarray, task: str) -> Int[np.ndarray, 'B L']:
    if isinstance(texts, np.ndarray):
      if task:
        raise ValueError(f'task is {task!r} and texts are ids: ids are whole prompts, give no task with them.')
      return texts.astype(np.int32)
    if self.vocabulary is None:
      raise ValueError('this network has no vocabulary to read texts with: load it from its checkpoint with '
                       'rtjax.load_model, or give ids.')
    asked = [prompts.prompt(task, text) for text in texts] if task else list(texts)
    return self.vocabulary.encode(asked, self.config.prompt_length)

  def write(self, images: Array, prompts: Int[Array, 'B L'], key: Array, *, length: int | None = None,
            temperature: float = 0.0, top_k: int = 0) -> Int[Array, 'B M']:
    """The answers to prompts about pictures [B, H, W, 3], as ids up to END and then padding, in traceable code.

    Args: see decoding.generate.
    """
    length = length or self.config.answer_length
    cache = self.text.start_cache(*self.context(self.see(images[:, None]), None, prompts).memory, length=length)
    return decoding.generate(self._step, cache, key, batch=len(images), length=length, start=PAD, end=END, pad=PAD,
                             temperature=temperature, top_k=top_k)

  def loss(self, batch: Mapping[str, Any], *, train: bool, rngs: nnx.Rngs | None = None) -> LossTerms:
    """Cross-entropy of the newest frame's recorded action, of the answers to prompts about pictures, or of both.

    Args:
      batch: of robots, `images`, `embeddings`, `frames`, and `actions` [B, T, 1, A] and `mask` [B, T, 1], of which the
        newest frame's count, with `waypoint_weight` also `waypoints` [B, T, 3], with a state token `proprioception`
        [B, T, P]; of language, `text_images` [b, H, W, 3], `text_prompts` [b, L], `text_targets` [b, M], `text_kinds`
        [b], with `point_weight` `text_points` [b, 2], and `text_weights` [b, M], what each token's loss is multiplied
        by (training/cotrain.py).
      train: with dropout (given `rngs`), label smoothing and only the cheap metrics. Otherwise answers are written too.
    """
    parts = []
    if 'actions' in batch:
      parts.append(loss.of_actions(self, batch, train, rngs))
    if 'text_targets' in batch:
      parts.append(loss.of_texts(self, batch, train, rngs))
    metrics = {name: pair for part in parts for name, pair in part.metrics.items()}
    return LossTerms(sum((part.total for part in parts), jnp.float32(0)), parts[0].weight, metrics)

  def standardize(self, moments: Callable[[str], tuple[np.ndarray, np.ndarray]]) -> None:
    """Keeps what it needs of the training data's statistics; see RT1.standardize."""
    if self.state is not None:
      self.state.set(*moments('proprioception'))
    if self.waypoint is not None:
      self.waypoint.standardize(*moments('proprioception'))

  def loss_scale(self, batch_size: int) -> float:
    """What the mean cross-entropy is multiplied by."""
    return 1.0

  @property
  def action_ids(self) -> Int[np.ndarray, ' V']:
    if not self.config.action_ids:
      raise ValueError("model.act is 'text' and model.action_ids is empty: give the ids of the bins, which "
                       'rtjax.language.tokenizer.Tokenizer.action_ids takes from a vocabulary.')
    return np.array(self.config.action_ids, np.int32)

  def _step(self, tokens: Int[Array, ' B'], cache: Any) -> tuple[Float[Array, 'B vocabulary'], Any]:
    cache, hidden = self.text.decode_step(cache, tokens)
    return self.text.logits(hidden), cache


@functools.partial(jax.jit, static_argnums=0)
def _compiled_apply(graphdef: nnx.GraphDef, state: Any, *inputs: Any) -> Array:
  return nnx.merge(graphdef, state).apply(*inputs)


@functools.partial(jax.jit, static_argnums=0, static_argnames=('length', 'temperature', 'top_k'))
def _compiled_write(graphdef: nnx.GraphDef, state: Any, images: Array, ids: Array, key: Array, **options: Any) -> Array:
  return nnx.merge(graphdef, state).write(images, ids, key, **options)
