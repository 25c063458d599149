"""TFDS builder of `language_table_demonstrations`, in the layout of the public Language-Table datasets.

It converts raw episodes (`demonstrations.record`) to RLDS. The feature `waypoint` is additional.
"""
import importlib.metadata
from collections.abc import Iterator
from typing import Any

import demonstrations
import numpy as np

from rtjax.data.item_store import ItemStore, SplitRanges
from rtjax.data.tf import tfds


class Builder(tfds.core.GeneratorBasedBuilder):
  """Builder of the successful episodes.

  Args:
    raw: episodes of `demonstrations.record`.
    recording: their configuration.
    splits: episode numbers [first, end) of each split.
    recipe: parameters of the generator, for the dataset's metadata.
  """

  name = 'language_table_demonstrations'
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
            'rgb': tfds.features.Image(shape=(*self._recording.image_size, 3), encoding_format='jpeg'),
            'effector_translation': numbers(shape=(2,), dtype=np.float32, doc='x y (m)'),
            'effector_target_translation': numbers(shape=(2,), dtype=np.float32, doc='x y (m)'),
            'instruction': numbers(shape=(demonstrations.INSTRUCTION_LENGTH,), dtype=np.int32,
                                   doc='UTF-8 bytes, padded with zeros'),
        },
        'action': numbers(shape=(2,), dtype=np.float32, doc='change of the target x y (m)'),
        'waypoint': numbers(shape=(2,), dtype=np.float32, doc='x y of the effector (m) where the oracle next begins or '
                                                              'ends to push, or at the end'),
        'reward': np.float32, 'is_first': np.bool_, 'is_last': np.bool_, 'is_terminal': np.bool_,
    })
    metadata = {'number': np.int64, 'success': np.bool_, 'skill': text(), 'task': text(), 'dropped_starts': np.int64}
    return tfds.core.DatasetInfo(
        builder=self, description=__doc__,
        metadata=tfds.core.MetadataDict(renderer='tiny', pybullet=_version('pybullet'), recipe=self._recipe),
        features=tfds.features.FeaturesDict({'steps': tfds.features.Dataset(step), 'episode_metadata': metadata}))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
    del dl_manager
    return {name: self._generate_examples(*span) for name, span in self._splits.items()}

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for episode in self._raw.read(first, end):
      if episode['episode_metadata']['success']:
        yield episode['episode_metadata']['number'], episode


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return ''
