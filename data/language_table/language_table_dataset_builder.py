"""TFDS builder of `language_table_demonstrations`, in the layout of the public Language-Table datasets.

It converts raw episodes (`demonstrations.record`) to RLDS. The feature `waypoint` is additional.
"""
import demonstrations
import numpy as np

from rtjax.data.generation.builder import RawBuilder, jpeg, numbers, step_flags, versions
from rtjax.data.tf import tfds


class Builder(RawBuilder):
  """Builder of the successful episodes; `recording` is a RecordingConfig."""

  name = 'language_table_demonstrations'

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    step = tfds.features.FeaturesDict({
        'observation': {
            'rgb': jpeg(self._recording.image_size),
            'effector_translation': numbers(2, 'x y (m)'),
            'effector_target_translation': numbers(2, 'x y (m)'),
            'instruction': numbers(demonstrations.INSTRUCTION_LENGTH, 'UTF-8 bytes, padded with zeros', np.int32),
        },
        'action': numbers(2, 'change of the target x y (m)'),
        'waypoint': numbers(2, 'x y of the effector (m) where the oracle next begins or ends to push, or at the end'),
        'reward': np.float32, **step_flags()})
    metadata = {'number': np.int64, 'success': np.bool_, 'skill': text(), 'task': text(), 'dropped_starts': np.int64}
    return self.describe_episodes(step, metadata, __doc__, renderer='tiny', **versions('pybullet'))
