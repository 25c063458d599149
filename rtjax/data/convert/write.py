"""Writing of a TFDS dataset: complete or not at all."""
import concurrent.futures
import contextlib
import hashlib
import io
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data.convert.episode import read_episode
from rtjax.data.convert.images import encode
from rtjax.data.convert.logs import Log, Problem
from rtjax.data.convert.options import Options
from rtjax.data.convert.validate import Report
from rtjax.data.rlds import adapters
from rtjax.data.tf import tf, tfds
from rtjax.language.instructions import InstructionEncoder

VERSION = '1.0.0'


def dataset_folder(options: Options) -> pathlib.Path:
  """Return the folder of the dataset.

  Raises:
    ValueError: it exists already, or the name is not valid.
  """
  path = options.out.expanduser() / options.dataset_name() / VERSION
  if path.exists():
    raise ValueError(f'{path} exists already: remove it, or choose another --name or --out.')
  return path


def split_episodes(logs: Sequence[Log], val_share: float) -> dict[str, list[Log]]:
  """Divide the episodes into train and val.

  A hash of the name decides, so that adding episodes moves none. With two or more episodes each split has at least one,
  if `val_share` is above 0.
  """
  def place(log: Log) -> float:
    return int.from_bytes(hashlib.blake2b(log.name.encode(), digest_size=8).digest(), 'little') / 2**64

  ordered = sorted(logs, key=place)
  held_out = sum(place(log) < val_share for log in logs)
  if val_share and len(logs) > 1:
    held_out = min(max(held_out, 1), len(logs) - 1)
  chosen = {log.name for log in ordered[:held_out]} if len(logs) > 1 else set()
  parts = {'train': [log for log in logs if log.name not in chosen], 'val': [log for log in logs if log.name in chosen]}
  return {name: part for name, part in parts.items() if part}


def write_dataset(parts: dict[str, list[Log]], options: Options, spec: ActionSpec, report: Report,
                  encoder: InstructionEncoder, done: Callable[[], object]) -> pathlib.Path:
  """Write a dataset and return its folder.

  TFDS writes into a folder beside it, renames that when it is complete, and removes it after an error. The folder of a
  killed process is removed now. `done` is called after each episode.

  Raises:
    OSError: the dataset cannot be written; the disk may be full.
    ValueError: a log has changed since the check.
  """
  path = dataset_folder(options)
  for left_over in path.parent.glob(f'incomplete.*_{VERSION}'):
    shutil.rmtree(left_over)
  builder = _Builder(parts, options, spec, report, encoder, done)
  try:
    # TFDS creates a folder for downloads, of which there are none, and prints that it downloads.
    with tempfile.TemporaryDirectory() as nothing, contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(download_dir=nothing)
  except (tf.errors.OpError, OSError, RuntimeError) as error:
    if isinstance(error, RuntimeError) and not isinstance(error.__cause__, tf.errors.OpError):
      raise
    raise OSError(f'{path} cannot be written: {error}. Is the disk full? Nothing was left there.') from error
  return path


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  VERSION = tfds.core.Version(VERSION)

  def __init__(self, parts: dict[str, list[Log]], options: Options, spec: ActionSpec, report: Report,
               encoder: InstructionEncoder, done: Callable[[], object]):
    self.name = options.dataset_name()
    self._parts, self._options, self._spec, self._report = parts, options, spec, report
    self._encoder, self._done = encoder, done
    super().__init__(data_dir=options.out.expanduser())

  def _info(self) -> tfds.core.DatasetInfo:
    numbers, shape = tfds.features.Tensor, (*(self._report.image_size or (None, None)), 3)
    observation = {'image': tfds.features.Image(shape=shape, encoding_format=self._options.image_format)}
    if self._report.state:
      observation['state'] = numbers(shape=(self._report.state,), dtype=np.float32)
    step = tfds.features.FeaturesDict({
        'observation': observation,
        'action': numbers(shape=(self._spec.size,), dtype=np.float32, doc=', '.join(self._spec.dimension_names)),
        'language_instruction': tfds.features.Text(),
        'language_embedding': numbers(shape=(self._encoder.size,), dtype=np.float32, doc=self._encoder.id),
        'reward': np.float32, 'discount': np.float32,
        'is_first': np.bool_, 'is_last': np.bool_, 'is_terminal': np.bool_,
    })
    return tfds.core.DatasetInfo(
        builder=self, description='Robot logs, converted by rtjax.data.convert.',
        features=tfds.features.FeaturesDict({
            'steps': tfds.features.Dataset(step), 'episode_metadata': {'file_path': tfds.features.Text()}}),
        metadata=tfds.core.MetadataDict(adapters.standard_metadata(self._spec, self._encoder.id)))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, Any]]]:
    del dl_manager
    return {name: self._generate_examples(part) for name, part in self._parts.items()}

  def _generate_examples(self, logs: list[Log]) -> Iterator[tuple[str, Any]]:
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for log in logs:
        try:
          yield log.name, {'steps': self._steps(log, pool), 'episode_metadata': {'file_path': log.name}}
        except Problem as problem:  # the check found none, so the log has changed since
          raise ValueError(f'{log.name}: {problem}') from problem
        self._done()

  def _steps(self, log: Log, pool: concurrent.futures.Executor) -> list[dict[str, Any]]:
    episode = read_episode(log, self._options, self._spec)
    image_format, bgr = self._options.image_format, self._options.bgr
    images = pool.map(lambda image: encode(image, image_format, bgr), episode.images)
    texts = list(dict.fromkeys(episode.instructions))
    vectors = dict(zip(texts, self._encoder(texts), strict=True))
    last = len(episode) - 1
    return [{
        'observation': {'image': image} | ({} if episode.state is None else {'state': episode.state[t]}),
        'action': episode.actions[t],
        'language_instruction': episode.instructions[t], 'language_embedding': vectors[episode.instructions[t]],
        'reward': float(t == last) if episode.rewards is None else episode.rewards[t], 'discount': 1.0,
        'is_first': t == 0, 'is_last': t == last, 'is_terminal': t == last,
    } for t, image in enumerate(images)]
