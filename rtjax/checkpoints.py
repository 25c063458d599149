"""Reading of checkpoints: weights, configuration and metadata.

    RUN/config.json               the run's configuration
    RUN/checkpoints/STEP/state    the TrainState (orbax)
    RUN/checkpoints/STEP/metadata JSON: "format", "rtjax" (the version), "step", "checksums" (their file), "config" (the
                                  model's), "train" (the run's), "statistics", "embedding_id", "data" (position in the
                                  data, one per process), "metrics"; of a vision-language model also "tokenizer" and
                                  "lineage" (the weights it started from)
    RUN/checkpoints/STEP/metrics  JSON: metrics that decide which checkpoint is best; only where the step was validated
    RUN/checkpoints/STEP/SHA256SUMS    checksums of the files, verified before they are read

rtjax.training.checkpoint writes them.

Versions. A setting that a configuration lacks, since an older version wrote it, has its default, which is what that
version did; a warning names it. A setting that this version does not know is an error, which names the version that
wrote it. "format" rises where neither is enough.
"""
import contextlib
import dataclasses
import functools
import logging
import pathlib
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

import rtjax
from rtjax import models
from rtjax.models import PolicyConfig, PolicyModel, parameters
from rtjax.runtime import checksums, limits, serialization
from rtjax.runtime.cli import UserError, describe

FORMAT = 2
_TRIED = 20  # newest steps that are tried, should some be damaged; in a folder of 10^5 others none is a checkpoint
Tree = Any  # nested dicts with string keys and arrays as leaves
Json = dict[str, Any]
_READ_AT_ONCE = 2 ** 26  # bytes of small arrays
_TREES = 'params', 'batch_stats', 'constants', 'ema'
_SHOWN = 3  # damaged files that a message lists

UNIVERSAL_SENTENCE_ENCODER = 'universal-sentence-encoder-large/5'
"""Instruction encoder of the released policies (RT-1, section 5.1; tfhub.dev)."""


class CheckpointError(UserError):
  """A checkpoint could not be written or read."""


@dataclasses.dataclass(frozen=True)
class PolicyMetadata:
  """Metadata that a policy needs besides the weights.

  Attributes:
    path: the file or folder that was read.
    embedding_id: instruction encoder that made the embeddings of the training data; '' where unknown.
    image_size: height and width that the training pipeline resized images to, aspect kept and padded with black; None:
      images reach the model as they are.
    views: names of the cameras, in the order of the images.
    camera: name of the single camera, where there are no views; empty: the main one.
    step: training step; None for weights that were not trained by rtjax.
    statistics: of each training dataset, see `rtjax.data.statistics`.
    training: the run's configuration as JSON.
    lineage: the weights that the run started from, see training/lineage.py.
  """
  path: str = ''
  embedding_id: str = ''
  image_size: tuple[int, int] | None = None
  views: tuple[str, ...] = ()
  step: int | None = None
  statistics: Json = dataclasses.field(default_factory=dict)
  training: Json = dataclasses.field(default_factory=dict)
  lineage: Json = dataclasses.field(default_factory=dict)
  camera: str = ''

  @classmethod
  def from_json(cls, path: epath.PathLike, data: Json) -> Self:
    """Return the metadata of a checkpoint's JSON.

    Raises:
      CheckpointError: an entry is missing or of another type.
    """
    read: Callable[[Any, Any], Any] = serialization.from_json  # also of unions, which are no `type`
    try:
      pipeline = limits.json_object(data['train']['pipeline'], 'train.pipeline')  # older versions had fewer settings
      return cls(str(path), read(data['embedding_id'], str), read(pipeline.get('image_size'), tuple[int, int] | None),
                 read(pipeline.get('views', []), tuple[str, ...]), read(data['step'], int | None),
                 limits.json_object(data['statistics'], 'statistics'), limits.json_object(data['train'], 'train'),
                 limits.json_object(data.get('lineage') or {}, 'lineage'), read(pipeline.get('camera', ''), str))
    except (KeyError, TypeError, ValueError) as error:
      raise CheckpointError(f'the metadata of the checkpoint at {path} cannot be read: {describe(error)}.') from error

  def recorded_sizes(self) -> list[tuple[int, int]]:
    """Return the different sizes (height, width) of the training data's images."""
    return sorted({tuple(entry['image_size']) for entry in self.statistics.values() if entry.get('image_size')})

  def input_size(self) -> tuple[int, int] | None:
    """Return the size of the model's training images; None if unknown."""
    sizes = self.recorded_sizes()
    return self.image_size or (sizes[0] if len(sizes) == 1 else None)

  def camera_size(self) -> tuple[int, int] | None:
    """Return the size of the training data's images; None if unknown.

    For datasets that differ, it is the size that they were resized to.

    Raises:
      ValueError: the datasets differ, and nothing tells which size they were resized to.
    """
    sizes = self.recorded_sizes()
    if len(sizes) == 1:
      return sizes[0]
    if sizes and not self.image_size:
      raise ValueError(f'{self.path} was trained on images of several sizes, {sizes} (height, width): choose one with '
                       '--image-size.')
    return self.image_size


