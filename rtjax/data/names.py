"""Names and folders of datasets, checked without TensorFlow."""
from etils import epath

from rtjax.runtime.suggest import did_you_mean


def require(name: str) -> None:
  """Require a dataset's folder or a name that TFDS knows.

  Folders in the cloud are not looked at.

  Raises:
    FileNotFoundError, NotADirectoryError: there is no such dataset.
  """
  folder = epath.Path(name).expanduser()
  if '://' in name:
    return
  if folder.is_dir():
    if not is_dataset(name):
      raise no_dataset_info(name, folder)
  elif folder.exists():
    raise NotADirectoryError(f'dataset {name!r} is a file, expected the folder of a dataset, with a dataset_info.json, '
                             'or its parent.')
  elif name.startswith(('/', '.', '~')):
    raise FileNotFoundError(f'dataset {name!r}: no such folder. Expected one with a dataset_info.json, or its parent.')
  else:
    _require_known(name)


def is_dataset(name: str) -> bool:
  """Return whether this is the folder of a dataset of episodes."""
  folder = epath.Path(name).expanduser()
  return is_lerobot(name) or any(path for level in ('', '*/') for path in folder.glob(f'{level}dataset_info.json'))


def is_lerobot(name: str) -> bool:
  """Return whether this is the folder of a LeRobot dataset."""
  return '://' not in name and (epath.Path(name).expanduser() / 'meta/info.json').is_file()


def require_image_text(name: str) -> None:
  """Require a folder of JSONL or tar shards, or a dataset.

  Raises: as `require`.
  """
  folder = epath.Path(name).expanduser()
  if '://' in name or not any(path for suffix in ('*.jsonl', '*.tar') for path in folder.glob(suffix)):
    require(name)


def no_dataset_info(name: str, folder: epath.Path) -> FileNotFoundError:
  """Return the error of a folder that is no dataset."""
  return FileNotFoundError(f'dataset {name!r}: there is no dataset_info.json in {folder} or in a folder inside it, and '
                           'no meta/info.json. Expected a folder that TFDS wrote, such as bridge_dataset/1.0.0, or a '
                           'LeRobot dataset.')


def prepared_folder(name: str) -> epath.Path | None:
  """Find the folder of a dataset prepared on this machine."""
  # `builder_from_files` finds it in the same way, but imports the classes of its features at once.
  import tensorflow_datasets as tfds  # imports TensorFlow only when it reads
  with tfds.core.utils.error_utils.record_error_context():
    try:
      return tfds.core.read_only_builder._find_builder_dir(name)
    except ValueError:  # not a name that TFDS can parse
      return None


def _require_known(name: str) -> None:
  import tensorflow_datasets as tfds
  known = tfds.list_builders(with_community_datasets=False)
  if name.split('/')[0].split(':')[0] not in known and not prepared_folder(name):
    raise FileNotFoundError(f'dataset {name!r}: neither a folder nor a TFDS name.'
                            + (did_you_mean(name, known) or ' Check the path.'))
