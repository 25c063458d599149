"""Episodes of an RLDS dataset, read through TFDS, with images left encoded.

Every step of an episode is kept as recorded, including the last one. RLDS says that the last action may be a dummy; the
datasets of the Open X-Embodiment mixture record a true action there, or the one that ends the episode, and RT-1 trains
on it. Logs whose last action is a dummy should be converted without that step.
"""
import dataclasses
import difflib
import functools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data.numbers import far_actions, far_numbers, unusable
from rtjax.data.records import Chunk, RecordSource, TfdsRecords
from rtjax.data.rlds import adapters, features
from rtjax.data.rlds.adapter import LimitedAction
from rtjax.data.rlds.language import Vectors
from rtjax.data.tf import rlds, tf, tfds
from rtjax.language import text

# Larger ones are depth images, point clouds and the like.
_MOST_NUMBERS = 4096
# Encoders give numbers of about 1.
_FAR_VECTOR = 100.0

PARAPHRASES = ('paraphrases', 'paraphrase_embeddings')
"""Names of the optional episode metadata: texts [P] and embeddings [P, E] of instructions for the same task."""


@dataclasses.dataclass(frozen=True)
class Episode:
  """One recorded episode.

  Attributes:
    number: its place in the split, in TFDS's order.
    images: object [steps] of encoded bytes, or uint8 [steps, H, W, 3] where the dataset stores pixels; empty if not
      read. With views object [steps, views], of bytes or of uint8 [H, W, 3].
    embeddings: float32 [steps, E], of the instruction; E is 0 if not read.
    actions: float32 [steps, A] in the ActionSpec's units.
    instructions: str [steps] (object), in normal form; empty where there is none.
    proprioception: float32 [steps, S], or None.
    limited: bool [steps, A], numbers that the adapter clipped.
    paraphrases: texts [P] (object) and embeddings [P, E] of several instructions for the task, or None.
  """
  number: int
  images: np.ndarray
  embeddings: np.ndarray
  actions: np.ndarray
  instructions: np.ndarray
  proprioception: np.ndarray | None
  limited: np.ndarray
  paraphrases: tuple[np.ndarray, np.ndarray] | None = None

  def __len__(self) -> int:
    return len(self.actions)

  def image(self, step: int, view: int = 0) -> Any:
    """Return one image as stored."""
    return self.images[step, view] if self.images.ndim == 2 else self.images[step]

  @property
  def labelled(self) -> np.ndarray:
    """Steps with an instruction, and no vector of zeros, bool [steps]."""
    has_text = self.instructions != ''
    return has_text & self.embeddings.any(1) if self.embeddings.shape[1] else has_text

  def with_instruction(self, number: int) -> 'Episode':
    """Return the episode with one of its paraphrases in every step."""
    assert self.paraphrases is not None
    words, embedding = (part[number] for part in self.paraphrases)
    return dataclasses.replace(self, instructions=np.full(len(self), words, object),
                               embeddings=np.broadcast_to(embedding, self.embeddings.shape))


