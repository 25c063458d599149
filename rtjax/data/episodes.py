"""Episodes of an RLDS dataset, read through TFDS, images left encoded.

Every step of an episode is kept as recorded, the last one too. RLDS says that the last action may be a dummy; the
datasets of the Open X-Embodiment mixture record a true action there, or the one that ends the episode, and RT-1 trains
on it. Whoever converts logs whose last action is a dummy should leave that step out.
"""
import dataclasses
import difflib
import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from rtjax.actions import ActionSpec
from rtjax.data import adapters
from rtjax.data.tf import rlds, tf, tfds

_TFRECORD = tfds.core.file_adapters.FileFormat.TFRECORD


@dataclasses.dataclass(frozen=True)
class Episode:
  """One episode of L steps.

  Attributes:
    number: its place in the split that was asked for, in TFDS's order.
    images: object [L] of encoded bytes, or uint8 [L, H, W, 3] where the dataset stores pixels; empty if not asked for.
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


@dataclasses.dataclass(frozen=True, order=True)
class Chunk:
  """A run of `take` episodes inside one file, after `skip` others; `first` is the number of its first episode."""
  first: int
  file: str
  skip: int
  take: int


class Dataset:
  """The episodes of one split of a dataset, as `adapters` maps them.

  Args:
    name: a folder that holds dataset_info.json (or its parent), a `gs://` folder, or a TFDS name.
    split: in TFDS's split algebra.
    action_spec: which numbers of the adapter's actions are wanted, and in which order.
    images: whether to read images; statistics do without.
    proprioception: whether to read the robot's state; None reads it where there is one.

  Raises:
    FileNotFoundError: no such folder or TFDS dataset.
    ValueError: the split is unknown or empty, or the dataset lacks a feature that its adapter names.
  """

  def __init__(self, name: str, split: str, action_spec: ActionSpec, *, images: bool = True,
               proprioception: bool | None = False):
    self.name, self.split, self._images = name, split, images
    self._builder = open_builder(name)
    self.adapter = adapters.get(self._builder.name)
    self._spec = action_spec
    self._instructions = _file_instructions(name, self._builder, split)
    self.num_episodes = sum(i.take for i in self._instructions)
    features = self._builder.info.features
    if not isinstance(features, tfds.features.FeaturesDict) or rlds.STEPS not in features:
      raise ValueError(f'{name}: not an RLDS dataset, its features have no {rlds.STEPS!r}: {features}.')
    self._leaves = dict(_leaves(features[rlds.STEPS].feature))
    state = self.adapter.proprioception
    self._proprioception = state if proprioception or (proprioception is None and state in self._leaves) else None
    if proprioception and self._proprioception is None:
      raise ValueError(f'{name}: proprioception was asked for, but the adapter {self.adapter.name!r} names no feature '
                       'for it. Name one there, or do without.')
    self.image_feature = self._check_features()
    self._parse = self._parser()

  @property
  def identity(self) -> str:
    """Changes when other episodes, or the same in another order, are read; the folder may move."""
    info = self._builder.info
    shards = [[epath.Path(i.filename).name, i.skip, i.take] for i in self._instructions]
    return hashlib.sha256(json.dumps([info.name, str(info.version), shards]).encode()).hexdigest()[:16]

  @property
  def embedding_size(self) -> int:
    return self._leaves[self.adapter.embedding].shape[-1]

  @property
  def proprioception_size(self) -> int:
    return math.prod(self._leaves[self._proprioception].shape) if self._proprioception else 0

  @property
  def files(self) -> list[str]:
    return sorted({i.filename for i in self._instructions})

  def chunks(self, episodes: int) -> list[Chunk]:
    """The split cut into runs of at most `episodes` episodes, none across two files."""
    chunks, number = [], 0
    for i in self._instructions:
      for skip in range(0, i.take, episodes):
        chunks.append(Chunk(number + skip, i.filename, i.skip + skip, min(episodes, i.take - skip)))
      number += i.take
    return chunks

  def read(self, chunks: Sequence[Chunk]) -> Iterator[Episode]:
    """The episodes of `chunks`, in this order."""
    for chunk in _joined(chunks):
      for number, steps in enumerate(self._steps(chunk), chunk.first):
        yield self._episode(number, steps)

  def _steps(self, chunk: Chunk) -> Iterator[dict[str, Any]]:
    """The steps of each episode of a chunk, nested dicts of arrays [L, ...]."""
    place, end = 0, chunk.skip + chunk.take
    try:
      # Not a tf.data pipeline: setting one up took as long as reading 500 frames, and chunks may be small.
      for record in itertools.islice(tf.compat.v1.io.tf_record_iterator(chunk.file), end):
        if place >= chunk.skip:
          yield tf.nest.map_structure(lambda tensor: tensor.numpy(), self._parse(record))
        place += 1
    except tf.errors.OpError as error:
      raise ValueError(self._unreadable(chunk, place, error.message)) from error
    if place < end:
      raise ValueError(self._unreadable(chunk, place, 'the file ends before it'))

  def _parser(self) -> Any:
    """A function from a record to the episode's steps: nested dicts of tensors [L, ...]."""
    wanted = {path: f for path, f in self._leaves.items() if self._wanted(path, f)}
    if isinstance(wanted.get(self.adapter.image), tfds.features.Image):
      wanted[self.adapter.image] = tfds.features.Text()  # Stays bytes; SkipDecoding would copy them one by one.
    features = tfds.features.FeaturesDict({rlds.STEPS: tfds.features.Sequence(_nest(wanted))})
    return tf.function(lambda record: features.deserialize_example(record)[rlds.STEPS],
                       input_signature=[tf.TensorSpec((), tf.string)])

  def _episode(self, number: int, steps: dict[str, Any]) -> Episode:
    embeddings = np.asarray(_at(steps, self.adapter.embedding), np.float32)
    state = None
    if self._proprioception is not None:
      state = np.asarray(_at(steps, self._proprioception), np.float32).reshape(len(embeddings), -1)
    return Episode(
        number=number,
        images=_at(steps, self.adapter.image) if self._images else np.empty(0, object),
        embeddings=embeddings,
        actions=self._actions(number, steps),
        instructions=_text(_at(steps, self.adapter.instruction)),
        proprioception=state)

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
    """All small features, since an adapter's action may use any; of pictures and the like only the camera asked for."""
    if path == self.adapter.image:
      return self._images
    return len(feature.shape) < 3 and not isinstance(feature, (tfds.features.Image, tfds.features.Sequence))

  def _check_features(self) -> Any:
    """The image's feature, after a look whether all are there."""
    for path in filter(None, (self.adapter.instruction, self.adapter.embedding, self._proprioception)):
      self._feature(path)
    image = self._feature(self.adapter.image)
    if len(image.shape) != 3 or image.shape[-1] != 3 or image.np_dtype != np.uint8:
      raise ValueError(f'{self.name}: {self.adapter.image!r} is {np.dtype(image.np_dtype).name} {list(image.shape)}, '
                       'expected a uint8 image [H, W, 3]. Name another camera in the adapter.')
    return image

  def _feature(self, path: str) -> Any:
    if path not in self._leaves:
      close = difflib.get_close_matches(path, self._leaves, 1, 0.3)
      raise ValueError(f'{self.name}: the adapter {self.adapter.name!r} expects the step feature {path!r}, the dataset '
                       f'has {sorted(self._leaves)}.' + (f' Did you mean {close[0]!r}?' if close else '')
                       + ' Adapters are described in docs/your_robot.md.')
    return self._leaves[path]

  def _unreadable(self, chunk: Chunk, place: int, why: str) -> str:
    number = chunk.first + max(0, place - chunk.skip)
    return (f'{self.name}: cannot read episode {number} of {self.split!r}: record {place} of {chunk.file}: {why}. '
            'The file is missing, truncated or damaged: copy or convert it again.')