def is_checkpoint(path: epath.PathLike) -> bool:
  """Return whether `path` is a run with checkpoints, or a step."""
  return bool(_candidates(path))


class UnreadWeights(NamedTuple):
  """Weights of a model, whose numbers are read when they are needed.

  Attributes:
    config: the model's configuration.
    shapes: shape of each variable; layers are stacked or apart.
    read: from names of variables to pairs of name and numbers; holds few of them at a time.
  """
  config: PolicyConfig
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[Collection[str]], Iterator[tuple[str, np.ndarray]]]


def load(path: epath.PathLike, *, verify: bool = True) -> tuple[PolicyModel, PolicyMetadata]:
  """Return the model and the metadata of a checkpoint.

  The weights are the moving average of the parameters if the run keeps one. Arguments and errors as for `load_weights`.
  """
  data, weights = load_weights(path, verify=verify)
  trees = weights.get('ema', weights['params']), weights['batch_stats'], weights['constants']
  model = models.from_values(model_config(path, data), {
      name: value for tree in trees for name, value in parameters.named_leaves(tree).items()})
  attach_tokenizer(model, data)
  return model, PolicyMetadata.from_json(path, data)


def model_config(path: epath.PathLike, data: Json) -> PolicyConfig:
  """Return the model's configuration in the JSON of a checkpoint or export.

  A warning names the settings that it lacks, see the module's docstring.

  Args:
    path: of the checkpoint, for messages.

  Raises:
    CheckpointError: settings are unknown or damaged; names the version that wrote them.
  """
  try:
    config = models.config_from_json(data.get('config'))
  except ValueError as error:
    raise CheckpointError(f'the model in {path} cannot be read: {error}{version_advice(data)}') from error
  if added := serialization.missing(data['config'], models.config_to_json(config)):
    warnings.warn(describe_defaults(path, data, added), stacklevel=3)
  return config


def describe_defaults(path: epath.PathLike, data: Json, added: Json) -> str:
  """Describe the settings that a run lacks, with their defaults."""
  settings = ', '.join(f'{name} = {limits.short(value)}' for name, value in added.items())
  return f'{path} was written by {_writer(data)}, without these settings, whose defaults hold: {settings}.'


def version_advice(data: Json) -> str:
  """Return the advice about the version that wrote a checkpoint."""
  if data.get('rtjax') == rtjax.__version__:
    return ''
  return (f' It was written by {_writer(data)}, this is rtjax {rtjax.__version__}: read it with that version, or with '
          'a newer one.')


def _writer(data: Json) -> str:
  version = data.get('rtjax')
  return f'rtjax {version[:20]}' if isinstance(version, str) else 'a version of rtjax that did not name itself'