class Dataset(TfdsRecords, RecordSource[Episode]):
  """Episodes of one split of a dataset, read by its adapter.

  Args:
    name: a folder that holds dataset_info.json (or its parent), a `gs://` folder, or a TFDS name.
    split: in TFDS's split algebra.
    action_spec: the action fields to read, in its order.
    images: whether to read images; statistics do without.
    views: cameras to read, by the adapter's names; empty reads its main one.
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
               views: Sequence[str] = (), proprioception: bool | None = False,
               vectors: Vectors | None = None, drop_unlabelled: bool = False,
               check: bool = True, rt1_x_grippers: bool = False):
    super().__init__(name, split)
    self.views, self._images, self._drop_unlabelled = tuple(views), images, drop_unlabelled
    self._check = check
    self._spec = action_spec
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
    self._proprioception = path if proprioception or (proprioception is None and path in self._leaves) else None
    if proprioception and self._proprioception is None:
      raise ValueError(f'{name}: proprioception is on, but the adapter {self.adapter.name!r} names no feature for it. '
                       'Name one there, or turn it off.')
    self._cameras = [self.adapter.camera(view) for view in views or ['image']]
    self._check_features()
    self._used = {path: f for path, f in self._leaves.items() if self._is_used(path, f)}
    needed = (self._proprioception, self.adapter.instruction, self._embedding if self._vectors is None else '')
    for path in filter(None, needed):
      if path not in self._used:
        raise ValueError(f'{name}: {path!r} is {features.describe(self._leaves[path])}, expected at most '
                         f'{_MOST_NUMBERS} numbers a step.')

  @property
  def cameras(self) -> list[str]:
    """Names of the cameras that the dataset has, main one first."""
    names = ('image', *self.adapter.views)
    return [name for name in names if self.adapter.camera(name) in self._leaves]

  @property
  def proprioception(self) -> str | None:
    """Path of the robot state that is read."""
    return self._proprioception

  @property
  def stores_vectors(self) -> bool:
    """Whether the dataset has the instruction vectors that its adapter names."""
    return self._embedding in self._leaves

  @property
  def layout(self) -> dict[str, str]:
    """Type and shape of each step feature."""
    return {path: features.describe(feature) for path, feature in self._leaves.items()}

  @property
  def image_features(self) -> list[Any]:
    """TFDS feature of each camera."""
    return [self._leaves[camera] for camera in self._cameras]

  @property
  def image_feature(self) -> Any:
    """TFDS feature of the first camera."""
    return self.image_features[0]

  @property
  def embedding_id(self) -> str:
    """Id of the vectors' encoder; empty if they are not read."""
    return self.adapter.embedding_id if self._vectors is None else self._vectors.id

  @property
  def embedding_size(self) -> int:
    """Size of the instruction vectors; 0 if they are not read."""
    return self._leaves[self._embedding].shape[-1] if self._vectors is None else self._vectors.size

  @property
  def proprioception_size(self) -> int:
    return math.prod(self._leaves[self._proprioception].shape) if self._proprioception else 0

  @property
  def image_size(self) -> list[int] | None:
    """[height, width] of the first camera's images; None where they vary."""
    height, width, _ = self.image_feature.shape
    return [height, width] if height and width else None

  @property
  def renderer(self) -> str | None:
    """Renderer of a simulated dataset, from its metadata; None for others."""
    return (self._builder.info.metadata or {}).get('renderer')

  def read(self, chunks: Sequence[Chunk]) -> Iterator[Episode]:
    for number, record in self.records(chunks):
      try:
        steps, paraphrases = self._parse(record), self._paraphrases(record)
      except (KeyError, TypeError, ValueError, zlib.error) as error:  # NumPy's and TFDS's, about other content
        raise ValueError(f'{self.name}, episode {number} of {self.split!r} does not fit features.json: {error}. Fix or '
                         'remove it.') from error
      episode = self._episode(number, steps, paraphrases)
      if not self._drop_unlabelled or episode.labelled.any():
        yield episode

  def at_epoch(self, episode: Episode, key: Sequence[int]) -> Episode:
    """Return the episode with a paraphrase, drawn by `key` and its number."""
    if episode.paraphrases is None:
      return episode
    draw = np.random.default_rng([*key, episode.number]).integers(len(episode.paraphrases[0]))
    return episode.with_instruction(int(draw))

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

  def empty_error(self) -> ValueError:
    lacking = 'has a step and an instruction' if self._drop_unlabelled else 'has a step'
    return ValueError(f'{self.name}: no episode of split {self.split!r} {lacking}. Was it converted completely?')

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
    if self._proprioception is not None:
      proprioception = np.asarray(features.at(steps, self._proprioception), np.float32)
      proprioception = proprioception.reshape(len(texts), self.proprioception_size)
    actions, limited = self._actions(number, steps, len(texts))
    episode = Episode(
        number=number,
        images=self._stored_images(number, steps, len(texts)) if self._images else np.empty(0, object),
        embeddings=self._embeddings(texts, steps),
        actions=actions,
        instructions=texts,
        proprioception=proprioception, limited=limited, paraphrases=paraphrases)
    if self._check and (found := self.unusable_numbers(episode)):
      raise ValueError(f'{found[0]}' + (f' (and {len(found) - 1} other fields)' if found[1:] else '')
                       + '. Expected finite numbers of sensible size. Fix or remove the episode.')
    return episode

  def unusable_numbers(self, episode: Episode) -> list[str]:
    """Describe the first NaN, infinite or absurd number of each field."""
    paraphrases = None if episode.paraphrases is None else episode.paraphrases[1]
    fields = (('action', episode.actions, self._spec.dimension_names),
              (self._proprioception, episode.proprioception, ()),
              (self._embedding or 'instruction vector', episode.embeddings, ()),
              (f'episode_metadata/{PARAPHRASES[1]}', paraphrases, ()))
    return [f'{self.name}, episode {episode.number} of {self.split!r}, {found}'
            for field, values, names in fields if values is not None
            for found in _first_unusable(str(field), values, names)]

  def far_numbers(self, episodes: Sequence[Episode]) -> list[str]:
    """Describe numbers that are absurdly far from those of the other steps."""
    states = {e.number: e.proprioception for e in episodes if e.proprioception is not None}
    vectors = {e.number: np.abs(e.embeddings).max(1, keepdims=True, initial=0) for e in episodes}
    return [*far_actions({e.number: e.actions for e in episodes}, self._spec),
            *far_numbers(states, [f'{self._proprioception}[{i}]' for i in range(self.proprioception_size)]),
            *far_numbers(vectors, ['the largest number of an instruction vector'], _FAR_VECTOR)]

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

  def _stored_images(self, number: int, steps: dict[str, Any], length: int) -> np.ndarray:
    stored = [features.at(steps, camera) for camera in self._cameras]
    for camera, images in zip(self._cameras, stored, strict=True):
      if len(images) != length:
        raise ValueError(f'{self.name}, episode {number} of {self.split!r}: {camera!r} has {len(images)} images for '
                         f'{length} steps. Fix or remove the episode.')
    if not self.views:
      return stored[0]
    return np.stack([np.fromiter(images, object, length) for images in stored], 1)

  def _actions(self, number: int, steps: dict[str, Any], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return actions [steps, A], and which of their numbers the adapter limited."""
    where = f'{self.name}, episode {number} of {self.split!r}'
    action = self.adapter.rt1_x_action if self.rt1_x_grippers else self.adapter.action
    try:
      fields = action(steps)  # type: ignore[misc]
    except (KeyError, ValueError) as error:
      raise ValueError(f'{where}: the adapter {self.adapter.name!r} cannot read the actions: {error}. '
                       f'The steps have {sorted(self._leaves)}.') from error
    missing = set(self._spec.names) - set(fields)
    if missing:
      raise ValueError(f'{where}: the adapter {self.adapter.name!r} gives no {sorted(missing)}, which the ActionSpec '
                       f'has; it gives {sorted(fields)}. Choose another ActionSpec, or add the fields to the adapter.')
    actions = self._spec.pack({name: fields[name] for name in self._spec.names})
    if actions.shape != (length, self._spec.size):
      raise ValueError(f'{where}: the adapter {self.adapter.name!r} gives actions of shape {actions.shape}, '
                       f'expected {(length, self._spec.size)}, one per step.')
    limited = dict.fromkeys(self._spec.names, False) | (fields.limited if isinstance(fields, LimitedAction) else {})
    parts = [np.broadcast_to(limited[f.name], (length, f.size)) for f in self._spec.fields]
    return actions, np.concatenate(parts, 1)

  def _is_used(self, path: str, feature: Any) -> bool:
    """Whether to read a feature: chosen cameras and all small features."""
    if path in self._cameras:
      return self._images
    info = feature.get_serialized_info()
    single = isinstance(info, tfds.features.TensorInfo) and not info.sequence_rank and None not in feature.shape
    return single and math.prod(feature.shape) <= _MOST_NUMBERS

  def _check_features(self) -> None:
    """Check that all features are present, with the right type."""
    if self._proprioception:
      self._check_feature(self._proprioception, 'numbers', lambda f: (
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
      raise ValueError(f'{self.name} stores {stored}. Name the encoder that computes them while reading: '
                       '--pipeline.encoder hashed-ngrams/1 (built in), a folder of a Universal Sentence Encoder, or an '
                       '.npz table. RT-2 reads the texts and needs none.')
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


def _first_unusable(field: str, values: np.ndarray, names: Sequence[str]) -> Iterator[str]:
  """Yield a description of the first unusable number of a field."""
  bad = np.argwhere(unusable(values))
  if len(bad):
    step, number = bad[0]
    more = f' (and {len(bad) - 1} other numbers)' if len(bad) > 1 else ''
    yield f'step {step}: {field} {names[number] if names else number} is {values[step, number]:g}{more}'


def _worded(raw: bytes) -> str:
  return text.decode(raw) if _tidy(raw) else ''


@functools.lru_cache(1024)
def _tidy(raw: bytes) -> str:
  return text.tidy(text.decode(raw))