def open_builder(name: str) -> Any:
  """The TFDS builder of a dataset's folder or name; nothing is downloaded."""
  folder = epath.Path(name).expanduser()
  if '://' in name or folder.is_dir():
    return tfds.builder_from_directory(_version_folder(name, folder))
  if name.startswith(('/', '.', '~')):
    raise FileNotFoundError(f'dataset {name!r}: no such folder. Expected one with a dataset_info.json, or its parent.')
  try:
    builder = tfds.core.read_only_builder.builder_from_files(name)  # What is prepared on this machine needs no network.
  except tfds.core.registered.DatasetNotFoundError:
    builder = _registered_builder(name)
  if not builder.info.splits:
    raise FileNotFoundError(f'dataset {name!r}: TFDS knows it, but there is none in {builder.data_dir}. Prepare it '
                            'there, or name a folder that holds it; those of Open X-Embodiment are in '
                            'gs://gresearch/robotics.')
  return builder


def _registered_builder(name: str) -> Any:
  known = tfds.list_builders(with_community_datasets=False)
  if name.split('/')[0].split(':')[0] not in known:
    close = difflib.get_close_matches(name, known, 1)
    raise FileNotFoundError(f'dataset {name!r}: neither a folder nor a TFDS name.'
                            + (f' Did you mean {close[0]!r}?' if close else ' Check the path.'))
  try:
    return tfds.builder(name)
  except Exception as error:  # Builders of robot data look into gs://gresearch when they are made.
    raise FileNotFoundError(f'dataset {name!r}: TFDS knows it, but could not open it: {error}. '
                            'Name a folder that holds it instead.') from error