def attach_tokenizer(model: PolicyModel, data: Json) -> None:
  """Set the tokenizer that a checkpoint or export holds, if any."""
  if data.get('tokenizer') is not None:
    from rtjax.language.tokenizer import Tokenizer  # needs sentencepiece
    model.set_tokenizer(Tokenizer.from_json(data['tokenizer']))


def load_weights(path: epath.PathLike, *, verify: bool = True) -> tuple[Json, dict[str, Tree]]:
  """Read the weights of a checkpoint, written on any devices.

  Args:
    path: a run folder (its newest complete checkpoint is taken) or the folder of one step.
    verify: compare the checksums of its files first.

  Returns:
    The JSON (see the module's docstring), and NumPy trees `params`, `batch_stats`, `constants` and, if the run keeps
    one, `ema`.

  Raises:
    FileNotFoundError: there is no checkpoint at `path`.
    CheckpointError: the checkpoint is damaged, or of another format; names an older one that can be read.
  """
  folder = _existing(path)[0]
  limits.check_all_downloaded(folder)
  with _readable(folder):
    return _read(folder, verify)


def open_weights(path: epath.PathLike, *, verify: bool = True) -> UnreadWeights:
  """Open the weights of `load` without reading them.

  Arguments and errors as for `load_weights`.
  """
  folder = _existing(path)[0]
  limits.check_all_downloaded(folder)
  with _readable(folder):
    data = _read_checked_json(folder, verify)
    trees = _describe_arrays(folder / 'state', _TREES)
  trees.pop('params' if 'ema' in trees else 'ema', None)
  leaves = {name: (part, leaf) for part, tree in trees.items() for name, leaf in parameters.named_leaves(tree).items()}

  def read(names: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    for group in _groups({name: leaves[name][1] for name in names}):
      with _readable(folder):
        found = _restore(folder / 'state', _nested({f'{leaves[name][0]}/{name}': leaves[name][1] for name in group}))
      values = {name: value for tree in found.values() for name, value in parameters.named_leaves(tree).items()}
      del found
      for name in group:
        yield name, values.pop(name)

  return UnreadWeights(model_config(folder, data),
                       {name: tuple(leaf.shape) for name, (_, leaf) in leaves.items()}, read)


def _groups(leaves: Mapping[str, Any]) -> Iterator[list[str]]:
  """Yield names of arrays to read at once."""
  group: list[str] = []
  size = 0
  for name, leaf in leaves.items():
    more = limits.array_bytes(leaf.shape, leaf.dtype)
    if group and size + more > _READ_AT_ONCE:
      yield group
      group, size = [], 0
    group, size = [*group, name], size + more
  if group:
    yield group


def _nested(leaves: Mapping[str, Any]) -> Tree:
  """Return the tree of leaves by path."""
  tree: Tree = {}
  for path, leaf in leaves.items():
    *above, last = path.split('/')
    functools.reduce(lambda part, key: part.setdefault(key, {}), above, tree)[last] = leaf
  return tree


def check_files(folder: epath.Path, part: slice = slice(None)) -> None:
  """Compare the files of one step with their checksums.

  A checkpoint written before there were checksums passes.

  Args:
    part: share of the files, for several processes.

  Raises:
    CheckpointError: names the files that are missing or have other contents.
  """
  if not (folder / checksums.NAME).exists():
    if read_step_json(folder).get('checksums'):
      raise CheckpointError(f'{checksums.NAME} is missing')
    return
  problems = checksums.problems(folder, part)
  if problems:
    more = f', and {len(problems) - _SHOWN} more files' if len(problems) > _SHOWN else ''
    raise CheckpointError(', '.join(problems[:_SHOWN]) + more)


def read_json(path: epath.PathLike) -> Json:
  """Return the JSON of a checkpoint; errors as for `load_weights`."""
  for folder in _existing(path):
    with contextlib.suppress(OSError, ValueError):
      return read_step_json(folder)
  raise CheckpointError(f'the metadata of the checkpoint at {path} cannot be read.')


def read_step_json(folder: epath.Path | pathlib.Path) -> Json:
  """Return the JSON in the folder of one step."""
  file = folder / 'metadata' / 'metadata'
  return limits.json_object(limits.read_json(file), file)


def steps(folder: epath.Path) -> list[int]:
  """Return the steps with a complete folder, the newest first."""
  if not folder.is_dir():
    return []
  return sorted((int(p.name) for p in folder.iterdir() if p.name.isdecimal()), reverse=True)


def silence_orbax() -> None:
  """Hide orbax's warnings about missing metrics and metadata, which are intended."""
  logging.getLogger('absl').setLevel(logging.ERROR)


def _existing(path: epath.PathLike) -> list[epath.Path]:
  candidates = _candidates(path)
  if not candidates:
    raise FileNotFoundError(f'no checkpoint at {path}: expected a run folder (with checkpoints/STEP in it) or the '
                            'folder of one step.')
  return candidates


def _candidates(path: epath.PathLike) -> list[epath.Path]:
  """Return the newest _TRIED folders of steps at `path`."""
  folder = epath.Path(path).expanduser().resolve()
  for step in (folder, folder.parent) if folder.name == 'state' else (folder,):
    if (step / 'state').is_dir() and ((step / 'metadata').is_dir() or (step / checksums.NAME).exists()):
      return [step]
  if (folder / 'checkpoints').is_dir():
    folder = folder / 'checkpoints'
  return [path for step in steps(folder)[:_TRIED] if (path := folder / str(step)).is_dir()]


@contextlib.contextmanager
def _readable(folder: epath.Path) -> Iterator[None]:
  """Explain an error of the reading inside."""
  try:
    yield
  except Exception as error:  # orbax, tensorstore and JSON each fail in their own ways on a damaged file
    raise CheckpointError(f'the checkpoint {folder} cannot be read: {describe(error)}. {_advice(folder)}') from error


def _read(folder: epath.Path, verify: bool) -> tuple[Json, dict[str, Tree]]:
  return _read_checked_json(folder, verify), read_arrays(folder / 'state', _TREES)


def _read_checked_json(folder: epath.Path, verify: bool) -> Json:
  if verify:
    check_files(folder)
  data = read_step_json(folder)
  if data.get('format') != FORMAT:
    found = f'it is of format {limits.short(data.get("format"))}, this rtjax reads format {FORMAT}.'
    raise CheckpointError(f'{found}{version_advice(data)}'.rstrip('.'))
  return data


def _advice(damaged: epath.Path) -> str:
  """Name the newest checkpoint before a damaged one that can be read."""
  older = [step for step in steps(damaged.parent) if damaged.name.isdigit() and step < int(damaged.name)]
  for step in older:
    with contextlib.suppress(Exception):
      _read(damaged.parent / str(step), verify=True)
      return f'That of step {step} is whole: give {damaged.parent / str(step)}.'
  return 'There is no older one that can be read; copy it again.'


def read_arrays(folder: epath.Path, names: Collection[str]) -> dict[str, Tree]:
  """Read parts of an orbax tree as NumPy arrays.

  Any devices may have written them.

  Args:
    names: keys at the top of the tree; those that it lacks are left out.
  """
  return _restore(folder, _describe_arrays(folder, names))


def _describe_arrays(folder: epath.Path, names: Collection[str]) -> dict[str, Tree]:
  """Return shapes and types of parts of an orbax tree."""
  silence_orbax()
  with ocp.PyTreeCheckpointer() as reader:
    stored = reader.metadata(folder).item_metadata.tree
  wanted = {name: stored[name] for name in names if stored.get(name) is not None}
  limits.check_inflation(sum(limits.array_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(wanted)), folder)
  return wanted


def _restore(folder: epath.Path, wanted: Tree) -> Tree:
  """Read arrays of an orbax tree into NumPy arrays."""
  on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
  with ocp.PyTreeCheckpointer() as reader:
    return reader.restore(folder, args=ocp.args.PyTreeRestore(item=wanted, restore_args=on_host, partial_restore=True))
