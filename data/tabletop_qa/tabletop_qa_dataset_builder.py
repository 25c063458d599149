"""TFDS builder of `tabletop_qa`: pictures of the embedded simulator with captions, questions, and captions to judge.

Each example is one picture with its pairs of question and answer, in the layout that rtjax.data.image_text.sources
reads. A caption's question is empty, a match's is the caption that may fit.
"""
import importlib.metadata
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from scenes import Recipe

from rtjax.data.chunks import Chunks, Spans


class Builder(tfds.core.GeneratorBasedBuilder):
  """The pictures of `raw`; `spans` gives each split's (first, end) number, `wanted` what was asked for."""

  name = 'tabletop_qa'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}  # noqa: RUF012  (TFDS wants a plain class attribute)

  def __init__(self, *, raw: Chunks, recipe: Recipe, spans: Spans, wanted: dict[str, Any] | None = None, **kwargs: Any):
    self._raw, self._recipe, self._spans, self._wanted = raw, recipe, spans, wanted
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    return tfds.core.DatasetInfo(
        builder=self, description=__doc__,
        metadata=tfds.core.MetadataDict(
            renderer=self._recipe.renderer, mujoco=importlib.metadata.version('mujoco'), seed=self._recipe.seed,
            kinds=['caption', 'vqa', 'match', 'point'], recipe=self._wanted),
        features=tfds.features.FeaturesDict({
            'number': tfds.features.Scalar(np.int64, doc='with the seed, it determines the picture'),
            'image': tfds.features.Image(shape=(*self._recipe.image_size, 3), encoding_format='jpeg'),
            'objects': tfds.features.Sequence(text(doc='all that is there, seen or not')),
            'pairs': tfds.features.Sequence({
                'kind': text(doc='caption, vqa, match or point'), 'type': text(doc='what the question is about'),
                'question': text(), 'answer': text()})}))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
    del dl_manager
    return {name: self._generate_examples(*span) for name, span in self._spans.items()}

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for example in self._raw.read(first, end):
      yield example['number'], example | {'image': io.BytesIO(example['image'])}
