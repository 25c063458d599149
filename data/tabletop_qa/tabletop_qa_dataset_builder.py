"""TFDS builder of `tabletop_qa`: images of the tabletop simulator with texts.

Each example is one image with its pairs of question and answer, in the layout that rtjax.data.image_text.sources
reads. The question of the task 'caption' is empty, that of 'match' is a true or false caption, that of 'point' the
name of an object. The metadata's `grid` is the number of cells across and down in answers of 'point'.
"""
import importlib.metadata
import io
from collections.abc import Iterator
from typing import Any

import examples
import numpy as np
import questions
from scenes import GenerationConfig

from rtjax.data.item_store import ItemStore, SplitRanges
from rtjax.data.tf import tfds


class Builder(tfds.core.GeneratorBasedBuilder):
  """Builder of the examples of `raw`.

  Args:
    raw: examples of `examples.examples`.
    generation: their configuration.
    splits: example numbers [first, end) of each split.
    recipe: parameters of the generator, for the dataset's metadata.
  """

  name = 'tabletop_qa'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}  # noqa: RUF012  (TFDS wants a plain class attribute)

  def __init__(self, *, raw: ItemStore, generation: GenerationConfig, splits: SplitRanges,
               recipe: dict[str, Any] | None = None, **kwargs: Any):
    self._raw, self._generation, self._splits, self._recipe = raw, generation, splits, recipe
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    return tfds.core.DatasetInfo(
        builder=self, description=__doc__,
        metadata=tfds.core.MetadataDict(
            renderer=self._generation.renderer, mujoco=importlib.metadata.version('mujoco'), seed=self._generation.seed,
            kinds=list(examples.TASKS), grid=questions.GRID, recipe=self._recipe),
        features=tfds.features.FeaturesDict({
            'number': tfds.features.Scalar(np.int64, doc='determines the image, together with the seed'),
            'image': tfds.features.Image(shape=(*self._generation.image_size, 3), encoding_format='jpeg'),
            'objects': tfds.features.Sequence(text(doc='names of all objects, visible or not')),
            'pairs': tfds.features.Sequence({
                'kind': text(doc='caption, vqa, match or point'), 'type': text(doc='type of the question'),
                'question': text(), 'answer': text()})}))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
    del dl_manager
    return {name: self._generate_examples(*span) for name, span in self._splits.items()}

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for example in self._raw.read(first, end):
      yield example['number'], example | {'image': io.BytesIO(example['image'])}
