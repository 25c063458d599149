"""Resolve dataset names and folders to TFDS builders and files, without downloads."""
from typing import Any

from etils import epath

from rtjax.data import names
from rtjax.data.tf import tfds

_TFRECORD = tfds.core.file_adapters.FileFormat.TFRECORD


def open_builder(name: str) -> Any:
  """Return the TFDS builder of a dataset's folder or name.

  Raises:
    FileNotFoundError, NotADirectoryError: there is no such dataset.
    ValueError: the folder holds several datasets.
  """
  names.require(name)
  folder = epath.Path(name).expanduser()
  if '://' in name or folder.is_dir():
    return tfds.builder_from_directory(_version_folder(name, folder))
  try:
    builder = tfds.core.read_only_builder.builder_from_files(name)  # prepared on this machine: needs no network
  except ValueError:  # absent, or not a name that TFDS can parse
    builder = _registered_builder(name)
  if not builder.info.splits:
    raise FileNotFoundError(f'dataset {name!r}: TFDS knows it, but there is none in {builder.data_dir}. Prepare it '
                            'there, or name a folder that holds it; those of Open X-Embodiment are in '
                            'gs://gresearch/robotics.')
  return builder


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
  return [i for i in chosen.file_instructions if i.take]
