"""TFDS builder of `reach`: synthetic episodes of a gripper reaching shapes.

The dataset replaces robot data in tests and first experiments. It can be learned completely: the images show the named
shape and the gripper's pose, and these determine the action.
"""
from collections.abc import Iterator
from typing import Any

import scene as reach  # isort: skip  (beside this file; the folder is on the path, and no package)
from rtjax.data.generation.builder import jpeg, numbers, step_features
from rtjax.data.generation.item_store import split_ranges
from rtjax.data.tf import tfds
from rtjax.language.instructions import hashed_ngrams


class Builder(tfds.core.GeneratorBasedBuilder):
  """Builder of `episodes` training episodes and a tenth as many for val.

  `seed` determines the episodes.
  """

  name = 'reach'
  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, episodes: int = 200, seed: int = 0, **kwargs: Any):
    self._splits, self._seed = split_ranges(episodes), seed
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    state = numbers(7, 'x y z (m), roll pitch yaw (rad), opening (1 open)')
    step = step_features({'image': jpeg((reach.SIZE, reach.SIZE)), 'state': state},
                         numbers(7, 'deltas of x y z (m), roll pitch yaw (rad), opening'))
    return tfds.core.DatasetInfo(
        builder=self, description=__doc__, features=tfds.features.FeaturesDict({'steps': tfds.features.Dataset(step)}))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
    del dl_manager
    return {name: self._generate_examples(*span) for name, span in self._splits.items()}

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
