"""Text input of a vision-language model: prompts and image-text pairs."""
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from rtjax.data.config import TaskWeights
from rtjax.language.instructions import PromptEncoder
from rtjax.observation import TextBatch
from rtjax.training.config import TrainConfig
from rtjax.training.share import ShareStream

if TYPE_CHECKING:
  from rtjax.language.tokenizer import Tokenizer


class TextInput:
  """Prompts and image-text pairs of one run.

  Args:
    config: the run.
    tokenizer: encodes prompts and answers.
    share: (index, count) of this process's share of the batch.

  Attributes:
    stream: of image-text pairs to train on; None without any.

  Raises:
    ValueError, FileNotFoundError: a source cannot be read as the configuration says.
  """

  def __init__(self, config: TrainConfig, tokenizer: 'Tokenizer', share: tuple[int, int]):
    model = config.model
    self._config, encode = config, PromptEncoder(tokenizer, model.prompt_length, model.prompt_format)
    self._padding = np.zeros(model.prompt_length, np.int32)
    self._encode = functools.cache(lambda text: encode([text])[0])
    self._share = share
    self.stream: ShareStream | None = None
    if config.text and config.text.data:
      from rtjax.data.image_text import stream  # imports TensorFlow
      shapes = stream.TextShapes(model.image_size, model.prompt_length, model.answer_length, model.prompt_format)
      self._sources: Any = config.text.data, config.text.pipeline, tokenizer, shapes
      self._batch_size = config.text.batch_size if config.data else config.batch_size
      open_part = functools.partial(stream.ImageTextStream, *self._sources, seed=config.seed)
      self.stream = ShareStream(open_part, self._batch_size, share)

  def next(self) -> TextBatch:
    """Return the next training batch."""
    from rtjax.data.image_text.stream import to_text_batch
    assert self.stream
    return to_text_batch(next(self.stream))

  def validation(self) -> Iterator[TextBatch]:
    """Yield the held-out pairs, a batch of each task in turn."""
    from rtjax.data.image_text import sources, stream
    names, pipeline, *others = self._sources
    present = {task for name in names for task in sources.open_source(name, pipeline.validation_split).tasks}
    weights = dataclasses.asdict(pipeline.tasks)
    parts = [dataclasses.replace(pipeline, tasks=TaskWeights(**{other: float(other == task) for other in weights}))
             for task, weight in weights.items() if weight and task in present]
    index, count = self._share
    size = self._batch_size // self._config.grad_accum_steps // count
    return _in_turn([stream.validation_batches(names, part, *others, batch_size=size, process_index=index,
                                               process_count=count) for part in parts])

  def prompts(self, arrays: dict[str, Any]) -> np.ndarray:
    """Return the prompts of a batch of windows, int32 [B, L]."""
    return np.stack([self._encode(text) if text else self._padding for text in arrays['instructions']])


def _in_turn(parts: list[Any]) -> Iterator[TextBatch]:
  from rtjax.data.image_text.stream import to_text_batch
  with contextlib.ExitStack() as stack:
    for part in parts:
      stack.enter_context(contextlib.closing(part))
    for arrays in (arrays for batches in itertools.zip_longest(*parts) for arrays in batches if arrays is not None):
      yield to_text_batch(arrays)
