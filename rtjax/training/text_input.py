"""What a vision-language model reads beside pictures: prompts of robots, and pictures with texts."""
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rtjax.data.config import KindWeights
from rtjax.language.instructions import Prompts
from rtjax.training.config import TrainConfig

Batch = dict[str, Any]


class Texts:
  """The texts of one run.

  Args:
    config: the run.
    tokenizer: the vocabulary.

  Attributes:
    stream: of pictures with texts to train on; None where there are none.

  Raises:
    ValueError, FileNotFoundError: if a source cannot be read as the configuration says.
  """

  def __init__(self, config: TrainConfig, tokenizer: Any):
    model: Any = config.model
    processes = jax.process_count()
    self._config, encoder = config, Prompts(tokenizer, model.prompt_length)
    self._blank = np.zeros(model.prompt_length, np.float32)
    self._encode = functools.cache(lambda text: encoder([text])[0])
    self._process = {'process_index': jax.process_index(), 'process_count': processes}
    self.stream: Any = None
    if config.image_text:
      from rtjax.data.image_text import stream  # brings TensorFlow
      shapes = stream.Shapes(model.vision.image_size, model.prompt_length, model.answer_length)
      self._sources = config.image_text, config.image_text_pipeline, tokenizer, shapes
      size = config.image_text_batch_size if config.data else config.batch_size
      self.stream = stream.ImageTextStream(*self._sources, batch_size=size // processes, seed=config.seed,
                                               **self._process)

  def next(self) -> Batch:
    """The next training batch: `text_images`, `text_prompts`, `text_targets`, `text_kinds`, `text_points`."""
    return self._device_part(next(self.stream))

  def validation(self) -> Iterator[Batch]:
    """The held-out pairs, a batch of each kind in turn: however few are looked at, each kind is among them."""
    from rtjax.data.image_text import sources, stream
    c = self._config
    size = (c.image_text_batch_size if c.data else c.batch_size) // c.micro_batches // jax.process_count()
    names, pipeline, *others = self._sources
    held = {kind for name in names for kind in sources.open_source(name, pipeline.validation_split).kinds}
    weights = dataclasses.asdict(pipeline.kinds)
    alone = [dataclasses.replace(pipeline, kinds=KindWeights(**{other: float(other == kind) for other in weights}))
             for kind, weight in weights.items() if weight and kind in held]
    return self._in_turn([stream.validation_batches(names, kind, *others, batch_size=size, **self._process)
                          for kind in alone])

  def _in_turn(self, parts: list[Any]) -> Iterator[Batch]:
    with contextlib.ExitStack() as stack:
      for part in parts:
        stack.enter_context(contextlib.closing(part))
      for batch in (batch for batches in itertools.zip_longest(*parts) for batch in batches if batch is not None):
        yield self._device_part(batch) | {'text_weights': (batch['targets'] != 0).astype(np.float32)}

  def prompts(self, batch: Batch) -> np.ndarray:
    """The prompts of a batch of windows, float32 [B, L]; of rows without a window, padding."""
    return np.stack([self._encode(text) if text else self._blank for text in batch['instructions']])

  def _device_part(self, batch: Batch) -> Batch:
    model: Any = self._config.model
    outside = np.any(batch['points'] >= model.point_cells, axis=1)
    if model.point_weight and outside.any():
      row = int(np.argmax(outside))
      raise ValueError(
          f'{batch["sources"][row]}: column and row {batch["points"][row].tolist()} are pointed at, outside the grid '
          f'of model.point_cells, {model.point_cells} by {model.point_cells}: give the grid that the source has, or '
          '--model.point-weight 0.')
    return {f'text_{name}': batch[name] for name in ('images', 'prompts', 'targets', 'kinds', 'points')}
