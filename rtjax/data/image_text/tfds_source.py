"""Image-text pairs in TFDS datasets."""
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from rtjax.data.image_text.pairs import Pair, TextImage, make_pair
from rtjax.data.records import Chunk, RecordSource, TfdsRecords
from rtjax.data.tf import tf, tfds
from rtjax.language import prompts, text
from rtjax.runtime import serialization


@dataclasses.dataclass(frozen=True)
class Layout:
  """Feature paths of a TFDS dataset, '/'-separated.

  `task` is one of prompts.TASKS, or the path of a feature that holds it.
  """
  task: str
  answer: str
  question: str = ''
  image: str = 'image'

  @property
  def fixed_task(self) -> str | None:
    """The task of all pairs; None where a feature holds it."""
    return self.task if self.task in prompts.TASKS else None

  @property
  def paths(self) -> tuple[str, ...]:
    """Paths of the features that a dataset of this layout has."""
    return tuple(filter(None, (self.image, self.answer, self.question, '' if self.fixed_task else self.task)))


LAYOUTS = [
    Layout('pairs/kind', 'pairs/answer', 'pairs/question'),  # tabletop_qa
    Layout('caption', 'captions/text'),  # coco_captions
    Layout('vqa', 'question_answer/answer', 'question_answer/question'),  # clevr
    Layout('vqa', 'answer', 'question'),
    Layout('caption', 'caption'),  # laion400m/images
]
"""Known layouts; the first one whose paths a dataset has is used. Insert others in front."""


class TfdsSource(TfdsRecords, RecordSource[TextImage]):
  """A source that TFDS wrote.

  The entry 'grid' of its metadata is the number of cells across of the grid that pointing answers refer to; without it
  the grid is unknown.

  Args:
    name: a folder or TFDS name, as in `TfdsRecords`.
    split: in TFDS's split algebra.
    task: keep the pairs of this task alone; empty keeps all.

  Raises:
    FileNotFoundError, ValueError: there is no such dataset or split, or its layout is unknown.
  """

  record_name = 'image'

  def __init__(self, name: str, split: str, task: str = ''):
    super().__init__(name, split)
    self._task = task
    features = _paths(self._builder.info.features.get_serialized_info())
    layouts = [layout for layout in LAYOUTS if set(layout.paths) <= features]
    if not layouts:
      raise ValueError(f'{name}: an image-text dataset has one of the feature sets '
                       f'{[list(layout.paths) for layout in LAYOUTS]}, this dataset has {sorted(features)}. Add its '
                       'layout to rtjax.data.image_text.tfds_source.LAYOUTS.')
    self._layout = layouts[0]
    image = self._builder.info.features[self._layout.image]
    if not isinstance(image, tfds.features.Image):
      raise ValueError(f'{name}: {self._layout.image!r} is {image}, expected a tfds.features.Image.')
    metadata = self._builder.info.metadata or {}
    fixed = self._layout.fixed_task
    self.tasks = (fixed,) if fixed else serialization.from_json(
        metadata.get('kinds', ['caption', 'vqa', 'match']), tuple[str, ...])
    self._grid = serialization.from_json(metadata.get('grid', 0), int)

  def with_task(self, task: str) -> 'TfdsSource':
    return TfdsSource(self.name, self.split, task)

  def read(self, chunks: Sequence[Chunk]) -> Iterator[TextImage]:
    for number, record in self.records(chunks):
      source = f'{self.name}, image {number} of {self.split!r}'
      try:
        yield TextImage(source, record.features.feature[self._layout.image].bytes_list.value[0],
                        tuple(p for p in self._pairs(record) if self._task in ('', p.task)))
      except (ValueError, IndexError) as error:
        raise ValueError(f'{source}: {error}. Fix or remove it.') from error

  def empty_error(self) -> ValueError:
    return ValueError(f'{self.name}: no image of split {self.split!r} has a text' + (
        f' of the task {self._task!r}.' if self._task else '.'))

  def _pairs(self, record: tf.train.Example) -> Iterator[Pair]:
    def texts(path: str) -> list[str]:
      return [text.decode(value) for value in record.features.feature[path].bytes_list.value]

    layout = self._layout
    answers = texts(layout.answer)
    questions = texts(layout.question) if layout.question else [''] * len(answers)
    tasks = [layout.fixed_task] * len(answers) if layout.fixed_task else texts(layout.task)
    for task, question, answer in zip(tasks, questions, answers, strict=True):
      yield make_pair(task, question, answer, self._grid)


def _paths(info: Any, prefix: str = '') -> set[str]:
  """The '/'-separated paths of serialized features."""
  if not isinstance(info, dict):
    return {prefix}
  return {path for key, inner in info.items() for path in _paths(inner, f'{prefix}/{key}' if prefix else key)}
