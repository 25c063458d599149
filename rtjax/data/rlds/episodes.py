"""Episodes of an RLDS dataset, read through TFDS, images left encoded.

Every step of an episode is kept as recorded, the last one too. RLDS says that the last action may be a dummy; the
datasets of the Open X-Embodiment mixture record a true action there, or the one that ends the episode, and RT-1 trains
on it. Whoever converts logs whose last action is a dummy should leave that step out.
"""
import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rtjax.actions import ActionSpec
from rtjax.data.records import Chunk, Records
from rtjax.data.rlds import adapters
from rtjax.data.tf import rlds, tf, tfds


@dataclasses.dataclass(frozen=True)
class Episode:
  """One episode of L steps.

  Attributes:
    number: its place in the split that was asked for, in TFDS's order.
    images: object [L] of encoded bytes, or uint8 [L, H, W, 3] where the dataset stores pixels; empty if not asked for.
      With views object [L, V], of bytes or of uint8 [H, W, 3].
    embeddings: float32 [L, 512] of the instruction.
    actions: float32 [L, A] in the ActionSpec's units.
    instructions: str [L] (object).
    proprioception: float32 [L, P], or None.
  """
  number: int
  images: np.ndarray
  embeddings: np.ndarray
  actions: np.ndarray
  instructions: np.ndarray
  proprioception: np.ndarray | None

  def __len__(self) -> int:
    return len(self.actions)

  def image(self, step: int, view: int = 0) -> Any:
    """One image as stored."""
    return self.images[step, view] if self.images.ndim == 2 else self.images[step]


