"""Writing of a TFDS dataset: complete or not at all."""
import concurrent.futures
import contextlib
import functools
import hashlib
import io
import json
import math
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from rtjax.actions import ActionSpec
from rtjax.data.beam import runner
from rtjax.data.convert.episode import LoggedEpisode, cached_logs, read_episode, without_idle
from rtjax.data.convert.images import encode
from rtjax.data.convert.logs import Log, Problem
from rtjax.data.convert.options import Options
from rtjax.data.convert.validate import Report
from rtjax.data.episode import PARAPHRASES
from rtjax.data.generation.builder import download_config, numbers, step_features
from rtjax.data.rlds import adapters
from rtjax.data.tf import tf, tfds
from rtjax.language.instructions import InstructionEncoder, open_encoder
from rtjax.runtime import lock, serialization
from rtjax.runtime.numbers import unusable

VERSION = '1.0.0'


def dataset_folder(options: Options) -> epath.Path:
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

  The `val_share` of the episodes, rounded up, are held out: those whose names have the smallest hashes, so that neither
  order nor chance decides and new episodes move few. Each split has at least one of two or more episodes, if
  `val_share` is above 0.
  """
  def place(log: Log) -> bytes:
    return hashlib.blake2b(log.name.encode(), digest_size=8).digest()[::-1]

  # 0.1 * 30 is a little above 3.
  held_out = max(0, min(math.ceil(val_share * len(logs) - 1e-9), len(logs) - 1))
  chosen = {log.name for log in sorted(logs, key=place)[:held_out]}
  parts = {'train': [log for log in logs if log.name not in chosen], 'val': [log for log in logs if log.name in chosen]}
  return {name: part for name, part in parts.items() if part}


def write_dataset(parts: dict[str, list[Log]], options: Options, spec: ActionSpec, report: Report,
                  encoder: InstructionEncoder, done: Callable[[], object]) -> epath.Path:
  """Write a dataset and return its folder.

  Its metadata holds the ActionSpec; action_spec.json is a copy to change and to give to other runs.

  TFDS writes into a folder beside it, renames that when it is complete, and removes it after an error. The folder of a
  killed process is removed now. `done` is called after each episode.

  Raises:
    LockedError: another process is writing the dataset.
    OSError: the dataset cannot be written; the disk may be full.
    ValueError: a log has changed since the check.
  """
  path = dataset_folder(options)
  local = '://' not in str(path)  # object stores have no locks
  with lock.beside(pathlib.Path(path.parent)) if local else contextlib.nullcontext():
    for left_over in epath.Path(path.parent).glob(f'incomplete.*_{VERSION}'):
      left_over.rmtree()
    _build(parts, options, spec, report, encoder, done)
  (path / 'action_spec.json').write_text(json.dumps(serialization.to_json(spec), indent=2) + '\n')
  return path


def _build(parts: dict[str, list[Log]], options: Options, spec: ActionSpec, report: Report, encoder: InstructionEncoder,
           done: Callable[[], object]) -> None:
  builder = _Builder(parts, options, spec, report, encoder, done)
  try:
    # TFDS creates a folder for downloads, of which there are none, and prints that it downloads.
    with (tempfile.TemporaryDirectory() as nothing, contextlib.redirect_stdout(io.StringIO()),
          runner.failures(options.beam)):
      builder.download_and_prepare(download_dir=nothing, download_config=download_config(options.beam))
  except (tf.errors.OpError, OSError, RuntimeError) as error:
    if isinstance(error, RuntimeError) and not isinstance(error.__cause__, tf.errors.OpError):
      raise
    raise OSError(f'{builder.data_dir} cannot be written: {error}. Is the disk full? Nothing was left there.'
                  ) from error
  if options.beam:
    runner.print_counts(builder.result)


def view_flags(options: Options, report: Report) -> str:
  """Return the flags of train.py that read several cameras."""
  if not options.views:
    return ''
  cameras, (height, width) = report.image_sizes, report.image_sizes['image']
  resize = '' if len(set(cameras.values())) == 1 else f' --pipeline.image-size {height} {width}'
  return f' (rt1_multiview) --pipeline.views {" ".join(cameras)} --model.views {len(cameras)}{resize}'


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  VERSION = tfds.core.Version(VERSION)

  def __init__(self, parts: dict[str, list[Log]], options: Options, spec: ActionSpec, report: Report,
               encoder: InstructionEncoder, done: Callable[[], object]):
    self.name = options.dataset_name()
    self._parts, self._options, self._spec, self._report = parts, options, spec, report
    self._encoder, self._done = encoder, done
    super().__init__(data_dir=options.out.expanduser())

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    cameras = {camera: tfds.features.Image(shape=(*size, 3), encoding_format=self._options.image_format)
               for camera, size in self._report.image_sizes.items()}
    observation = {_feature(camera): image for camera, image in cameras.items()}
    if self._report.state:
      observation['state'] = numbers(self._report.state)
    step = step_features(observation, numbers(self._spec.size, ', '.join(self._spec.dimension_names)),
                         numbers(self._encoder.size, self._encoder.id))
    episode = {'file_path': text}
    if self._options.paraphrases:
      vectors = tfds.features.Tensor(shape=(None, self._encoder.size), dtype=np.float32)
      episode |= dict(zip(PARAPHRASES, (tfds.features.Sequence(text), vectors), strict=True))
    views = {view: f'observation/{_feature(view)}' for view in self._options.cameras()}
    return tfds.core.DatasetInfo(
        builder=self, description='Robot logs, converted by rtjax.data.convert.',
        features=tfds.features.FeaturesDict({
            'steps': tfds.features.Dataset(step), 'episode_metadata': episode}),
        metadata=tfds.core.MetadataDict(adapters.standard_metadata(self._spec, self._encoder.id) | {'views': views}))

  def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
    del dl_manager
    if self._options.beam:
      make = functools.partial(_example_of, self._options, self._spec)
      return {name: runner.elements([log.name for log in part], make, f'episodes in {name}')
              for name, part in self._parts.items()}
    return {name: self._generate_examples(part) for name, part in self._parts.items()}

  def _process_pipeline_result(self, pipeline_result: Any) -> None:
    self.result = pipeline_result

  def _generate_examples(self, logs: list[Log]) -> Iterator[tuple[str, Any]]:
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for log in logs:
        yield log.name, example(log, self._options, self._spec, self._encoder, pool.map)
        self._done()


@functools.lru_cache(1)
def _logs(options: Options) -> dict[str, Log]:
  return {log.name: log for log in cached_logs(options)}


_cached_encoder = functools.lru_cache(1)(open_encoder)


def _example_of(options: Options, spec: ActionSpec, name: str) -> Iterator[tuple[str, Any]]:
  """Yield name and example of a log, on a worker."""
  yield name, example(_logs(options)[name], options, spec, _cached_encoder(options.encoder))


def example(log: Log, options: Options, spec: ActionSpec, encoder: InstructionEncoder,
            apply: Callable[..., Iterable[Any]] = map) -> dict[str, Any]:
  """Return the example of a log, its images encoded with `apply`.

  Raises:
    ValueError: the log has changed since the check.
  """
  try:
    return _example(read_episode(log, options, spec), options, encoder, apply)
  except Problem as problem:
    raise ValueError(f'{log.name}: {problem}') from problem


def _example(episode: LoggedEpisode, options: Options, encoder: InstructionEncoder,
             apply: Callable[..., Iterable[Any]]) -> dict[str, Any]:
  if options.drop_idle:
    episode = without_idle(episode, options.spec())  # as in the check, whatever bounds were found
  texts = list(dict.fromkeys([*episode.paraphrases, *episode.instructions]))
  vectors = dict(zip(texts, _usable(texts, encoder(texts), episode.name), strict=True))
  metadata: dict[str, Any] = {'file_path': episode.name}
  if options.paraphrases:
    stacked = np.stack([vectors[text] for text in episode.paraphrases])
    metadata |= dict(zip(PARAPHRASES, (episode.paraphrases, stacked), strict=True))
  return {'steps': _steps(episode, options, vectors, apply), 'episode_metadata': metadata}


def _steps(episode: LoggedEpisode, options: Options, vectors: dict[str, np.ndarray],
           apply: Callable[..., Iterable[Any]]) -> list[dict[str, Any]]:
  images = {_feature(camera): list(apply(lambda image: encode(image, options.image_format, options.bgr), images))
            for camera, images in {'image': episode.images, **episode.views}.items()}
  last = len(episode) - 1
  return [{
      'observation': {camera: encoded[t] for camera, encoded in images.items()} | (
          {} if episode.state is None else {'state': episode.state[t]}),
      'action': episode.actions[t],
      'language_instruction': text, 'language_embedding': vectors[text],
      'reward': float(t == last) if episode.rewards is None else episode.rewards[t], 'discount': 1.0,
      'is_first': t == 0, 'is_last': t == last, 'is_terminal': t == last,
  } for t, text in enumerate(episode.instructions)]


def _feature(camera: str) -> str:
  """Return the name of a camera's feature, as the tabletop has it."""
  return camera if camera == 'image' else f'{camera}_image'


def _usable(texts: list[str], vectors: np.ndarray, name: str) -> np.ndarray:
  bad = np.flatnonzero(unusable(vectors).any(1))
  if len(bad):
    raise ValueError(f'{name}: the embedding of {texts[bad[0]]!r} holds NaN, infinite or absurd numbers. Check '
                     '--encoder.')
  return vectors