def _version_folder(name: str, folder: Any) -> Any:
  """`folder`, or the newest version inside it."""
  if (folder / 'dataset_info.json').exists():
    return folder
  inside = sorted(f.parent for f in folder.glob('*/dataset_info.json')) if folder.is_dir() else []
  if not inside:
    raise FileNotFoundError(f'dataset {name!r}: there is no dataset_info.json in {folder} or in a folder inside it. '
                            'Expected a folder that TFDS wrote, such as bridge_dataset/1.0.0.')
  versions = [f for f in inside if tfds.core.Version.is_valid(f.name)]
  if versions:
    return max(versions, key=lambda f: tfds.core.Version(f.name))
  if len(inside) > 1:
    raise ValueError(f'dataset {name!r}: several datasets are in this folder, name one of {[str(f) for f in inside]}.')
  return inside[0]


def _file_instructions(name: str, builder: Any, split: str) -> list[Any]:
  info = builder.info
  known = sorted(info.splits)
  try:
    chosen = info.splits[split]
  except (KeyError, ValueError) as error:
    raise ValueError(f'{name}: split {split!r} cannot be had: {error} It has {known}, and parts and sums of '
                     "them such as 'train[:90%]' or 'train+val'.") from error
  if chosen.num_examples == 0:
    raise ValueError(f'{name}: split {split!r} is empty. It has ' + ', '.join(
        f'{s} ({info.splits[s].num_examples} episodes)' for s in known) + '.')
  if info.file_format != _TFRECORD:
    raise ValueError(f'{name}: its files are {info.file_format}, expected {_TFRECORD}. '
                     'Convert them with `tfds convert_format`.')
  return [i for i in chosen.file_instructions if i.take]


def _joined(chunks: Sequence[Chunk]) -> list[Chunk]:
  """The same episodes, where one chunk continues another as one: a file is then read once."""
  joined: list[Chunk] = []
  for chunk in chunks:
    last = joined[-1] if joined else None
    if last and (last.file, last.first + last.take, last.skip + last.take) == (chunk.file, chunk.first, chunk.skip):
      joined[-1] = dataclasses.replace(last, take=last.take + chunk.take)
    else:
      joined.append(chunk)
  return joined


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


def _at(steps: dict[str, Any], path: str) -> Any:
  for key in path.split('/'):
    steps = steps[key]
  return steps


def _text(values: np.ndarray) -> np.ndarray:
  return np.array([v.decode('utf-8', 'replace') for v in values], object)
