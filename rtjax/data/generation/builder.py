"""TFDS builders of raw items, and features that datasets share."""
import contextlib
import functools
import importlib.metadata
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from rtjax.data.beam import runner
from rtjax.data.generation.item_store import ItemStore, SplitRanges
from rtjax.data.tf import tfds
from rtjax.language.instructions import HashedNgrams


def numbers(size: int, doc: str = '', dtype: Any = np.float32) -> Any:
  """Return the feature of a vector."""
  return tfds.features.Tensor(shape=(size,), dtype=dtype, doc=doc)


def jpeg(image_size: tuple[int, int]) -> Any:
  """Return the feature of an image, stored as JPEG."""
  return tfds.features.Image(shape=(*image_size, 3), encoding_format='jpeg')


def step_features(observation: dict[str, Any], action: Any, embedding: Any = None) -> Any:
  """Return the features of a step with an instruction.

  Args:
    observation, action: features.
    embedding: feature of the instruction's embedding; None: that of 'hashed-ngrams/1'.
  """
  return tfds.features.FeaturesDict({
      'observation': observation, 'action': action, 'language_instruction': tfds.features.Text(),
      'language_embedding': numbers(HashedNgrams.size, HashedNgrams.id) if embedding is None else embedding,
      'reward': np.float32, 'discount': np.float32, **step_flags()})


def step_flags() -> dict[str, Any]:
  """Return the features that mark first and last steps."""
  return dict.fromkeys(('is_first', 'is_last', 'is_terminal'), np.bool_)


def versions(*packages: str) -> dict[str, str]:
  """Return the versions of those packages that are installed."""
  installed = {}
  for name in packages:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      installed[name] = importlib.metadata.version(name)
  return installed


class RawBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """Base of builders that convert raw episodes to RLDS.

  Episodes whose outcome is not `success` are left out.

  Args:
    raw: items of the recorder.
    recording: configuration of the recorder.
    splits: item numbers [first, end) of each split, such as {'train': (0, 1000), 'val': (1000, 1100)}.
    recipe: parameters of the generator, for the dataset's metadata.
    beam: an Apache Beam runner and its flags, to write with; empty: this process writes.
  """

  VERSION = tfds.core.Version('1.0.0')
  success = True

  def __new__(cls, **settings: Any) -> 'RawBuilder':
    builder = super().__new__(cls)
    builder._settings = settings
    return builder

  def __init__(self, *, raw: ItemStore, recording: Any, splits: SplitRanges, recipe: dict[str, Any] | None = None,
               beam: str = '', **kwargs: Any):
    self._raw, self._recording, self._splits, self._recipe, self._beam = raw, recording, splits, recipe, beam
    super().__init__(**kwargs)

  def __reduce__(self) -> Any:
    return functools.partial(type(self), **self._settings), ()  # TFDS keeps its own settings only

  def describe(self, features: dict[str, Any], description: str, **metadata: Any) -> Any:
    """Return TFDS's description of the dataset."""
    return tfds.core.DatasetInfo(
        builder=self, description=description, features=tfds.features.FeaturesDict(features),
        metadata=tfds.core.MetadataDict(recipe=self._recipe, **metadata))

  def describe_episodes(self, step: Any, episode_metadata: dict[str, Any], description: str, **metadata: Any) -> Any:
    """Return TFDS's description of a dataset of episodes."""
    return self.describe({'steps': tfds.features.Dataset(step), 'episode_metadata': episode_metadata}, description,
                         **metadata)

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    if self._beam:
      return {name: runner.elements(self._raw.parts(*span), self._examples_of, f'in {self.name}, {name}')
              for name, span in self._splits.items()}
    return {name: self._generate_examples(*span) for name, span in self._splits.items()}

  def _examples_of(self, part: tuple[int, int]) -> Iterator[tuple[int, Any]]:
    return self._generate_examples(*part)

  def _process_pipeline_result(self, pipeline_result: Any) -> None:
    runner.print_counts(pipeline_result)

  def _generate_examples(self, first: int, end: int) -> Iterator[tuple[int, Any]]:
    for item in self._raw.read(first, end):
      if self.keeps(item):
        yield item['episode_metadata']['number'], item

  @classmethod
  def keeps(cls, item: dict[str, Any]) -> bool:
    """Return whether an item belongs to the dataset."""
    return item['episode_metadata'].get('success', True) == cls.success


def write_items(builder: type[RawBuilder], raw: ItemStore, splits: SplitRanges, beam: str = '',
                **settings: Any) -> dict[str, int]:
  """Write the items that a builder keeps.

  Splits without any are left out, since TFDS rejects them.
  """
  kept = {name: span for name, span in splits.items() if any(builder.keeps(item) for item in raw.read(*span))}
  return write(builder(raw=raw, splits=kept, beam=beam, **settings), beam) if kept else {}


def write(builder: Any, beam: str = '') -> dict[str, int]:
  """Write the dataset of a TFDS builder.

  Args:
    beam: an Apache Beam runner and its flags, if the builder works with one.

  Returns:
    {split: number of episodes or examples}.
  """
  epath.Path(builder.data_dir).rmtree(missing_ok=True)  # left by an interrupted run
  # TFDS leaves a folder for downloads, of which there are none.
  with tempfile.TemporaryDirectory() as downloads, runner.failures(beam):
    builder.download_and_prepare(download_dir=downloads, download_config=download_config(beam))
  return {name: split.num_examples for name, split in builder.info.splits.items()}


def download_config(beam: str) -> Any:
  """Return the argument of TFDS that chooses a runner, None without one."""
  return tfds.download.DownloadConfig(beam_options=runner.options(beam)) if beam else None
