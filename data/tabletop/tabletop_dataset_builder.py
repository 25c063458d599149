"""TFDS builders of `tabletop`, demonstrations that succeeded, and `tabletop_failures`, those that did not.

They turn raw episodes (`demonstrations.record`) into RLDS. Steps are those of `reach`, with a second camera.
"""
import importlib.metadata
import io
from collections.abc import Iterator
from typing import Any

import demonstrations
import numpy as np
import tensorflow_datasets as tfds

from rtjax.data.chunks import Chunks, Spans


class Builder(tfds.core.GeneratorBasedBuilder):
  """The episodes of `raw` that succeeded; `spans` gives each split's (first, end) episode number.

  Args:
    raw: the episodes, as `demonstrations.record` makes them.
    recipe: that made them.
    wanted: what the generator was asked for, for the dataset's metadata.
    spans: {'train': (0, 1000), 'val': (1000, 1100)}.
    outcome_in_words: end each instruction with ' and succeed' or ' and fail', so that a policy can be trained on both
      and asked to succeed.
  """

  name = 'tabletop'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}  # noqa: RUF012  (TFDS wants a plain class attribute)
  success = True

  def __init__(self, *, raw: Chunks, recipe: demonstrations.Recipe, spans: Spans,
               wanted: dict[str, Any] | None = None, outcome_in_words: bool = False, **kwargs: Any):
    self._raw, self._recipe, self._spans, self._wanted = raw, recipe, spans, wanted
    self._outcome_in_words = outcome_in_words
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    numbers, text = tfds.features.Tensor, tfds.features.Text
    picture = tfds.features.Image(shape=(*self._recipe.image_size, 3), encoding_format='jpeg')
    step = tfds.features.FeaturesDict({
        'observation': {
            **dict.fromkeys(self._recipe.pictures, picture),
            'state': numbers(shape=(7,), dtype=np.float32, doc='x y z (m), roll pitch yaw (rad), opening (1 open)'),
        },
        'action': numbers(shape=(7,), dtype=np.float32, doc='deltas of x y z (m), roll pitch yaw (rad), opening'),
        'language_instruction': text(),
        'language_embedding': numbers(shape=(512,), dtype=np.float32, doc='hashed-ngrams/1'),
        'reward': np.float32, 'discount': np.float32,
        'is_first': np.bool_, 'is_last': np.bool_, 'is_terminal': np.bool_,
    })
    metadata = {
        'number': np.int64, 'success': np.bool_, 'skill': text(), 'task': text(), 'split': text(), 'renderer': text(),
        'objects': tfds.features.Sequence(text()), 'table': text(), 'wall': text(), 'dropped': np.bool_}
    return tfds.core.DatasetInfo(
        builder=self, description=__doc__,
        metadata=tfds.core.MetadataDict(
            renderer=self._recipe.renderer, mujoco=importlib.metadata.version('mujoco'), recipe=self._wanted,
            outcome_in_words=self._outcome_in_words),
        features=tfds.features.FeaturesDict({'steps': tfds.features.Dataset(step), 'episode_metadata': metadata}))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
    del dl_manager
    return {name: self._generate_examples(*span) for name, span in self._spans.items()}

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for episode in self._raw.read(first, end):
      metadata = episode['episode_metadata']
      if metadata['success'] == self.success:
        yield metadata['number'], {'steps': [self._step(s) for s in episode['steps']], 'episode_metadata': metadata}

  def _step(self, step: dict[str, Any]) -> dict[str, Any]:
    observation = step['observation'] | {
        name: io.BytesIO(step['observation'][name]) for name in self._recipe.pictures}
    step = step | {'observation': observation}
    if self._outcome_in_words:
      words = f"{step['language_instruction']} and {'succeed' if self.success else 'fail'}"
      step |= {'language_instruction': words, 'language_embedding': demonstrations.hashed_ngrams(words)}
    return step


class Failures(Builder):
  """The episodes that failed."""

  name = 'tabletop_failures'
  success = False
