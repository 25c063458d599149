"""TFDS builders of `tabletop`, successful demonstrations, and `tabletop_failures`.

They convert raw episodes (`demonstrations.record`) to RLDS. The steps have the features of `reach`, with more cameras.
"""
import importlib.metadata
import io
from collections.abc import Iterator
from typing import Any

import demonstrations
import numpy as np

from rtjax.data.item_store import ItemStore, SplitRanges
from rtjax.data.tf import tfds
from rtjax.language.instructions import hashed_ngrams


class Builder(tfds.core.GeneratorBasedBuilder):
  """Builder of the successful episodes.

  Args:
    raw: episodes of `demonstrations.record`.
    recording: their configuration.
    splits: episode numbers [first, end) of each split, such as {'train': (0, 1000), 'val': (1000, 1100)}.
    recipe: parameters of the generator, for the dataset's metadata.
    outcome_in_words: end each instruction with ' and succeed' or ' and fail', so that a policy can be trained on both
      and instructed to succeed.
  """

  name = 'tabletop'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}  # noqa: RUF012  (TFDS wants a plain class attribute)
  success = True

  def __init__(self, *, raw: ItemStore, recording: demonstrations.RecordingConfig, splits: SplitRanges,
               recipe: dict[str, Any] | None = None, outcome_in_words: bool = False, **kwargs: Any):
    self._raw, self._recording, self._splits, self._recipe = raw, recording, splits, recipe
    self._outcome_in_words = outcome_in_words
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    numbers, text = tfds.features.Tensor, tfds.features.Text
    image = tfds.features.Image(shape=(*self._recording.image_size, 3), encoding_format='jpeg')
    step = tfds.features.FeaturesDict({
        'observation': {
            **dict.fromkeys(self._recording.image_keys, image),
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
            renderer=self._recording.renderer, mujoco=importlib.metadata.version('mujoco'), recipe=self._recipe,
            outcome_in_words=self._outcome_in_words),
        features=tfds.features.FeaturesDict({'steps': tfds.features.Dataset(step), 'episode_metadata': metadata}))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
    del dl_manager
    return {name: self._generate_examples(*span) for name, span in self._splits.items()}

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for episode in self._raw.read(first, end):
      metadata = episode['episode_metadata']
      if metadata['success'] == self.success:
        yield metadata['number'], {'steps': [self._step(s) for s in episode['steps']], 'episode_metadata': metadata}

  def _step(self, step: dict[str, Any]) -> dict[str, Any]:
    observation = step['observation'] | {
        key: io.BytesIO(step['observation'][key]) for key in self._recording.image_keys}
    step = step | {'observation': observation}
    if self._outcome_in_words:
      text = f"{step['language_instruction']} and {'succeed' if self.success else 'fail'}"
      step |= {'language_instruction': text, 'language_embedding': hashed_ngrams(text)}
    return step


class Failures(Builder):
  """Builder of the failed episodes."""

  name = 'tabletop_failures'
  success = False
