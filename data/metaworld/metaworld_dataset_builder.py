"""TFDS builder of `metaworld`: successful demonstrations of Meta-World's experts.

It converts raw episodes (`demonstrations.record`) to RLDS, in the standard layout, which needs no adapter.
"""
import numpy as np

from rtjax import actions
from rtjax.data.generation.builder import RawBuilder, jpeg, numbers, step_features, versions
from rtjax.data.rlds.adapters import standard_metadata
from rtjax.data.tf import tfds
from rtjax.language.instructions import HASHED_NGRAMS


class Builder(RawBuilder):
  """Builder of the episodes; `recording` is a RecordingConfig."""

  name = 'metaworld'

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    step = step_features({'image': jpeg(self._recording.image_size),
                          'state': numbers(4, 'x y z of the hand (m), opening (1 open)')},
                         numbers(4, 'deltas of x y z (cm), effort of the gripper (1 closes)'))
    metadata = {'number': np.int64, 'task': text(), 'start': np.int64, 'failed_attempts': np.int64, 'renderer': text()}
    layout = standard_metadata(actions.METAWORLD, HASHED_NGRAMS)
    return self.describe_episodes(step, metadata, __doc__, renderer=self._recording.renderer,
                                  **versions('metaworld', 'mujoco'), **layout)
