"""TFDS builders of `tabletop`, successful demonstrations, and `tabletop_failures`.

They convert raw episodes (`demonstrations.record`) to RLDS. The steps have the features of `reach`, with more cameras.
"""
from collections.abc import Iterator
from typing import Any

import numpy as np

from rtjax.data.generation.builder import RawBuilder, jpeg, numbers, step_features, versions
from rtjax.data.tf import tfds
from rtjax.language.instructions import hashed_ngrams


class Builder(RawBuilder):
  """Builder of the successful episodes.

  Args:
    outcome_in_words: end each instruction with ' and succeed' or ' and fail', so that a policy can be trained on both
      and instructed to succeed.
    kwargs: arguments of RawBuilder; `recording` is a RecordingConfig.
  """

  name = 'tabletop'

  def __init__(self, *, outcome_in_words: bool = False, **kwargs: Any):
    self._outcome_in_words = outcome_in_words
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    images = dict.fromkeys(self._recording.image_keys, jpeg(self._recording.image_size))
    step = step_features(images | {'state': numbers(7, 'x y z (m), roll pitch yaw (rad), opening (1 open)')},
                         numbers(7, 'deltas of x y z (m), roll pitch yaw (rad), opening'))
    metadata = {
        'number': np.int64, 'success': np.bool_, 'skill': text(), 'task': text(), 'split': text(), 'renderer': text(),
        'objects': tfds.features.Sequence(text()), 'table': text(), 'wall': text(), 'dropped': np.bool_}
    return self.describe_episodes(step, metadata, __doc__, outcome_in_words=self._outcome_in_words,
                                  renderer=self._recording.renderer, **versions('mujoco'))

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for number, episode in super()._generate_examples(first, end):
      if self._outcome_in_words:
        text = f"{episode['steps'][0]['language_instruction']} and {'succeed' if self.success else 'fail'}"
        words = {'language_instruction': text, 'language_embedding': hashed_ngrams(text)}
        episode = episode | {'steps': [step | words for step in episode['steps']]}
      yield number, episode


class Failures(Builder):
  """Builder of the failed episodes."""

  name = 'tabletop_failures'
  success = False
