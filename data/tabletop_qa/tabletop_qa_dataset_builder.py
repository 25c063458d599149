"""TFDS builder of `tabletop_qa`: images of the tabletop simulator with texts.

Each example is one image with its pairs of question and answer, in the layout that rtjax.data.image_text.sources
reads. The question of the task 'caption' is empty, that of 'match' is a true or false caption, that of 'point' the
name of an object. The metadata's `grid` is the number of cells across and down in answers of 'point'.
"""
from collections.abc import Iterator
from typing import Any

import examples
import numpy as np
import questions

from rtjax.data.generation.builder import RawBuilder, jpeg, versions
from rtjax.data.tf import tfds


class Builder(RawBuilder):
  """Builder of the examples of `examples.examples`; `recording` is a GenerationConfig."""

  name = 'tabletop_qa'

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    features = {
        'number': tfds.features.Scalar(np.int64, doc='determines the image, together with the seed'),
        'image': jpeg(self._recording.image_size),
        'objects': tfds.features.Sequence(text(doc='names of all objects, visible or not')),
        'pairs': tfds.features.Sequence({
            'kind': text(doc='caption, vqa, match or point'), 'type': text(doc='type of the question'),
            'question': text(), 'answer': text()})}
    return self.describe(features, __doc__, renderer=self._recording.renderer, seed=self._recording.seed,
                         kinds=list(examples.TASKS), grid=questions.GRID, **versions('mujoco'))

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for example in self._raw.read(first, end):
      yield example['number'], example

  @classmethod
  def keeps(cls, item: dict[str, Any]) -> bool:
    del item
    return True
