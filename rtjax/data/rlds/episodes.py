"""Episodes of an RLDS dataset, read through TFDS, with images left encoded."""
import difflib
import functools
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data import images as decoders
from rtjax.data.episode import PARAPHRASES, Episode, EpisodeDecoder, EpisodeSource
from rtjax.data.language import Vectors, no_vectors_error
from rtjax.data.records import Chunk, TfdsRecords
from rtjax.data.rlds import adapters, features
from rtjax.data.tf import rlds, tf, tfds
from rtjax.language import text

# Larger ones are depth images, point clouds and the like.
_MOST_NUMBERS = 4096


class Dataset(TfdsRecords, EpisodeSource):
  """Episodes of one split of a dataset, read by its adapter.

  Args:
    name: a folder that holds dataset_info.json (or its parent), a `gs://` folder, or a TFDS name.
    split: in TFDS's split algebra.
    action_spec: the action fields to read, in its order.
    images: whether to read images; statistics do without.
    views: cameras to read, by the adapter's names; empty reads `camera` alone.
    camera: empty takes the adapter's main one.
    proprioception: whether to read the robot state; None reads it where there is one.
    vectors: computes the instruction vectors where the dataset stores none of this encoder; None takes the stored ones.
    drop_unlabelled: leave out episodes without an instruction, with zero vectors, or with a text that is no UTF-8.
    check: whether a NaN, infinite or absurd number is an error.
    rt1_x_grippers: take the gripper signs of RT-1-X's notebook where the adapter corrects them.

  Raises:
    FileNotFoundError: no such folder or TFDS dataset.
    ValueError: the split is unknown or empty, or the dataset lacks a feature that its adapter names.
  """

  record_name = 'episode'

  def __init__(self, name: str, split: str, action_spec: ActionSpec, *, images: bool = True,
               views: Sequence[str] = (), camera: str = '', proprioception: bool | None = False,
               vectors: Vectors | None = None, drop_unlabelled: bool = False,
               check: bool = True, rt1_x_grippers: bool = False):
    TfdsRecords.__init__(self, name, split)
    EpisodeSource.__init__(self, action_spec, check, drop_unlabelled)
    self.views, self._images = tuple(views), images
    declared = self._builder.info.features
    if not isinstance(declared, tfds.features.FeaturesDict) or rlds.STEPS not in declared:
      raise ValueError(f'{name}: not an RLDS dataset, its features have no {rlds.STEPS!r}: {declared}.')
    self._leaves = dict(features.leaves(declared[rlds.STEPS].feature))
    self.adapter = adapters.get(self._builder.name, self._builder.info.metadata,
                                {path: features.describe(f) for path, f in self._leaves.items()})
    self.rt1_x_grippers = rt1_x_grippers and self.adapter.rt1_x_action is not None
    self._embedding = self.adapter.embedding or ''
    is_stored = self._embedding in self._leaves and vectors is not None and vectors.id == self.adapter.embedding_id
    self._vectors = None if is_stored else vectors
    path = self.adapter.proprioception
    self.proprioception = path if proprioception or (proprioception is None and path in self._leaves) else None
    if proprioception and self.proprioception is None:
      raise ValueError(f'{name}: proprioception is on, but the adapter {self.adapter.name!r} names no feature for it. '
                       'Name one there, or turn it off.')
    self._cameras = [self.adapter.camera(view) for view in views or [camera or 'image']]
    self._check_features()
    self.image_sizes = [_size(self._leaves[camera]) for camera in self._cameras]
    self.proprioception_size = math.prod(self._leaves[self.proprioception].shape) if self.proprioception else 0
    self.embedding_id = self.adapter.embedding_id if self._vectors is None else self._vectors.id
    self.embedding_size = (self._leaves[self._embedding].shape[-1] if self._vectors is None else self._vectors.size)
    metadata = dict(self._builder.info.metadata or {})
    self.renderer, self.skills = metadata.get('renderer'), _skills(metadata.get('recipe'))
    self._used = {path: f for path, f in self._leaves.items() if self._is_used(path, f)}
    needed = (self.proprioception, self.adapter.instruction, self._embedding if self._vectors is None else '')
    for path in filter(None, needed):
      if path not in self._used:
        raise ValueError(f'{name}: {path!r} is {features.describe(self._leaves[path])}, expected at most '
                         f'{_MOST_NUMBERS} numbers a step.')

  @property
  def cameras(self) -> list[str]:
    names = ('image', *self.adapter.views)
    return [name for name in names if self.adapter.camera(name) in self._leaves]

  @property
  def stores_vectors(self) -> bool:
    return self._embedding in self._leaves

  @property
  def layout(self) -> dict[str, str]:
    return {path: features.describe(feature) for path, feature in self._leaves.items()}

  def decoder(self, size: tuple[int, int] | None) -> EpisodeDecoder:
    decode = [decoders.decoder(self._leaves[camera], size) for camera in self._cameras]

    def frames(episode: Episode, steps: Sequence[int], view: int) -> Iterator[np.ndarray]:
      stored = episode.images[:, view] if self.views else episode.images
      return map(decode[view], (stored[step] for step in steps))

    return frames

  def read(self, chunks: Sequence[Chunk]) -> Iterator[Episode]:
    for number, record in self.records(chunks):
      try:
        steps, paraphrases = self._parse(record), self._paraphrases(record)
      except (KeyError, TypeError, ValueError, zlib.error) as error:  # NumPy's and TFDS's, about other content
        raise ValueError(f'{self.name}, episode {number} of {self.split!r} does not fit features.json: {error}. Fix or '
                         'remove it.') from error
      episode = self._episode(number, steps, paraphrases)
      if self._kept(episode):
        yield episode

  def action_fields(self) -> dict[str, int]:
    """Return the sizes of the action fields in the first episode."""
    _, record = next(self.records(self.chunks(1)[:1]))
    return {name: part.shape[-1] for name, part in self.adapter.action(self._parse(record)).items()}

  def instruction_embeddings(self) -> Iterator[tuple[str, np.ndarray]]:
    """Yield instruction as stored (empty without a word) and embedding, float32 [E], of each step."""
    for number, record in self.records(self.chunks(self.num_records)):
      steps = self._parse(record)
      texts = self._texts(number, steps, _worded)
      yield from zip(texts, self._embeddings(texts, steps), strict=True)
      if (paraphrases := self._paraphrases(record)) is not None:
        yield from zip(*paraphrases, strict=True)

  def _parse(self, record: tf.train.Example) -> dict[str, Any]:
    """Steps of an episode: nested dicts of arrays [steps, ...]."""
    # TFDS's deserialize_example gives the same (tested) but takes three to eight times as long.
    stored = record.features.feature
    return features.nest({path: features.parse(stored[f'{rlds.STEPS}/{path}'], feature)
                          for path, feature in self._used.items()})

  def _paraphrases(self, record: tf.train.Example) -> tuple[np.ndarray, np.ndarray] | None:
    """Several instructions for the task, as rtjax.data.convert writes them."""
    texts, vectors = (record.features.feature[f'episode_metadata/{name}'] for name in PARAPHRASES)
    if not texts.bytes_list.value:
      return None
    found = np.array([_tidy(value) for value in texts.bytes_list.value], object)
    if self._vectors is not None:
      return found, self._vectors(found)
    return found, np.array(vectors.float_list.value, np.float32).reshape(len(found), self.embedding_size)

  def _episode(self, number: int, steps: dict[str, Any],
               paraphrases: tuple[np.ndarray, np.ndarray] | None = None) -> Episode:
    texts = self._texts(number, steps)
    proprioception = None
    if self.proprioception is not None:
      proprioception = np.asarray(features.at(steps, self.proprioception), np.float32)
      proprioception = proprioception.reshape(len(texts), self.proprioception_size)
    actions, limited = self._pack(number, steps, self._action_map(), len(texts))
    return Episode(
        number=number,
        images=self._stored_images(number, steps, len(texts)) if self._images else np.empty(0, object),
        embeddings=self._embeddings(texts, steps),
        actions=actions,
        instructions=texts,
        proprioception=proprioception, limited=limited, waypoints=self._waypoints(steps), paraphrases=paraphrases)

  def _action_map(self) -> adapters.ActionMap:
    return (self.rt1_x_grippers and self.adapter.rt1_x_action) or self.adapter.action

  def _texts(self, number: int, steps: dict[str, Any], read: Callable[[bytes], str] | None = None) -> np.ndarray:
    """Return the instructions, str [steps], empty without a word.

    Args:
      read: from bytes to text; None: its normal form.
    """
    stored = features.at(steps, self.adapter.instruction)
    try:
      values = stored if stored.dtype == object else [bytes(row[row != 0].tolist()) for row in stored]
      return np.array([(read or _tidy)(value) for value in values], object)
    except ValueError as error:
      if self._drop_unlabelled:
        return np.full(len(stored), '', object)
      raise ValueError(f'{self.name}, episode {number} of {self.split!r}: {error} Or leave such episodes out: '
                       '--pipeline.drop-unlabelled.') from error

  def _embeddings(self, texts: np.ndarray, steps: dict[str, Any]) -> np.ndarray:
    if self._vectors is not None:
      return self._vectors(texts)
    return np.asarray(features.at(steps, self._embedding), np.float32)

  def _waypoints(self, steps: dict[str, Any]) -> np.ndarray | None:
    path = self.adapter.waypoint
    return np.asarray(features.at(steps, path), np.float32) if path in self._leaves else None

  def _stored_images(self, number: int, steps: dict[str, Any], length: int) -> np.ndarray:
    stored = [features.at(steps, camera) for camera in self._cameras]
    for camera, images in zip(self._cameras, stored, strict=True):
      if len(images) != length:
        raise ValueError(f'{self.name}, episode {number} of {self.split!r}: {camera!r} has {len(images)} images for '
                         f'{length} steps. Fix or remove the episode.')
    if not self.views:
      return stored[0]
    return np.stack([np.fromiter(images, object, length) for images in stored], 1)

  def _is_used(self, path: str, feature: Any) -> bool:
    """Whether to read a feature: chosen cameras and all small features."""
    if path in self._cameras:
      return self._images
    info = feature.get_serialized_info()
    single = isinstance(info, tfds.features.TensorInfo) and not info.sequence_rank and None not in feature.shape
    return single and math.prod(feature.shape) <= _MOST_NUMBERS

  def _check_features(self) -> None:
    """Check that all features are present, with the right type."""
    if self.proprioception:
      self._check_feature(self.proprioception, 'numbers', lambda f: (
          features.dtype_kind(f) in 'biuf' and None not in f.shape))
    self._check_feature(self.adapter.instruction, 'text, or its bytes as numbers', lambda f: (
        f.shape == () if features.dtype_kind(f) == 'O' else features.dtype_kind(f) in 'iu' and len(f.shape) == 1))
    if self._vectors is None:
      self._check_embedding()
    for camera in self._cameras:
      self._check_feature(camera, 'a uint8 image [H, W, 3]', lambda f: (
          f.np_dtype == np.uint8 and len(f.shape) == 3 and f.shape[2] == 3
          and (isinstance(f, tfds.features.Image) or None not in f.shape)))

  def _check_embedding(self) -> None:
    path, name = self._embedding, self.adapter.name
    if path not in self._leaves:
      stored = (f'no {path!r}, the instruction vectors that the adapter {name!r} names; it has {sorted(self._leaves)}'
                if path else f'no instruction vectors, says the adapter {name!r}')
      raise no_vectors_error(self.name, stored)
    self._check_feature(path, 'a vector', lambda f: features.dtype_kind(f) == 'f' and len(f.shape) == 1)

  def _check_feature(self, path: str, expected: str, is_valid: Callable[[Any], bool]) -> None:
    if path not in self._leaves:
      close = difflib.get_close_matches(path, self._leaves, 1, 0.3)
      raise ValueError(f'{self.name}: the adapter {self.adapter.name!r} expects the step feature {path!r}, the dataset '
                       f'has {sorted(self._leaves)}.' + (f' Did you mean {close[0]!r}?' if close else '')
                       + ' Adapters are described in docs/guides/your_robot.md.')
    feature = self._leaves[path]
    if not is_valid(feature):
      raise ValueError(f'{self.name}: {path!r} is {features.describe(feature)}, expected {expected}. '
                       f'Name another feature in the adapter {self.adapter.name!r}.')


def _skills(recipe: Any) -> tuple[str, ...]:
  """Return the skills in a generated dataset's recipe, else none."""
  names = recipe.get('skills') if isinstance(recipe, dict) else None
  return tuple(name for name in names if isinstance(name, str) and re.fullmatch(r'[\w-]{1,80}', name)
               ) if isinstance(names, list) else ()


def _size(feature: Any) -> tuple[int, int] | None:
  height, width, _ = feature.shape
  return (height, width) if height and width else None


def _worded(raw: bytes) -> str:
  return text.decode(raw) if _tidy(raw) else ''


@functools.lru_cache(1024)
def _tidy(raw: bytes) -> str:
  return text.tidy(text.decode(raw))
