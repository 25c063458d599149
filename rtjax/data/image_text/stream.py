"""Streams of batches of image-text pairs, for training and validation.

A batch is a dict of NumPy arrays (B pairs, L prompt tokens, M answer tokens):

    images    uint8 [B, H, W, 3]   resized to one size, aspect kept, the rest black
    prompts   int32 [B, L]         in the words of rtjax.language.prompts; ended by EOS (1), then 0
    targets   int32 [B, M]         text of the answer; ended likewise
    tasks     int32 [B]            index in prompts.TASKS; -1 in the empty rows of a last batch
    points    int32 [B, 2]         column and row of a pointing answer; -1 for other tasks
    grid      int32 [B]            cells across of the grid that `points` refers to; 0 where unknown
    prompt_texts, target_texts, sources    str [B] (object): texts, and file and line of each pair

The last three stay on the host: `to_text_batch` gives the typed batch without them.

The order is as in rtjax.data.stream: a function of seed, process count and config, whose position costs the reading of
one group of images, however late it is. Each draw chooses a task by its weight, then one of the sources that have it. A
text that is too long, an image that cannot be decoded, and an empty answer are errors that name the source.
"""
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.data import images
from rtjax.data.batching import Arrays, Batcher, PendingBatch
from rtjax.data.config import ImageTextConfig
from rtjax.data.image_text.pairs import TextImage
from rtjax.data.image_text.sources import Source, open_source
from rtjax.data.image_text.tokens import encoder
from rtjax.data.mixture import ProcessShare
from rtjax.data.stream import Stream, ordered_batches
from rtjax.data.tf import tf, tfds
from rtjax.data.windows import WindowConfig
from rtjax.language import prompts
from rtjax.language.formats import TEXT, PromptFormat
from rtjax.language.tokenizer import PAD, Tokenizer
from rtjax.observation import TextBatch

_EACH_PAIR = WindowConfig(length=1)


@dataclasses.dataclass(frozen=True)
class TextShapes:
  """Input sizes of a model.

  Attributes:
    image_size: (height, width).
    prompt_length: L, maximum tokens of a prompt.
    target_length: M, maximum tokens of a target.
    prompt_format: ids around a prompt.
  """
  image_size: tuple[int, int]
  prompt_length: int
  target_length: int
  prompt_format: PromptFormat = TEXT

  def __post_init__(self) -> None:
    if len(self.image_size) != 2 or min(*self.image_size, self.prompt_length, self.target_length) < 1:
      raise ValueError(f'{self}: expected (height, width) and two lengths, all at least 1.')


class ImageTextStream(Stream):
  """Endless shuffled batches of this process's share of a mixture of sources.

  Args:
    sources: folders of JSONL or tar shards, folders or names of TFDS datasets.
    config: settings of the pipeline.
    tokenizer: encodes prompts and targets.
    shapes: of images, prompts and targets.
    batch_size: B, pairs of a batch of this share.
    seed: of the order.
    process_index, process_count: share of this process.
    rows: those to decode and return of each batch, where several processes read one share; None: all.

  Raises:
    FileNotFoundError, ValueError: a source cannot be used. Errors of background threads are raised by `next`, which
      closes the stream.
  """

  def __init__(self, sources: Sequence[str], config: ImageTextConfig, tokenizer: Tokenizer, shapes: TextShapes, *,
               batch_size: int, seed: int, process_index: int = 0, process_count: int = 1, rows: range | None = None):
    rows = range(batch_size) if rows is None else rows
    parts, weights = _split_by_task(_open(sources, config.split), config)
    super().__init__(parts, weights, config.shuffle_images, _EACH_PAIR,
                     ProcessShare(seed, process_index, process_count),
                     _PairBatcher(config, tokenizer, shapes, len(rows)), batch_size, rows,
                     {'tasks': [list(p.tasks) for p in parts]})


def validation_batches(sources: Sequence[str], config: ImageTextConfig, tokenizer: Tokenizer, shapes: TextShapes, *,
                       batch_size: int, process_index: int = 0, process_count: int = 1) -> Iterator[Arrays]:
  """Yield every pair of `config.validation_split` once, in order.

  `rtjax.data.stream.ordered_batches` describes the shares of several processes. The last batch is filled up with zeros
  whose task is -1. Tasks of weight 0 are left out.
  """
  opened = _open(sources, config.validation_split)
  parts, _ = _split_by_task(opened, dataclasses.replace(config, weights=()))
  return ordered_batches(parts, _PairBatcher(config, tokenizer, shapes, batch_size), _EACH_PAIR, batch_size,
                         ProcessShare(0, process_index, process_count))


