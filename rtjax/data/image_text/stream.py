"""Pictures with texts to batches: captioning, questions with answers, and whether a caption fits.

A batch is a dict of NumPy arrays (B pairs of prompt and target, L and M tokens):

    images    uint8 [B, H, W, 3]   brought to one size, aspect kept, the rest black
    prompts   int32 [B, L]         what is asked, as rtjax.language.prompts words it; ended by EOS (1), then 0
    targets   int32 [B, M]         the text to answer with; the same
    kinds     int32 [B]            place in prompts.KINDS; -1 where a last batch has nothing
    points    int32 [B, 2]         column and row that are pointed at; -1 where nothing is
    prompt_texts, target_texts     str [B] (object), and where each is from (`sources`); they stay on the host

The order is as in rtjax.data.stream: a function of seed, process count and config, whose position costs the reading of
one group of pictures, however far it is. The kind of a draw is chosen by its weight, then one of the sources that have
it. A text that is too long, a picture that cannot be decoded, an empty answer: each is an error that names it.
"""
import concurrent.futures
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.data import images
from rtjax.data.config import ImageTextConfig
from rtjax.data.image_text.sources import Picture, Source, open_source
from rtjax.data.image_text.tokens import encoder
from rtjax.data.memory import Memory
from rtjax.data.mixture import Share
from rtjax.data.rlds.batches import Pending
from rtjax.data.stream import Stream, in_order
from rtjax.data.tf import tf, tfds
from rtjax.data.windows import Batch, WindowConfig
from rtjax.language import prompts
from rtjax.language.tokenizer import PAD, Tokenizer

_SPARE = 4  # as in rtjax.data.rlds.batches
_EACH = WindowConfig(length=1)


@dataclasses.dataclass(frozen=True)
class Shapes:
  """What a model takes: (height, width) of the pictures, and the most tokens of a prompt and of a target."""
  image_size: tuple[int, int]
  prompt_length: int
  target_length: int

  def __post_init__(self) -> None:
    if len(self.image_size) != 2 or min(*self.image_size, self.prompt_length, self.target_length) < 1:
      raise ValueError(f'{self}: expected (height, width) and two lengths, all at least 1.')


class ImageTextStream(Stream):
  """Endless shuffled batches of this process's share of a mixture of sources.

  Args:
    sources: folders of JSONL or tar shards, folders or names of TFDS datasets.
    config: the pipeline's settings.
    tokenizer: makes ids of prompts and targets.
    shapes: of pictures, prompts and targets.
    batch_size: B, pairs of a batch of this process.
    seed: of the order.
    process_index, process_count: which share is read.

  Raises:
    FileNotFoundError, ValueError: a source cannot be used; the message says what to do. Errors of background threads
      are raised by `next`, which closes the stream.
  """

  def __init__(self, sources: Sequence[str], config: ImageTextConfig, tokenizer: Tokenizer, shapes: Shapes, *,
               batch_size: int, seed: int, process_index: int = 0, process_count: int = 1):
    opened = _open(sources, config.split)
    parts, weights = _parts(opened, config)
    super().__init__(parts, weights, config.shuffle_pictures, _EACH, Share(seed, process_index, process_count),
                     _Batches(config, tokenizer, shapes, batch_size), batch_size,
                     {'kinds': [list(p.kinds) for p in parts]})


def validation_batches(sources: Sequence[str], config: ImageTextConfig, tokenizer: Tokenizer, shapes: Shapes, *,
                       batch_size: int, process_index: int = 0, process_count: int = 1) -> Iterator[Batch]:
  """Every pair of `config.validation_split` once, in order; of each process its rows, as rtjax.data.stream has them.

  The last batch is filled up with zeros whose kind is -1. Kinds of weight 0 are left out.
  """
  opened = _open(sources, config.validation_split)
  parts, _ = _parts(opened, dataclasses.replace(config, weights=()))
  return in_order(parts, _Batches(config, tokenizer, shapes, batch_size), _EACH, batch_size,
                  Share(0, process_index, process_count))


def _open(sources: Sequence[str], split: str) -> list[Source]:
  if isinstance(sources, str) or not sources:
    raise ValueError(f'sources is {sources!r}, expected a list of folders or TFDS names.')
  return [open_source(name, split) for name in sources]


