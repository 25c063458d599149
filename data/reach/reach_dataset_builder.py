"""TFDS builder of `reach`: synthetic episodes of a gripper reaching shapes.

The dataset replaces robot data in tests and first experiments. It can be learned completely: the images show the named
shape and the gripper's pose, and these determine the action.
"""
from collections.abc import Iterator
from typing import Any

import numpy as np

import scene as reach  # isort: skip  (beside this file; the folder is on the path, and no package)
from rtjax.data.tf import tfds
from rtjax.language.instructions import hashed_ngrams


class Builder(tfds.core.GeneratorBasedBuilder):
  """Builder of `episodes` training episodes and a tenth as many for val.

  `seed` determines the episodes.
  """

  name = 'reach'
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First release.'}  # noqa: RUF012  (TFDS wants a plain class attribute)

  def __init__(self, *, episodes: int = 200, seed: int = 0, **kwargs: Any):
    if episodes < 1:
      raise ValueError(f'episodes is {episodes}, expected at least 1.')
    self._episodes, self._seed = episodes, seed
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    numbers = tfds.features.Tensor
    step = tfds.features.FeaturesDict({
        'observation': {
            'image': tfds.features.Image(shape=(reach.SIZE, reach.SIZE, 3), encoding_format='jpeg'),
            'state': numbers(shape=(7,), dtype=np.float32, doc='x y z (m), roll pitch yaw (rad), opening (1 open)'),
        },
        'action': numbers(shape=(7,), dtype=np.float32, doc='deltas of x y z (m), roll pitch yaw (rad), opening'),
        'language_instruction': tfds.features.Text(),
        'language_embedding': numbers(shape=(512,), dtype=np.float32, doc='hashed-ngrams/1'),
        'reward': np.float32, 'discount': np.float32,
        'is_first': np.bool_, 'is_last': np.bool_, 'is_terminal': np.bool_,
    })
    return tfds.core.DatasetInfo(
        builder=self, description=__doc__, features=tfds.features.FeaturesDict({'steps': tfds.features.Dataset(step)}))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
    del dl_manager
    held_out = max(1, self._episodes // 10)
    return {'train': self._generate_examples(0, self._episodes),
            'val': self._generate_examples(self._episodes, self._episodes + held_out)}

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for number in range(first, end):
      scene, states, actions = reach.episode(self._seed, number)
      embedding = hashed_ngrams(scene.instruction)
      last = len(states) - 1
      yield number, {'steps': [{
          'observation': {'image': reach.render(scene, states[t]), 'state': states[t]},
          'action': actions[t],
          'language_instruction': scene.instruction, 'language_embedding': embedding,
          'reward': float(t == last), 'discount': 1.0,
          'is_first': t == 0, 'is_last': t == last, 'is_terminal': t == last,
      } for t in range(last + 1)]}