def to_text_batch(arrays: dict[str, Any]) -> TextBatch:
  """Return the typed batch of a stream's arrays."""
  return TextBatch(**{name: arrays[name] for name in ('images', 'prompts', 'targets', 'tasks', 'points', 'grid')})


def _open(sources: Sequence[str], split: str) -> list[Source]:
  if isinstance(sources, str) or not sources:
    raise ValueError(f'sources is {sources!r}, expected a list of folders or TFDS names.')
  return [open_source(name, split) for name in sources]


def _split_by_task(sources: list[Source], config: ImageTextConfig) -> tuple[list[Source], list[float]]:
  """Return each task of each source, and its share."""
  names = [s.name for s in sources]
  if config.weights and len(config.weights) != len(sources):
    raise ValueError(f'ImageTextConfig: {len(config.weights)} weights {config.weights} for {len(sources)} sources '
                     f'{names}; give one per source, or none.')
  present = {task for source in sources for task in source.tasks}
  tasks = {task: w for task, w in dataclasses.asdict(config.tasks).items() if w and task in present}
  if not tasks:
    raise ValueError(f'the sources {names} have the tasks {sorted(present)}, all of which have weight 0: '
                     f'{config.tasks}.')
  parts: list[Source] = []
  weights: list[float] = []
  for task, share in tasks.items():
    having = [(s, w) for s, w in zip(sources, config.weights or [1.0] * len(sources), strict=True) if task in s.tasks]
    parts += [source.with_task(task) for source, _ in having]
    weights += [share / sum(tasks.values()) * w / sum(w for _, w in having) for _, w in having]
  return parts, weights


class _PairBatcher(Batcher):
  """Makes batches of image-text pairs.

  Each thread decodes one image, and one thread encodes the texts.
  """

  def __init__(self, config: ImageTextConfig, tokenizer: Tokenizer, shapes: TextShapes, batch_size: int):
    super().__init__(batch_size, (*shapes.image_size, 3), config.num_threads())
    self._shapes, self._tokenizer = shapes, tokenizer
    self._decode = images.decoder(tfds.features.Image(), shapes.image_size, antialias=True)
    self._encode = encoder(tokenizer)

  def start(self, windows: list[tuple[int, TextImage, int]]) -> PendingBatch:
    size, shapes = self._size, self._shapes
    batch: dict[str, Any] = {
        'images': self._images.array(),
        'prompts': np.full((size, shapes.prompt_length), PAD, np.int32),
        'targets': np.full((size, shapes.target_length), PAD, np.int32),
        'tasks': np.full(size, -1, np.int32),
        'points': np.full((size, 2), -1, np.int32),
        'grid': np.zeros(size, np.int32),
        **{name: np.full(size, '', object) for name in ('prompt_texts', 'target_texts', 'sources')}}
    batch['images'][len(windows):] = 0
    for row, (_, image, number) in enumerate(windows):
      pair = image.pairs[number]
      batch['tasks'][row], batch['grid'][row] = prompts.TASKS.index(pair.task), pair.grid
      batch['prompt_texts'][row], batch['target_texts'][row] = pair.prompt, pair.target
      batch['sources'][row] = image.source
      if pair.point is not None:
        batch['points'][row] = pair.point
    work = [self._pool.submit(self._encode_texts, batch, len(windows))]
    work += [self._pool.submit(self._decode_image, batch, row, image) for row, (_, image, _) in enumerate(windows)]
    return PendingBatch(batch, work)

  def _encode_texts(self, batch: Arrays, count: int) -> None:
    for name, form in (('prompt', self._shapes.prompt_format), ('target', TEXT)):
      ids, texts = batch[f'{name}s'], list(batch[f'{name}_texts'][:count])
      try:
        ids[:count] = self._encode(texts, ids.shape[1], form)
      except ValueError as error:
        row = next(row for row, text in enumerate(texts)
                   if len(self._tokenizer.tokens(text, form)) > ids.shape[1])
        raise ValueError(f'{batch["sources"][row]}: the {name} is too long: {error}') from error

  def _decode_image(self, batch: Arrays, row: int, image: TextImage) -> None:
    try:
      batch['images'][row] = self._decode(image.encoded)
    except (tf.errors.OpError, ValueError) as error:
      message = getattr(error, 'message', error)
      raise ValueError(f'{image.source}: the image cannot be decoded: {message}. Expected JPEG, PNG or BMP; fix or '
                       'remove it.') from error