def _parts(sources: list[Source], config: ImageTextConfig) -> tuple[list[Source], list[float]]:
  """The pairs of each kind of each source, and the share of each such part, summing to 1."""
  if config.weights and len(config.weights) != len(sources):
    raise ValueError(f'ImageTextConfig: {len(config.weights)} weights {config.weights} for {len(sources)} sources '
                     f'{[s.name for s in sources]}; give one per source, or none.')
  present = {kind for source in sources for kind in source.kinds}
  kinds = {kind: w for kind, w in dataclasses.asdict(config.kinds).items() if w and kind in present}
  if not kinds:
    raise ValueError(f'the sources {[s.name for s in sources]} have the kinds {sorted(present)}, all of which have '
                     f'weight 0: {config.kinds}.')
  parts: list[Source] = []
  weights: list[float] = []
  for kind, share in kinds.items():
    having = [(s, w) for s, w in zip(sources, config.weights or [1.0] * len(sources), strict=True) if kind in s.kinds]
    parts += [source.of(kind) for source, _ in having]
    weights += [share / sum(kinds.values()) * w / sum(w for _, w in having) for _, w in having]
  return parts, weights


class _Batches:
  """Turns pictures and pairs into batches: threads decode one picture each, and one encodes the texts."""

  def __init__(self, config: ImageTextConfig, tokenizer: Tokenizer, shapes: Shapes, batch_size: int):
    if batch_size < 1:
      raise ValueError(f'batch_size is {batch_size}, it must be at least 1.')
    self._size, self._shapes, self._tokenizer = batch_size, shapes, tokenizer
    self._images = Memory((batch_size, *shapes.image_size, 3), np.uint8, _SPARE)
    self._decode = images.decoder(tfds.features.Image(), shapes.image_size, antialias=True)
    self._encode = encoder(tokenizer)
    self._pool = concurrent.futures.ThreadPoolExecutor(config.num_threads(), 'rtjax-decode')

  def start(self, chosen: list[tuple[int, Picture, int]]) -> Pending:
    """Begins a batch of (part, picture, number of its pair); rows without one stay zero."""
    size, shapes = self._size, self._shapes
    batch: dict[str, Any] = {
        'images': self._images.array(),
        'prompts': np.full((size, shapes.prompt_length), PAD, np.int32),
        'targets': np.full((size, shapes.target_length), PAD, np.int32),
        'kinds': np.full(size, -1, np.int32),
        'points': np.full((size, 2), -1, np.int32),
        **{name: np.full(size, '', object) for name in ('prompt_texts', 'target_texts', 'sources')}}
    batch['images'][len(chosen):] = 0
    for row, (_, picture, number) in enumerate(chosen):
      pair = picture.pairs[number]
      batch['kinds'][row] = prompts.KINDS.index(pair.kind)
      batch['prompt_texts'][row], batch['target_texts'][row] = pair.prompt, pair.target
      batch['sources'][row] = picture.where
      if pair.kind == 'point':
        batch['points'][row] = [int(number) for number in pair.target.split()]
    work = [self._pool.submit(self._texts, batch, len(chosen))]
    work += [self._pool.submit(self._picture, batch, row, picture) for row, (_, picture, _) in enumerate(chosen)]
    return Pending(batch, work)

  def close(self) -> None:
    self._pool.shutdown(cancel_futures=True)

  def _texts(self, batch: Batch, count: int) -> None:
    for name in ('prompt', 'target'):
      ids, texts = batch[f'{name}s'], list(batch[f'{name}_texts'][:count])
      try:
        ids[:count] = self._encode(texts, ids.shape[1])
      except ValueError as error:
        row = next(row for row, text in enumerate(texts) if len(self._tokenizer.tokens(text)) > ids.shape[1])
        raise ValueError(f'{batch["sources"][row]}: the {name} is too long: {error}') from error

  def _picture(self, batch: Batch, row: int, picture: Picture) -> None:
    try:
      batch['images'][row] = self._decode(picture.image)
    except (tf.errors.OpError, ValueError) as error:
      what = getattr(error, 'message', error)
      raise ValueError(f'{picture.where}: the picture cannot be decoded: {what}. Expected JPEG, PNG or BMP; mend '
                       'or remove it.') from error
