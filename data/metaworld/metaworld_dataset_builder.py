"""TFDS builder of `metaworld`: successful demonstrations of Meta-World's experts.

It converts raw episodes (`demonstrations.record`) to RLDS, in the standard layout, which needs no adapter.
"""
import importlib.metadata
import io
from collections.abc import Iterator
from typing import Any

import demonstrations
import numpy as np

from rtjax import actions
from rtjax.data.item_store import ItemStore
from rtjax.data.rlds.adapters import standard_metadata
from rtjax.data.tf import tfds
from rtjax.language.instructions import HASHED_NGRAMS


class Builder(tfds.core.GeneratorBasedBuilder):
  """Builder of the episodes.

  Args:
    raw: episodes of `demonstrations.record`.
    recording: their configuration.
    recipe: the same as JSON, for the dataset's metadata.
  """

  name = 'metaworld'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}  # noqa: RUF012  (TFDS wants a plain class attribute)

  def __init__(self, *, raw: ItemStore, recording: demonstrations.RecordingConfig, recipe: dict[str, Any],
               **kwargs: Any):
    self._raw, self._recording, self._recipe = raw, recording, recipe
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    numbers, text = tfds.features.Tensor, tfds.features.Text
    step = tfds.features.FeaturesDict({
        'observation': {
            'image': tfds.features.Image(shape=(*self._recording.image_size, 3), encoding_format='jpeg'),
            'state': numbers(shape=(4,), dtype=np.float32, doc='x y z of the hand (m), opening (1 open)'),
        },
        'action': numbers(shape=(4,), dtype=np.float32, doc='deltas of x y z (cm), effort of the gripper (1 closes)'),
        'language_instruction': text(),
        'language_embedding': numbers(shape=(512,), dtype=np.float32, doc=HASHED_NGRAMS),
        'reward': np.float32, 'discount': np.float32,
        'is_first': np.bool_, 'is_last': np.bool_, 'is_terminal': np.bool_,
    })
    metadata = {'number': np.int64, 'task': text(), 'start': np.int64, 'failed_attempts': np.int64, 'renderer': text()}
    versions = {name: importlib.metadata.version(name) for name in ('metaworld', 'mujoco')}
    return tfds.core.DatasetInfo(
        builder=self, description=__doc__,
        metadata=tfds.core.MetadataDict(renderer=self._recording.renderer, recipe=self._recipe, **versions,
                                        **standard_metadata(actions.METAWORLD, HASHED_NGRAMS)),
        features=tfds.features.FeaturesDict({'steps': tfds.features.Dataset(step), 'episode_metadata': metadata}))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
    del dl_manager
    return {name: self._generate_examples(*span) for name, span in self._recording.splits().items()}

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for episode in self._raw.read(first, end):
      yield episode['episode_metadata']['number'], episode | {'steps': [_step(step) for step in episode['steps']]}


def _step(step: dict[str, Any]) -> dict[str, Any]:
  observation = step['observation']
  return step | {'observation': observation | {'image': io.BytesIO(observation['image'])}}
