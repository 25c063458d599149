"""Resolve dataset names and folders to TFDS builders and files, without downloads."""
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from rtjax.data import names
from rtjax.data.tf import tfds
from rtjax.runtime import cli, limits

_TFRECORD = tfds.core.file_adapters.FileFormat.TFRECORD
_RECORD_FRAME = 16  # bytes around each record of a TFRecord file: its length and two checksums

# TFDS imports the module of any other class that features.json names, which runs its code.
_FEATURES = frozenset(name for name in tfds.features.FeatureConnector._registered_features
                      if name.startswith('tensorflow_datasets.'))
_CLASS_KEYS = ('type', 'pythonClassName', 'python_class_name')


def open_builder(name: str) -> Any:
  """Return the TFDS builder of a dataset's folder or name.

  Raises:
    FileNotFoundError, NotADirectoryError: there is no such dataset.
    ValueError: the folder holds several datasets; or its description is damaged, beyond a bound, or names a class
      that is not one of TFDS's features.
  """
  names.require(name)
  folder = epath.Path(name).expanduser()
  if '://' in name or folder.is_dir():
    return _open_folder(name, _version_folder(name, folder))
  prepared = names.prepared_folder(name)  # needs no network
  builder = _open_folder(name, prepared) if prepared else _registered_builder(name)
  if not builder.info.splits:
    raise FileNotFoundError(f'dataset {name!r}: TFDS knows it, but there is none in {builder.data_dir}. Prepare it '
                            'there, or name a folder that holds it; those of Open X-Embodiment are in '
                            'gs://gresearch/robotics.')
  return builder


def _open_folder(name: str, folder: epath.Path) -> Any:
  """Check the description of a dataset's folder; return its builder."""
  _check_description(folder)
  try:
    return tfds.builder_from_directory(folder)
  except Exception as error:  # TFDS checks little, and fails in many ways on a description that is none
    raise ValueError(f'dataset {name!r}: its dataset_info.json or features.json cannot be used: {cli.describe(error)}. '
                     'Copy or convert it again.') from error


def _check_description(folder: epath.Path) -> None:
  """Check the JSON files of a dataset.

  Raises:
    ValueError: they are no JSON objects, beyond a bound, lead out of the folder, or name another class.
  """
  for file in ('dataset_info.json', 'features.json', 'metadata.json'):
    path = folder / file
    if not path.exists():
      continue
    _require_inside(path)
    content = limits.json_object(limits.read_json(path), path)
    if file == 'features.json':
      for class_name in _class_names(content):
        if class_name not in _FEATURES:
          raise ValueError(f'{path} names the class {class_name!r}, expected one of tfds.features only: TFDS would '
                           'import its module, which runs the code in it. Convert the dataset with plain features.')
    if file == 'dataset_info.json':
      _check_splits(path, content)


def _check_splits(path: epath.Path, info: dict[str, Any]) -> None:
  """Check the names and counts of the splits, which give file names."""
  limits.check_name(info.get('name', ''), f'the name in {path}')
  splits = info.get('splits', [])
  for split in splits if isinstance(splits, list) else ():
    split = limits.json_object(split, f'a split in {path}')
    for key in ('name', 'filepathTemplate', 'filepath_template'):
      limits.check_name(split.get(key, ''), f'{key!r} of a split in {path}')
    counts = split.get('shardLengths', [])
    if isinstance(counts, list) and len(counts) > limits.SHARDS:
      raise limits.BoundError(f'a split in {path} has {len(counts):,} files, expected at most {limits.SHARDS:,}.')
    if not isinstance(counts, list) or any(str(count).startswith('-') for count in counts):
      raise ValueError(f'a split in {path} counts {limits.short(counts)} records, expected a list, no number '
                       'negative.')


def _class_names(value: Any) -> Iterator[object]:
  """Yield the classes that serialized features name, also inside strings."""
  if isinstance(value, str) and value.lstrip()[:1] in ('{', '['):
    yield from _class_names(limits.parse_json(value, 'the JSON inside features.json'))
  elif isinstance(value, list):
    for inner in value:
      yield from _class_names(inner)
  elif isinstance(value, dict):
    for key, inner in value.items():
      if key in _CLASS_KEYS and not isinstance(inner, dict):  # a dict is a feature of this name
        yield inner
      else:
        yield from _class_names(inner)


def _require_inside(file: Any) -> None:
  """Require that a local file is no link out of its folder."""
  if '://' not in os.fspath(file):
    limits.inside(os.path.dirname(file), os.path.basename(file))


def _registered_builder(name: str) -> Any:
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
    raise names.no_dataset_info(name, folder)
  versions = [f for f in inside if tfds.core.Version.is_valid(f.name)]
  if versions:
    return max(versions, key=lambda f: tfds.core.Version(f.name))
  if len(inside) > 1:
    raise ValueError(f'dataset {name!r}: several datasets are in this folder, name one of {[str(f) for f in inside]}.')
  return inside[0]


def file_instructions(name: str, builder: Any, split: str) -> list[Any]:
  """Return TFDS's file instructions of a split.

  Each names a file, and the number of its records to skip and to take.

  Raises:
    ValueError: the split is unknown or empty, or its files are not TFRecord files.
  """
  info = builder.info
  known = sorted(info.splits)
  try:
    chosen = info.splits[split]
  except (KeyError, ValueError) as error:
    raise ValueError(f'{name}: unknown split {split!r}: {error} It has {known}, and parts and sums of them such as '
                     "'train[:90%]' or 'train+val'.") from error
  if chosen.num_examples == 0:
    raise ValueError(f'{name}: split {split!r} is empty. It has ' + ', '.join(
        f'{s} ({info.splits[s].num_examples} episodes)' for s in known) + '.')
  if info.file_format != _TFRECORD:
    raise ValueError(f'{name}: its files are {info.file_format}, expected {_TFRECORD}. '
                     'Convert them with `tfds convert_format`.')
  instructions = [i for i in chosen.file_instructions if i.take]
  for i in instructions:
    _check_count(name, i)
  if (count := sum(i.take for i in instructions)) > limits.RECORDS:
    raise limits.BoundError(f'{name}: split {split!r} has {count:,} records, expected at most {limits.RECORDS:,}.')
  return instructions


def _check_count(name: str, instruction: Any) -> None:
  """Check that a local file can hold its number of records."""
  file, count = instruction.filename, instruction.skip + instruction.take
  if '://' in file or not os.path.exists(file):  # the error of a missing file comes when it is read
    return
  _require_inside(file)
  limits.check_file(file)
  if not 0 < count <= (size := os.path.getsize(file)) // _RECORD_FRAME:
    raise limits.BoundError(f'{name}: dataset_info.json counts {count:,} records in {file}, which has {size:,} bytes '
                            f'and can hold {size // _RECORD_FRAME:,}. The file is truncated, or the count is wrong.')