class Dataset(Records):
  """The episodes of one split of a dataset, as `adapters` maps them.

  Args:
    name: a folder that holds dataset_info.json (or its parent), a `gs://` folder, or a TFDS name.
    split: in TFDS's split algebra.
    action_spec: which numbers of the adapter's actions are wanted, and in which order.
    images: whether to read images; statistics do without.
    views: the cameras to read, by the adapter's names; none reads its main one.
    proprioception: whether to read the robot's state; None reads it where there is one.

  Raises:
    FileNotFoundError: no such folder or TFDS dataset.
    ValueError: the split is unknown or empty, or the dataset lacks a feature that its adapter names.
  """

  def __init__(self, name: str, split: str, action_spec: ActionSpec, *, images: bool = True,
               views: Sequence[str] = (), proprioception: bool | None = False):
    super().__init__(name, split)
    self.views, self._images = tuple(views), images
    self.adapter = adapters.get(self._builder.name, self._builder.info.metadata)
    self._spec = action_spec
    features = self._builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict) or rlds.STEPS not in features:
      raise ValueError(f'{name}: not an RLDS dataset, its features have no {rlds.STEPS!r}: {features}.')
    self._leaves = dict(_leaves(features[rlds.STEPS].feature))
    state = self.adapter.proprioception
    self._proprioception = state if proprioception or (proprioception is None and state in self._leaves) else None
    if proprioception and self._proprioception is None:
      raise ValueError(f'{name}: proprioception was asked for, but the adapter {self.adapter.name!r} names no feature '
                       'for it. Name one there, or do without.')
    self._cameras = [self.adapter.camera(view) for view in views or ['image']]
    self._check_features()
    self._read = {path: f for path, f in self._leaves.items() if self._wanted(path, f)}

  @property
  def image_features(self) -> list[Any]:
    """The TFDS feature of each camera."""
    return [self._leaves[camera] for camera in self._cameras]

  @property
  def image_feature(self) -> Any:
    """That of the first."""
    return self.image_features[0]

  @property
  def embedding_size(self) -> int:
    return self._leaves[self.adapter.embedding].shape[-1]

  @property
  def proprioception_size(self) -> int:
    return math.prod(self._leaves[self._proprioception].shape) if self._proprioception else 0

  @property
  def picture(self) -> list[int] | None:
    """[height, width] of the main camera's pictures; None where they vary."""
    height, width, _ = self.image_feature.shape
    return [height, width] if height and width else None

  @property
  def renderer(self) -> str | None:
    """What made a simulated dataset's pictures, as its metadata says; None for others."""
    return (self._builder.info.metadata or {}).get('renderer')

  def read(self, chunks: Sequence[Chunk]) -> Iterator[Episode]:
    """The episodes of `chunks`, in this order."""
    for number, record in self.records(chunks):
      yield self._episode(number, self._parse(record))

  def sentences(self) -> Iterator[tuple[str, np.ndarray]]:
    """Each step's instruction and its embedding, float32 [512], in order; actions are not looked at."""
    for _, record in self.records(self.chunks(self.num_episodes)):
      steps = self._parse(record)
      embeddings = np.asarray(_at(steps, self.adapter.embedding), np.float32)
      yield from zip(_text(_at(steps, self.adapter.instruction)), embeddings, strict=True)

  def no_steps(self) -> ValueError:
    return ValueError(f'{self.name}: no episode of split {self.split!r} has a step. Was it converted completely?')

  def _parse(self, record: tf.train.Example) -> dict[str, Any]:
    """The steps of an episode: nested dicts of arrays [L, ...]."""
    # TFDS's deserialize_example gives the same (tested) in three to eight times the time.
    stored = record.features.feature
    return _nest({path: _array(stored[f'{rlds.STEPS}/{path}'], feature) for path, feature in self._read.items()})

  def _episode(self, number: int, steps: dict[str, Any]) -> Episode:
    embeddings = np.asarray(_at(steps, self.adapter.embedding), np.float32)
    state = None
    if self._proprioception is not None:
      state = np.asarray(_at(steps, self._proprioception), np.float32)
      state = state.reshape(len(embeddings), self.proprioception_size)
    return Episode(
        number=number,
        images=self._stored_images(number, steps, len(embeddings)) if self._images else np.empty(0, object),
        embeddings=embeddings,
        actions=self._actions(number, steps),
        instructions=_text(_at(steps, self.adapter.instruction)),
        proprioception=state)

  def _stored_images(self, number: int, steps: dict[str, Any], length: int) -> np.ndarray:
    found = [_at(steps, camera) for camera in self._cameras]
    for camera, images in zip(self._cameras, found, strict=True):
      if len(images) != length:
        raise ValueError(f'{self.name}, episode {number} of {self.split!r}: {camera!r} has {len(images)} images for '
                         f'{length} steps. Mend or drop the episode.')
    if not self.views:
      return found[0]
    return np.stack([np.fromiter(images, object, length) for images in found], 1)

  def _actions(self, number: int, steps: dict[str, Any]) -> np.ndarray:
    where = f'{self.name}, episode {number} of {self.split!r}'
    try:
      fields = self.adapter.action(steps)
    except (KeyError, ValueError) as error:
      raise ValueError(f'{where}: the adapter {self.adapter.name!r} cannot read the actions: {error}. '
                       f'The steps have {sorted(self._leaves)}.') from error
    missing = set(self._spec.names) - set(fields)
    if missing:
      raise ValueError(f'{where}: the adapter {self.adapter.name!r} gives no {sorted(missing)}, which the ActionSpec '
                       f'has; it gives {sorted(fields)}. Choose another ActionSpec, or add the fields to the adapter.')
    actions = self._spec.pack({name: fields[name] for name in self._spec.names})
    length = len(_at(steps, self.adapter.embedding))
    if actions.shape != (length, self._spec.size):
      raise ValueError(f'{where}: the adapter {self.adapter.name!r} gives actions of shape {actions.shape}, '
                       f'expected {(length, self._spec.size)}, one per step.')
    bad = np.argwhere(~np.isfinite(actions))
    if len(bad):
      step, dimension = bad[0]
      raise ValueError(f'{where}, step {step}: action {self._spec.number_names[dimension]} is '
                       f'{actions[step, dimension]}, expected a finite number. Mend or drop the episode.')
    return actions

  def _wanted(self, path: str, feature: Any) -> bool:
    """All small features, since an adapter's action may use any; of pictures and the like the cameras asked for."""
    if path in self._cameras:
      return self._images
    info = feature.get_serialized_info()
    single = isinstance(info, tfds.features.TensorInfo) and not info.sequence_rank and None not in feature.shape
    return single and len(feature.shape) < 3

  def _check_features(self) -> None:
    """Whether all are there and of the right kind."""
    if self._proprioception:
      self._feature(self._proprioception, 'numbers', lambda f: _kind(f) in 'biuf' and None not in f.shape)
    self._feature(self.adapter.instruction, 'text', lambda f: _kind(f) == 'O' and f.shape == ())
    self._feature(self.adapter.embedding, 'a vector', lambda f: _kind(f) == 'f' and len(f.shape) == 1)
    for camera in self._cameras:
      self._feature(camera, 'a uint8 image [H, W, 3]', lambda f: (
          f.np_dtype == np.uint8 and len(f.shape) == 3 and f.shape[2] == 3
          and (isinstance(f, tfds.features.Image) or None not in f.shape)))

  def _feature(self, path: str, expected: str, good: Callable[[Any], bool]) -> None:
    if path not in self._leaves:
      close = difflib.get_close_matches(path, self._leaves, 1, 0.3)
      raise ValueError(f'{self.name}: the adapter {self.adapter.name!r} expects the step feature {path!r}, the dataset '
                       f'has {sorted(self._leaves)}.' + (f' Did you mean {close[0]!r}?' if close else '')
                       + ' Adapters are described in docs/your_robot.md.')
    feature = self._leaves[path]
    if not good(feature):
      raise ValueError(f'{self.name}: {path!r} is {np.dtype(feature.np_dtype).name} {list(feature.shape)}, expected '
                       f'{expected}. Name another feature in the adapter {self.adapter.name!r}.')


def _leaves(feature: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
  if isinstance(feature, tfds.features.FeaturesDict):
    for key, value in feature.items():
      yield from _leaves(value, (*path, key))
  else:
    yield '/'.join(path), feature


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
  nested: dict[str, Any] = {}
  for path, value in flat.items():
    *folders, leaf = path.split('/')
    inner = nested
    for key in folders:
      inner = inner.setdefault(key, {})
    inner[leaf] = value
  return nested


def _kind(feature: Any) -> str:
  """NumPy's letter for the type of a feature; 'O' for text."""
  return np.dtype(feature.np_dtype).kind


def _array(stored: Any, feature: Any) -> np.ndarray:
  """[L, ...]: one feature in all steps of an episode, from a tf.train.Feature. Images and texts stay bytes."""
  kind = stored.WhichOneof('kind')
  values = getattr(stored, kind).value if kind else []
  if isinstance(feature, tfds.features.Image):
    return np.array(values, object)
  if kind == 'bytes_list' and _kind(feature) != 'O':  # a tensor that TFDS stored as bytes or compressed
    values = [feature.decode_example_np(value) for value in values]
  return np.array(values, feature.np_dtype).reshape(-1, *feature.shape)


def _at(steps: dict[str, Any], path: str) -> Any:
  for key in path.split('/'):
    steps = steps[key]
  return steps


def _text(values: np.ndarray) -> np.ndarray:
  return np.array([v.decode('utf-8', 'replace') for v in values], object)
